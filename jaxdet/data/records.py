"""One key of many JSON records as one checked array."""

from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from jaxdet.data.findings import Finding, Tell, shown

_INTEGER = frozenset({int})
_NUMBER = frozenset({int, float})
_FLAG = frozenset({int, bool})
_NO_BOX = [0, 0, 0, 0]

MISSING = object()


class Records:
    """A list of dicts, read key by key.

    A record that something is wrong with is told of once; from then on it is not `good`, and
    where a value is missing or unusable, zero or the like stands in for it.

    Attributes:
        good: bool `[n]`, records of which nothing wrong is known.
    """

    def __init__(self, name: str, records: list[Any], tell: Tell, harmless: bool = False):
        """Takes the list as it was read.

        Args:
            name: The list's key in the file.
            records: Its items, dicts if all is well.
            tell: Is told what is wrong; it may raise.
            harmless: Whatever is wrong with these records does no harm.
        """
        self.name = name
        self.good = np.ones(len(records), bool)
        self._tell = tell
        self._harmless = harmless
        self._records = records
        # The set of types is a C loop; only a bad file pays for the search.
        if not set(map(type, records)) <= {dict}:
            is_dict = np.array([type(record) is dict for record in records])
            self._records = [r if type(r) is dict else {} for r in records]
            self.reject(
                f"{name} that are no dicts",
                ~is_dict,
                lambda i: f"{name}[{i}] is {shown(records[i])}, not a dict",
            )

    def __len__(self) -> int:
        return len(self._records)

    def reject(self, what: str, bad: Bool[np.ndarray, " n"], line: Callable[[int], str]) -> None:
        """Tells of the good records among the bad ones, which then are no longer good."""
        where = np.flatnonzero(self.good & bad)
        if len(where):
            self.good[where] = False
            self._tell(Finding(what, where, line, self._harmless))

    def reject_repeated(self, what: str, ids: Int64[np.ndarray, " n"]) -> None:
        """Rejects every occurrence of an id but its first."""
        good = np.flatnonzero(self.good)
        again = self.good.copy()
        again[good[np.unique(ids[good], return_index=True)[1]]] = False
        self.reject(f"repeated {what}s", again, lambda i: f"{what} {ids[i]} occurs more than once")

    def texts(self, key: str) -> list[str]:
        """The strings under a key."""
        return self._values(key, frozenset({str}), "")

    def integers(self, key: str, default: Any = MISSING) -> Int64[np.ndarray, " n"]:
        """The whole numbers under a key."""
        return self._array(key, self._values(key, _INTEGER, 0, default), np.int64)

    def flags(self, key: str) -> Bool[np.ndarray, " n"]:
        """The truth values under a key, 0 and 1 among them; false where it is absent."""
        values = self._values(key, _FLAG, 0, default=0)
        return np.fromiter(map(bool, values), bool, len(values))

    def areas(self, xywh: Float64[np.ndarray, "n 4"]) -> Float64[np.ndarray, " n"]:
        """The numbers under `area`, or the box's where that is absent or null."""
        by_box = xywh[:, 2] * xywh[:, 3]
        if not any("area" in record for record in self._records):
            return by_box
        values = self._values("area", _NUMBER | {type(None)}, 0, default=None)
        pairs = zip(values, by_box.tolist(), strict=True)
        return self._array("area", [b if value is None else value for value, b in pairs])

    def boxes(self) -> Float64[np.ndarray, "n 4"]:
        """The four numbers under `bbox`."""
        rows = self._values("bbox", frozenset({list}), _NO_BOX)
        if (
            not set(map(len, rows)) <= {4}
            or not set(map(type, chain.from_iterable(rows))) <= _NUMBER
        ):
            bad = np.array([len(r) != 4 or not set(map(type, r)) <= _NUMBER for r in rows])
            rows = self._replace(
                f"{self.name} whose 'bbox' is not four numbers",
                rows,
                bad,
                _NO_BOX,
                lambda i, row: f"{self._label(i)} has bbox {shown(row)}; expected four numbers",
            )
        try:
            flat = np.fromiter(chain.from_iterable(rows), np.float64, 4 * len(rows))
        except OverflowError:
            bad = np.array([not all(_fits(x, np.float64) for x in row) for row in rows])
            rows = self._replace_large("bbox", rows, bad, _NO_BOX)
            flat = np.fromiter(chain.from_iterable(rows), np.float64, 4 * len(rows))
        return flat.reshape(-1, 4)

    def _values(
        self, key: str, kinds: frozenset[type], stand_in: Any, default: Any = MISSING
    ) -> list[Any]:
        """The values of a key, all of one of the `kinds`."""
        values = [record.get(key, default) for record in self._records]
        if set(map(type, values)) <= kinds:
            return values
        expected = " or ".join(sorted(kind.__name__ for kind in kinds))

        def line(i: int, value: Any) -> str:
            if value is MISSING:
                return f"{self._label(i)} has no '{key}'"
            return f"{self._label(i)} has {key} {shown(value)}; expected a value of type {expected}"

        bad = np.array([type(value) not in kinds for value in values])
        what = f"{self.name} with a missing or wrong '{key}'"
        return self._replace(what, values, bad, stand_in, line)

    def _array(self, key: str, values: list[Any], dtype: type = np.float64) -> np.ndarray:
        try:
            return np.fromiter(values, dtype, len(values))
        except OverflowError:
            bad = np.array([not _fits(value, dtype) for value in values])
            return np.fromiter(self._replace_large(key, values, bad, 0), dtype, len(values))

    def _replace_large(
        self, key: str, values: list[Any], bad: np.ndarray, stand_in: Any
    ) -> list[Any]:
        return self._replace(
            f"{self.name} whose '{key}' is too large for a number",
            values,
            bad,
            stand_in,
            lambda i, value: f"{self._label(i)} has {key} {shown(value)}, too large for a number",
        )

    def _replace(
        self,
        what: str,
        values: list[Any],
        bad: np.ndarray,
        stand_in: Any,
        line: Callable[[int, Any], str],
    ) -> list[Any]:
        self.reject(what, bad, lambda i: line(i, values[i]))
        return [stand_in if wrong else v for v, wrong in zip(values, bad, strict=True)]

    def _label(self, position: int) -> str:
        label, record = f"{self.name}[{position}]", self._records[position]
        known = [
            f"{key} {record[key]}" for key in ("id", "image_id") if type(record.get(key)) is int
        ]
        return f"{label} ({', '.join(known)})" if known and len(str(known)) < 80 else label


def _fits(value: Any, dtype: type) -> bool:
    try:
        dtype(value)
    except OverflowError:
        return False
    return True
