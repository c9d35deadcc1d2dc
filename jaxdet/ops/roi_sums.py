"""The sums of RoIAlign and their gradient, as one program for CPUs and one for the others.

Along each axis a bin has a weight for every cell that its points touch, its taps:

    bins[p, q] = sum_y sum_x weight_y[p, y] weight_x[q, x] map[y, x]

Taps are neighbours, and a cell is read once for a bin however many points lie around it.  On CPU
a loop visits bin after bin with a window of 4 x 4 taps at a time: XLA makes a vector sum over
channels of each, while its gathers and scatters there go number by number.  Elsewhere a loop over
taps takes one cell for every bin at once.  Nothing is kept beside inputs and outputs, but for a
copy of the maps in the latter.

Glossary: `m` RoIs of all images, `p, q` bins along y and x, `w` taps, `c` channels.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Int32

from jaxdet.ops.platforms import platform_dependent

# Taps per axis that a CPU takes at once: two points less than two cells apart have 4.
_WINDOW = 4
# Points of a bin that can touch one cell, where their number is adaptive: if there are several,
# they lie more than half a cell apart, and a cell is touched from less than one away.
_NEAR = 6

Shapes = tuple[jax.ShapeDtypeStruct, ...]


def divided(a: Array, b: Array | int) -> Array:
    """Returns `a / b`, b at least 1, rounded once.

    A bound that never binds keeps XLA from multiplying with 1 / b where b is broadcast.
    """
    return a / jnp.maximum(b, jnp.minimum(a, 0))


class Axis(NamedTuple):
    """Where the points of RoIs lie along one axis, in cells of each one's own map."""

    corner: Float[Array, "m p 1 1"]  # where a bin begins
    bin: Float[Array, "m 1 1 1"]  # its side
    points: Float[Array, "m 1 1 1"]  # how many it has
    last: Float[Array, "m 1 1 1"]  # cell of the map

    def at(self, index: Float[Array, "..."]) -> Float[Array, "m p w k"]:
        """Returns where each bin's points lie; operations in the systems' order."""
        return self.corner + divided((index + 0.5) * self.bin, jnp.maximum(self.points, 1))

    def taps(self) -> tuple[Float[Array, "m p 1"], Int32[Array, ""]]:
        """Returns the first cell that each bin touches, and how many a bin touches at most."""
        ends = self.at(jnp.zeros_like(self.points)), self.at(self.points - 1)
        low, high = (jnp.clip(f(*ends), 0, self.last) for f in (jnp.minimum, jnp.maximum))
        low, high = jnp.floor(low)[..., 0], jnp.floor(high)[..., 0]
        return low, (high - low).max(initial=0).astype(jnp.int32) + 2

    def weights(self, cells: Float[Array, "m p w"], points: int) -> Float[Array, "m p w"]:
        """Returns the weights that cells have in each bin: 0 outside of the map."""
        cells, count = cells[..., None], jnp.maximum(self.points, 1)
        index = jnp.arange(points or _NEAR, dtype=jnp.float32)[None, None, None]
        if not points:
            step = self.bin / count
            before = (cells - 1 - self.corner) / jnp.where(step > 0, step, 1) - 0.5
            index = index + jnp.clip(jnp.floor(before), 0, count - 1)
        at = self.at(index)
        counts = (index < self.points) & (at >= -1) & (at <= self.last + 1)
        near = jnp.maximum(1 - jnp.abs(jnp.clip(at, 0, self.last) - cells), 0)
        return jnp.where(counts, near / count, 0).sum(axis=-1)


class RoIs(NamedTuple):
    """What is read from the maps, and where."""

    y: Axis
    x: Axis
    level: Int[Array, " m"]
    image: Int[Array, " m"]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def align(points: int, shapes: Shapes, maps: tuple[Array, ...], rois: RoIs) -> Array:
    """Returns bins [m, p, q, c] of maps of these shapes; `points` is `RoIAlign.points`."""
    programs = {"cpu": _bin_after_bin, "default": _tap_after_tap}
    programs = {name: partial(program, points, shapes) for name, program in programs.items()}
    return platform_dependent(maps, rois, **programs).astype(shapes[0].dtype)


def _gradient(points: int, shapes: Shapes, rois: RoIs, bins: Array) -> tuple:
    programs = {"cpu": _bin_after_bin_gradient, "default": _tap_after_tap_gradient}
    programs = {name: partial(program, points, shapes) for name, program in programs.items()}
    maps = platform_dependent(bins.astype(jnp.float32), rois, **programs)
    return tuple(f.astype(shape.dtype) for f, shape in zip(maps, shapes, strict=True)), None


align.defvjp(lambda *arguments: (align(*arguments), arguments[3]), _gradient)


def _no_bins(channels: int, rois: RoIs) -> Array:
    """Returns zeros, made from the data so that they vary over devices as it does."""
    count, size = rois.y.corner.shape[:2]
    return jnp.zeros_like(rois.y.corner, shape=(count, size, size, channels))


def _times(weight: Array, value: Array) -> Array:
    """Returns the product; where nothing weighs, the cell may hold anything, NaN included."""
    return jnp.where(weight == 0, 0, weight * value)


# On CPU.

_read = partial(lax.dynamic_slice, allow_negative_indices=False)
_write = partial(lax.dynamic_update_slice, allow_negative_indices=False)


