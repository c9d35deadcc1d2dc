"""Compiled programs, one for each shape of a batch."""

import time
from collections.abc import Callable
from typing import Any

import jax


class Programs:
    """A jitted function that is compiled ahead of its first call for every shape of a batch."""

    def __init__(
        self, function: jax.stages.Wrapped, report: Callable[[str], None] = lambda line: None
    ) -> None:
        """Takes a `jax.jit` function whose last argument is a `types.Batch` or `Images`.

        The others have the same shapes at every call.  `report` gets a line at each compilation.
        """
        self.seconds = 0.0  # spent compiling so far
        self._function, self._report = function, report
        self._compiled: dict[tuple[int, ...], jax.stages.Compiled] = {}

    def __call__(self, *arguments: Any) -> Any:
        """Returns what the function returns, compiling first if need be."""
        self.compile(*arguments)
        return self._compiled[arguments[-1].image.shape](*arguments)

    def compile(self, *arguments: Any) -> bool:
        """Compiles for arguments (or their `jax.ShapeDtypeStruct`s); tells whether that was new."""
        shape = arguments[-1].image.shape
        if shape in self._compiled:
            return False
        self._report(f"compiling for images of {shape[1]} x {shape[2]}")
        begun = time.perf_counter()
        self._compiled[shape] = self._function.lower(*arguments).compile()
        self.seconds += time.perf_counter() - begun
        return True
