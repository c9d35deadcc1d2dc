"""Compiled programs, one for each shape of a batch, kept from one process to the next."""

import contextlib
import ctypes
import functools
import hashlib
import os
import pickle
import re
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import serialize_executable
from jax.extend.backend import get_backend

from jaxdet.environment import cpu_features, is_intel_avx512, versions
from jaxdet.errors import InputError, complain
from jaxdet.files import cache_folder, make_folder, open_regular, write_whole

DIGEST = hashlib.sha256().digest_size
_UNUSABLE = re.compile(r"Error \w+ing persistent compilation cache entry for '(.*?)': (.*)")


# Parameters of glibc's mallopt, and what they are set to.
_MALLOC = {
    -8: 1,  # M_ARENA_MAX: one heap, for all threads
    -4: 0,  # M_MMAP_MAX: large buffers come from it, too,
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD: and their memory stays with it
    -2: 2**28,  # M_TOP_PAD: bytes by which it grows
}


def keep_memory() -> None:
    """Keeps the memory of freed buffers for the next ones; commands that predict do, on Linux.

    A program's buffers take hundreds of megabytes, and on a CPU they are freed after each batch.
    Given back to the system, every page of them is made and zeroed anew for the next: a tenth of
    the time that R-50-FPN takes.  A process keeps what it took at its peak.  To be called before
    libraries start threads: one that has a heap of its own goes on to map and unmap large buffers.

    Not for training: its buffers, of gigabytes, are given back all the same, or find no place among
    what they left behind, and the peak would be one and a half times as high for nothing.
    docs/training.md has what helps there, and can only be set before a process starts.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt:
        for parameter, value in _MALLOC.items():
            mallopt(parameter, value)


def keep_programs() -> None:
    """Keeps compiled programs in the cache folder; commands do, as it changes the process.

    jax warns of an entry that a kill or a full disk cut short, at every start: it would neither
    read nor replace it.  In place of the warning the entry is removed, so that it is made again.
    """
    folder, shown = cache_folder() / "xla", warnings.showwarning

    def show(message: Warning | str, *rest: Any, **more: Any) -> None:
        found = _UNUSABLE.match(str(message))
        if not found:
            shown(message, *rest, **more)
            return
        for entry in folder.glob(f"{found[1]}-*"):
            try:
                zlib.decompress(entry.read_bytes())
            except (OSError, zlib.error):  # cut short, or of another compression: any may be it
                entry.unlink(missing_ok=True)
        complain(f"{folder}: {found[1]} cannot be used or kept: {found[2]}")

    warnings.showwarning = show
    warnings.filterwarnings("always", "Error .* persistent compilation cache")
    jax.config.update("jax_compilation_cache_dir", str(folder))


@functools.cache
def compiler_options(precision: str) -> dict[str, str | bool]:
    """Returns XLA's options for programs that predict in `precision` on this machine.

    XLA gives a CPU's matrix products to YNNPACK.  Without it R-50-FPN takes a seventh less time on
    Intel's with AVX-512 in float32; on AMD's, or in bfloat16, it would take more.  A training step
    takes the same either way.
    """
    if jax.default_backend() != "cpu" or precision != "float32" or not is_intel_avx512():
        return {}
    options: dict[str, str | bool] = {"xla_cpu_experimental_ynn_fusion_type": ""}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:  # a version of XLA that knows no such option
        return {}
    return options


class Programs:
    """A jitted function that is compiled ahead of its first call for every shape of a batch."""

    def __init__(
        self,
        function: jax.stages.Wrapped,
        report: Callable[[str], None] = lambda line: None,
        store: "Store | None" = None,
        precision: str = "",
    ) -> None:
        """Takes a `jax.jit` function whose last argument is a `types.Batch` or `Images`.

        The others have the same shapes at every call.  `report` gets a line at each compilation.
        What `store` has is neither traced nor compiled.  `precision` is given of a function that
        predicts, for `compiler_options`.
        """
        self.seconds = 0.0  # spent compiling so far
        self._function, self._report, self._store = function, report, store
        self._precision = precision
        self._compiled: dict[tuple[int, ...], jax.stages.Compiled] = {}

    def __call__(self, *arguments: Any) -> Any:
        """Returns what the function returns, compiling first if need be."""
        self.compile(*arguments)
        return self._compiled[arguments[-1].image.shape](*arguments)

    def compile(self, *arguments: Any) -> bool:
        """Makes the program for arguments (or their `jax.ShapeDtypeStruct`s).

        Returns whether it had to be compiled.
        """
        shape = arguments[-1].image.shape
        if shape in self._compiled:
            return False
        begun = time.perf_counter()
        program = kept = self._store and self._store.load(arguments)
        if program is None:
            self._report(f"compiling for images of {shape[1]} x {shape[2]}")
            lowered = self._function.lower(*arguments)
            program = lowered.compile(compiler_options(self._precision))
            if self._store:
                self._store.save(arguments, program)
        self._compiled[shape] = program
        self.seconds += time.perf_counter() - begun
        return kept is None


class Store(NamedTuple):
    """Compiled programs in the cache folder, whole: loading one needs no tracing.

    A program is that of a key, of its arguments' shapes and devices, and of everything else that
    it may depend on: all code of this package, versions, machine and jax's settings.  Unlike jax's
    own cache this is no setting of the process; where that one is set, it is left to itself, as
    what it loads cannot be written again.
    """

    key: str
    devices: tuple[jax.Device, ...]

    def load(self, arguments: Any) -> jax.stages.Compiled | None:
        """Returns the program, or None if there is none, it is damaged, or of no use here."""
        with contextlib.suppress(Exception):  # of many kinds; then it is compiled anew
            if _usable():
                content, takes, gives = _read(self._path(arguments))
                return serialize_executable.deserialize_and_load(
                    content, takes, gives, self.devices[0].client, self.devices
                )
        return None

    def save(self, arguments: Any, program: jax.stages.Compiled) -> None:
        """Keeps a program, where it can be: runtimes and folders may not let it."""
        with contextlib.suppress(InputError, ValueError, NotImplementedError, RuntimeError):
            if _usable():
                _write(self._path(arguments), serialize_executable.serialize(program))

    def _path(self, arguments: Any) -> Path:
        leaves, tree = jax.tree.flatten(arguments)
        devices = [(d.id, d.process_index, d.device_kind) for d in self.devices]
        return _path_of(
            *(self.key, str(tree), [(x.shape, str(x.dtype)) for x in leaves], devices),
            *(get_backend().platform_version, cpu_features(), _settings()),
            *(os.environ.get("XLA_FLAGS"), os.environ.get("LIBTPU_INIT_ARGS")),
        )


def remembered(key: str, make: Callable[[], Any]) -> Any:
    """Returns what `make` does, as an earlier process left it; it depends on `key` and code."""
    path = _path_of(key)
    with contextlib.suppress(Exception):  # as in `Store.load`
        return _read(path)
    value = make()
    with contextlib.suppress(InputError):
        _write(path, value)
    return value


def _path_of(*what: object) -> Path:
    name = hashlib.sha256(repr((*what, versions(), _code())).encode()).hexdigest()
    return cache_folder() / "programs" / name


def _read(path: Path) -> Any:
    with open_regular(path) as file:
        digest, content = file.read(DIGEST), file.read()
    if hashlib.sha256(content).digest() != digest:
        raise ValueError("damaged")
    return pickle.loads(content)  # of the user's own making, as programs in any compiler's cache


def _write(path: Path, value: Any) -> None:
    content = pickle.dumps(value)
    make_folder(path.parent)
    write_whole(path, hashlib.sha256(content).digest() + content)


def _settings() -> dict[str, Any]:
    """Returns jax's settings, those of a context as they are within it."""
    return {k: getattr(jax.config, k, v) for k, v in sorted(jax.config.values.items())}


def _usable() -> bool:
    return not _settings().get("jax_compilation_cache_dir")


@functools.cache
def _code() -> str:
    """Returns a hash of this package's code, but for configs, which the key has."""
    folder, hashed = Path(__file__).parent, hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        if path.relative_to(folder).parts[0] != "configs":
            hashed.update(path.read_bytes())
    return hashed.hexdigest()