def _bin_after_bin(points: int, shapes: Shapes, maps: tuple[Array, ...], rois: RoIs) -> Array:
    one = (1, 1, 1, shapes[0].shape[-1])
    bins = _no_bins(one[-1], rois)
    for level, values in enumerate(maps):

        def add(bins: Array, at: tuple, first: tuple, weights: Array, values: Array = values):
            total, (image, row, column, _) = _read(bins, at, one), first
            for a, b in np.ndindex(weights.shape[1:3]):
                cell = _read(values, (image, row + a, column + b, 0), one)
                total += _times(weights[0, a, b, 0], cell)
            return _write(bins, total, at)

        bins = _visit(points, values.shape[1:3], level, rois, bins, add)
    return bins


def _bin_after_bin_gradient(points: int, shapes: Shapes, bins: Array, rois: RoIs) -> list[Array]:
    def add(values: Array, at: tuple, first: tuple, weights: Array) -> Array:
        more = weights * _read(bins, at, (1, 1, 1, bins.shape[-1]))
        return _write(values, _read(values, first, more.shape) + more, first)

    empty = [jnp.zeros_like(bins, shape=f.shape) for f in shapes]
    return [_visit(points, f.shape[1:3], level, rois, f, add) for level, f in enumerate(empty)]


def _visit(
    points: int, extent: tuple[int, ...], level: int, rois: RoIs, state: Array, add: Callable
) -> Array:
    """Returns `state` after `add(state, bin, first, weights)` of a level's bins and windows.

    `bin` is (roi, p, q, 0), `first` the window's (image, row, column, 0), `weights` [1, w, w, 1].
    """
    size = rois.y.corner.shape[1]
    order = jnp.argsort(rois.level)

    def visit_roi(i: Array, state: Array) -> Array:
        roi = order[i]
        y, x = jax.tree.map(lambda v: _read(v, (roi, 0, 0, 0), (1, *v.shape[1:])), rois[:2])
        (low_y, count_y), (low_x, count_x) = y.taps(), x.taps()
        across = -(-count_x // _WINDOW)

        def visit_window(k: Array, state: Array) -> Array:
            rows, down = _window(points, extent[0], y, low_y + k // across * _WINDOW)
            columns, right = _window(points, extent[1], x, low_x + k % across * _WINDOW)

            def visit_bin(i: Array, state: Array) -> Array:
                p, q = i // size, i % size
                first = rois.image[roi], rows[p], columns[q], 0
                weights = down[p][:, None] * right[q][None]
                return add(state, (roi, p, q, 0), first, weights[None, :, :, None])

            return lax.fori_loop(0, size**2, visit_bin, state)

        return lax.fori_loop(0, -(-count_y // _WINDOW) * across, visit_window, state)

    begin, end = (rois.level < level).sum(), (rois.level <= level).sum()
    return lax.fori_loop(begin, end, visit_roi, state)


def _window(points: int, extent: int, axis: Axis, first: Array) -> tuple[Array, Array]:
    """Returns each bin's cell [p] and weights [p, w] from `first` on, moved to lie in the map."""
    width = min(_WINDOW, extent)
    moved = jnp.minimum(first, extent - width)
    cells = moved + jnp.arange(width, dtype=jnp.float32)[None, None]
    # What lies before `first` was in the window before.
    weights = jnp.where(cells >= first, axis.weights(cells, points), 0)
    return moved[0, :, 0].astype(jnp.int32), weights[0]


# Elsewhere.


def _tap_after_tap(points: int, shapes: Shapes, maps: tuple[Array, ...], rois: RoIs) -> Array:
    cells = jnp.concatenate([f.reshape(f.shape[0], -1, f.shape[-1]) for f in maps], axis=1)

    def add(bins: Array, cell: tuple[Array, Array], weight: Array) -> Array:
        return bins + _times(weight, cells[cell])

    return _each_tap(points, shapes, rois, _no_bins(cells.shape[-1], rois), add)


def _tap_after_tap_gradient(points: int, shapes: Shapes, bins: Array, rois: RoIs) -> list[Array]:
    def add(cells: Array, cell: tuple[Array, Array], weight: Array) -> Array:
        return cells.at[cell].add(_times(weight, bins))

    ends = np.cumsum([f.shape[1] * f.shape[2] for f in shapes])
    cells = jnp.zeros_like(bins, shape=(shapes[0].shape[0], ends[-1], bins.shape[-1]))
    cells = _each_tap(points, shapes, rois, cells, add)
    levels = jnp.split(cells, ends[:-1], axis=1)
    return [level.reshape(f.shape) for level, f in zip(levels, shapes, strict=True)]


def _each_tap(points: int, shapes: Shapes, rois: RoIs, state: Array, add: Callable) -> Array:
    """Returns `state` after `add(state, (image, cell of all levels), weight)` of every tap."""
    (low_y, count_y), (low_x, count_x) = rois.y.taps(), rois.x.taps()
    ends = np.cumsum([f.shape[1] * f.shape[2] for f in shapes])
    starts, widths = [0, *ends[:-1]], [f.shape[2] for f in shapes]
    start, width = (jnp.asarray(v, jnp.int32)[rois.level][:, None, None] for v in (starts, widths))

    def visit(tap: Array, state: Array) -> Array:
        y, x = low_y + tap // count_x, low_x + tap % count_x
        wy, wx = rois.y.weights(y, points), rois.x.weights(x, points)
        row, column = y.astype(jnp.int32), x.astype(jnp.int32).swapaxes(1, 2)
        # The last cell for what lies beyond it and weighs nothing.
        place = jnp.minimum(start + row * width + column, int(ends[-1]) - 1)
        cell = rois.image[:, None, None], place
        return add(state, cell, wy[:, :, None] * wx[:, None])

    return lax.fori_loop(0, count_y * count_x, visit, state)
