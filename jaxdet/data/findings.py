"""What is wrong with a data set: stopped at, or collected."""

import reprlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from jaxdet.errors import InputError

# Lines kept of each kind; the count goes on.
MAX_LINES = 100


class Finding(NamedTuple):
    """One kind of thing that is wrong with some items."""

    what: str  # the kind, as a heading: "boxes of negative size"
    where: Int64[np.ndarray, " items"]  # positions in whatever list the finder goes through
    line: Callable[[int], str]  # what is wrong at a position, naming ids and files
    harmless: bool = False  # training and evaluation know what to do with it


Report = Callable[[Finding], None]


def stop_at(source: str) -> Report:
    """Returns a `Report` that raises at the first finding that is not harmless.

    Args:
        source: The file that the message names.
    """

    def report(finding: Finding) -> None:
        if finding.harmless:
            return
        more = len(finding.where) - 1
        suffix = f" (and {more} more like it)" if more else ""
        raise InputError(f"{source}: {finding.line(int(finding.where[0]))}{suffix}")

    return report


@dataclass
class Kind:
    """All findings of one kind."""

    what: str
    harmless: bool
    count: int = 0
    lines: list[str] = field(default_factory=list)  # the first `MAX_LINES`


class Findings:
    """A `Report` that collects, by kind."""

    def __init__(self) -> None:
        self._kinds: dict[str, Kind] = {}

    def __call__(self, finding: Finding) -> None:
        """Keeps a finding."""
        if not len(finding.where):
            return
        kind = self._kinds.setdefault(finding.what, Kind(finding.what, finding.harmless))
        kind.count += len(finding.where)
        some = finding.where[: MAX_LINES - len(kind.lines)]
        kind.lines += [finding.line(int(position)) for position in some]

    @property
    def faults(self) -> list[Kind]:
        """Returns what would stop a run or teach it something wrong, in the order found."""
        return [kind for kind in self._kinds.values() if not kind.harmless]

    @property
    def warnings(self) -> list[Kind]:
        """Returns what a run gets along with."""
        return [kind for kind in self._kinds.values() if kind.harmless]


def shown(value: Any) -> str:
    """Returns a short, one-line form of any value, however large or deep."""
    text = reprlib.repr(value).encode("ascii", "backslashreplace").decode()
    return text if len(text) <= 60 else f"{text[:57]}..."
