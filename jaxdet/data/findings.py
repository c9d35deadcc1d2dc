"""What is wrong with a data set: stopped at, or collected."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxdet.errors import InputError

_LOG = logging.getLogger(__name__)

MAX_LINES = 100  # kept of each kind; the count goes on


class Findings:
    """What is wrong, by kind: dicts of `what`, `count` and `examples`, which are lines."""

    def __init__(self, stop_at: str = "") -> None:
        """Collects; or, for the file that `stop_at` names, logs warnings and raises faults."""
        self.faults: dict[str, dict[str, Any]] = {}  # would stop a run or teach it wrongly
        self.warnings: dict[str, dict[str, Any]] = {}  # the loader leaves out or repairs
        self._stop_at = stop_at

    def add(
        self,
        what: str,
        where: Sequence[Any] | np.ndarray,
        line: Callable[[Any], str] = str,
        harmless: bool = False,
    ) -> None:
        """Adds what is wrong with some items, or with the positions in a mask; maybe with none.

        `what` is a heading: "boxes mostly outside their image"; `line` says what is wrong with an
        item, naming ids and files; what is `harmless` is a warning.
        """
        if isinstance(where, np.ndarray):
            where = np.flatnonzero(where).tolist()
        if not where:
            return
        if self._stop_at and not harmless:
            more = f" (and {len(where) - 1} more like it)" if len(where) > 1 else ""
            raise InputError(f"{self._stop_at}: {line(where[0])}{more}")
        if self._stop_at:
            _LOG.warning("%s: %d %s", self._stop_at, len(where), what)
        kinds = self.warnings if harmless else self.faults
        kind = kinds.setdefault(what, {"what": what, "count": 0, "examples": []})
        kind["count"] += len(where)
        kind["examples"] += map(line, where[: MAX_LINES - len(kind["examples"])])
