"""Outlines of the `shapes` set as formulas, so that the pixels are the same everywhere.

A shape's own coordinates u, v run from -1 to 1 over its width and height.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

Grid = Float64[np.ndarray, "h w"]
Mask = Bool[np.ndarray, "h w"]


class Place(NamedTuple):
    """Where a shape stands, in pixels and radians."""

    x: float
    y: float
    half_width: float
    half_height: float
    angle: float


def mask_of(kind: int, place: Place, size: tuple[int, int]) -> Mask:
    """Returns the pixels whose centres lie in a shape.

    Args:
        kind: Position in `OUTLINES`.
        place: Where.
        size: (height, width) of the image.
    """
    x = np.arange(size[1]) - place.x
    y = np.arange(size[0])[:, None] - place.y
    cos, sin = np.cos(place.angle), np.sin(place.angle)
    u = (x * cos + y * sin) / place.half_width
    v = (y * cos - x * sin) / place.half_height
    return _INSIDE[kind](u, v)


def _rectangle(u: Grid, v: Grid) -> Mask:
    return (abs(u) <= 1) & (abs(v) <= 1)


def _ellipse(u: Grid, v: Grid) -> Mask:
    return u**2 + v**2 <= 1


def _triangle(u: Grid, v: Grid) -> Mask:
    return (v <= 1) & (2 * abs(u) <= v + 1)


def _diamond(u: Grid, v: Grid) -> Mask:
    return abs(u) + abs(v) <= 1


def _ring(u: Grid, v: Grid) -> Mask:
    radius = u**2 + v**2
    return (radius <= 1) & (radius >= 0.3)


def _cross(u: Grid, v: Grid) -> Mask:
    return _rectangle(u, v) & ((abs(u) <= 0.4) | (abs(v) <= 0.4))


def _star(u: Grid, v: Grid) -> Mask:
    """Returns five points at radius 1, five notches at 0.45, straight edges between them."""
    half = np.pi / 5
    angle = abs((np.arctan2(u, -v) + half) % (2 * half) - half)  # 0 at a point, `half` at a notch
    edge = 0.45 * np.sin(half) / (np.sin(angle) + 0.45 * np.sin(half - angle))
    return np.hypot(u, v) <= edge


_KINDS = {
    "rectangle": _rectangle,
    "ellipse": _ellipse,
    "triangle": _triangle,
    "diamond": _diamond,
    "ring": _ring,
    "cross": _cross,
    "star": _star,
}
OUTLINES = tuple(_KINDS)
_INSIDE = tuple(_KINDS.values())
