"""What is wrong with a data set: stopped at, or collected."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxdet.errors import InputError

MAX_LINES = 100  # kept of each kind; the count goes on


class Findings:
    """What is wrong, by kind: dicts of `what`, `count` and `examples`, which are lines.

    Attributes:
        faults: What would stop a run or teach it something wrong.
        warnings: What the loader leaves out, clips or repairs.
    """

    def __init__(self, stop_at: str = "") -> None:
        """Collects; or else raises at the first fault, in the file that `stop_at` names."""
        self.faults: dict[str, dict[str, Any]] = {}
        self.warnings: dict[str, dict[str, Any]] = {}
        self._stop_at = stop_at

    def add(
        self,
        what: str,
        where: Sequence[Any] | np.ndarray,
        line: Callable[[Any], str] = str,
        harmless: bool = False,
    ) -> None:
        """Adds what is wrong with some items.

        Args:
            what: The kind, as a heading: "boxes mostly outside their image".
            where: The items, or a mask of their positions; maybe none.
            line: Returns what is wrong with an item, naming ids and files.
            harmless: A warning, and not a fault.
        """
        if isinstance(where, np.ndarray):
            where = np.flatnonzero(where).tolist()
        if not where:
            return
        if self._stop_at and not harmless:
            more = f" (and {len(where) - 1} more like it)" if len(where) > 1 else ""
            raise InputError(f"{self._stop_at}: {line(where[0])}{more}")
        kinds = self.warnings if harmless else self.faults
        kind = kinds.setdefault(what, {"what": what, "count": 0, "examples": []})
        kind["count"] += len(where)
        kind["examples"] += map(line, where[: MAX_LINES - len(kind["examples"])])
