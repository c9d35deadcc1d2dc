"""RoIAlign over the levels of a pyramid, and the level that each RoI reads (He et al. 2017).

A bin's value is the mean of bilinear samples at its points.  Both axes are independent: along
each, a bin has a weight for every cell that its points touch, its taps, so that

    out[p, q] = sum_y sum_x weight_y[p, y] weight_x[q, x] feature[y, x]

Taps of a bin are neighbouring cells and each is read once, however many points lie between.

Glossary: `B` images, `n` RoIs of each, `h, w` cells of a level's map, `c` channels, `p, q` bins
along y and x.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from jaxdet.ops.boxes import FAR, BoxConvention, area


class RoIAlign(NamedTuple):
    """How a system reads features; static.  The defaults are those of the 2018 toolbox."""

    aligned: bool = False  # cells' centres, not their corners, lie at whole coordinates
    points: int = 2  # per bin and axis; 0: the RoI's side in cells / bins, rounded up
    min_side: float = 0.0  # cells: a smaller RoI is widened to it, unless `aligned`
    level_rule: str = "mmdet"  # a key of `LEVEL_BORDERS`


# The least float32 sqrt(width * height), in pixels, of levels 1, 2, 3: where these, computed in
# float32, reach a whole number (`a` is that square root).
LEVEL_BORDERS = {
    "mmdet": (111.99995, 223.99995, 447.9999),  # log2(a / 56 + 1e-6)
    "detectron2": (111.999985, 223.99998, 447.9999),  # 4 + log2(a / 224 + 1e-8) - 2
    "torchvision": (111.999916, 223.99985, 447.99963),  # 4 + log2(a / 224) + 1e-6 - 2
}


def roi_levels(
    boxes: Float[Array, "*n 4"],
    num_levels: int,
    roi: RoIAlign,
    convention: BoxConvention,
) -> Int32[Array, "*n"]:
    """Returns the level of each RoI, 0 the finest (Lin et al. 2017, equation 1).

    >>> boxes = jnp.array([[0.0, 0, 110, 110], [0, 0, 111, 111], [0, 0, 999, 999]])
    >>> roi_levels(boxes, 4, RoIAlign(), BoxConvention())
    Array([0, 1, 3], dtype=int32)
    """
    side = jnp.sqrt(area(boxes, convention))
    level = jnp.zeros_like(side, jnp.int32)
    for border in LEVEL_BORDERS[roi.level_rule][: num_levels - 1]:
        level += side >= border
    return level


def roi_align(
    features: Sequence[Float[Array, "B _ _ c"]],
    boxes: Float[Array, "B n 4"],
    levels: Int[Array, "B n"],
    pad_size: Int[Array, "B 2"],
    strides: tuple[int, ...],
    size: int,
    roi: RoIAlign,
    convention: BoxConvention,
) -> Float[Array, "B n p p c"]:
    """Returns `size` x `size` bins of each RoI, read from its level's map.

    Only cells of an image's own padded area are read: results do not depend on the bucket.
    Points further than a cell outside of it count as 0.  Differentiable in `features` alone.

    >>> ramp = jnp.arange(64.0).reshape(1, 8, 8, 1) // 8
    >>> box = jnp.array([[[8.0, 8.0, 23.0, 23.0]]])
    >>> level, size = jnp.array([[0]]), jnp.array([[32, 32]])
    >>> bins = roi_align([ramp], box, level, size, (4,), 2, RoIAlign(), BoxConvention())
    >>> bins[0, 0, :, :, 0].tolist()
    [[3.0, 3.0], [5.0, 5.0]]

    Args:
        features: maps, fine to coarse; float32 or bfloat16.  Sums are float32.
        boxes: float32 pixels of the resized image.
        levels: positions in `features`.
        pad_size: (height, width) in pixels that the network sees of each image.
        strides: pixels per cell of each level.
        size: bins per axis.
        roi: where points lie.
        convention: what a box is.
    """
    x1, y1, x2, y2 = jnp.moveaxis(jax.lax.stop_gradient(boxes), -1, 0)
    stride = jnp.asarray(strides, jnp.float32)[levels]
    x = _axis(x1, x2 + convention.offset, pad_size[:, 1], stride, size, roi)
    y = _axis(y1, y2 + convention.offset, pad_size[:, 0], stride, size, roi)
    return _align(roi.points, tuple(features), y, x, levels)


class _Axis(NamedTuple):
    """Where the points of RoIs lie along one axis, in cells of each one's own map."""

    corner: Float[Array, "B n p"]  # where a bin begins
    bin: Float[Array, "B n 1"]  # its side
    points: Float[Array, "B n 1"]  # how many it has
    last: Float[Array, "B n 1"]  # cell of the map

    def at(self, index: Float[Array, "B n #p"]) -> Float[Array, "B n p"]:
        """Returns where each bin's point of this index lies; operations in the systems' order."""
        return self.corner + (index + 0.5) * self.bin / jnp.maximum(self.points, 1)

    def taps(self) -> tuple[Float[Array, "B n p"], Int32[Array, ""]]:
        """Returns the first cell that each bin touches, and how many a bin touches at most."""
        ends = self.at(jnp.zeros_like(self.points)), self.at(self.points - 1)
        low, high = (jnp.clip(f(*ends), 0, self.last) for f in (jnp.minimum, jnp.maximum))
        low, high = jnp.floor(low), jnp.floor(high)
        return low, (high - low).max(initial=0).astype(jnp.int32) + 2

    def weight(self, cell: Float[Array, "B n p"], points: int) -> Float[Array, "B n p"]:
        """Returns the weight that a cell has in each bin."""
        index = jnp.zeros_like(cell)
        if not points:
            step = self.bin / jnp.maximum(self.points, 1)
            before = (cell - 1 - self.corner) / jnp.where(step > 0, step, 1) - 0.5
            index = jnp.clip(jnp.floor(before), 0, jnp.maximum(self.points - 1, 0))
        total = jnp.zeros_like(cell)
        for k in range(points or _NEAR):
            at = self.at(index + k)
            counts = (index + k < self.points) & (at >= -1) & (at <= self.last + 1)
            near = jnp.maximum(1 - jnp.abs(jnp.clip(at, 0, self.last) - cell), 0)
            total = total + jnp.where(counts, near, 0)
        return total / jnp.maximum(self.points, 1)


# Points of one bin that can touch a cell: adaptive ones lie at least half a cell apart if there
# are two, and a cell is touched from less than one cell away.
_NEAR = 6


def _axis(start: Array, end: Array, pad: Array, stride: Array, size: int, roi: RoIAlign) -> _Axis:
    """Returns the points of RoIs from `start` to `end`, in pixels, on maps of `pad` pixels."""
    shift = 0.5 if roi.aligned else 0.0
    start, end = start / stride - shift, end / stride - shift
    side = end - start if roi.aligned else jnp.maximum(end - start, roi.min_side)
    # Bounds that never bind keep XLA from multiplying with 1 / size, which would give a RoI of 21
    # cells four points a bin and not three, and from rounding `product + start` once only.
    bin = (side / jnp.maximum(jnp.minimum(side, 0), size))[..., None]
    count = jnp.full_like(bin, roi.points) if roi.points else jnp.maximum(jnp.ceil(bin), 0)
    corner = start[..., None] + jnp.minimum(jnp.arange(size)[None, None] * bin, FAR)
    last = jnp.ceil(pad[:, None] / stride) - 1
    return _Axis(corner, bin, count, last[..., None])


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _align(points: int, features: tuple[Array, ...], y: _Axis, x: _Axis, levels: Array) -> Array:
    table = jnp.concatenate([f.reshape(-1, f.shape[-1]) for f in features])
    size = y.corner.shape[-1]
    out = jnp.zeros((*levels.shape, size, size, table.shape[-1]), jnp.float32)

    def add(out: Array, weight: Array, index: Array) -> Array:
        return out + weight[..., None] * table[index]

    shapes = [f.shape for f in features]
    return _over_taps(points, shapes, y, x, levels, out, add).astype(table.dtype)


def _forward(points: int, features: tuple[Array, ...], *rest):
    empty = [jnp.zeros((0, *f.shape), f.dtype) for f in features]
    return _align(points, features, *rest), (empty, rest)


def _backward(points: int, kept, gradient: Array):
    empty, (y, x, levels) = kept
    shapes = [f.shape[1:] for f in empty]
    cells = [int(np.prod(shape[:3])) for shape in shapes]
    gradient = gradient.astype(jnp.float32)
    table = jnp.zeros((sum(cells), shapes[0][-1]), jnp.float32)

    def add(table: Array, weight: Array, index: Array) -> Array:
        return table.at[index].add(weight[..., None] * gradient)

    table = _over_taps(points, shapes, y, x, levels, table, add)
    parts = jnp.split(table, np.cumsum(cells)[:-1])
    maps = tuple(p.reshape(f.shape[1:]).astype(f.dtype) for p, f in zip(parts, empty, strict=True))
    return maps, None, None, None


_align.defvjp(_forward, _backward)


def _over_taps(points: int, shapes, y: _Axis, x: _Axis, levels: Array, state: Array, add) -> Array:
    """Returns `state` after `add(state, weight, row of the table)` for all taps, [B, n, p, q]."""
    (low_y, count_y), (low_x, count_x) = y.taps(), x.taps()
    offsets = np.cumsum([0] + [int(np.prod(shape[:3])) for shape in shapes])[:-1]
    offset, height, width = (
        jnp.asarray(v, jnp.int32)[levels][..., None]
        for v in (offsets, [s[1] for s in shapes], [s[2] for s in shapes])
    )
    image = jnp.arange(levels.shape[0])[:, None, None]

    def tap(index: Array, state: Array) -> Array:
        cell_y, cell_x = low_y + index // count_x, low_x + index % count_x
        weight = y.weight(cell_y, points)[..., None] * x.weight(cell_x, points)[:, :, None]
        row = offset + (image * height + jnp.minimum(cell_y, y.last).astype(jnp.int32)) * width
        cell = row[..., None] + jnp.minimum(cell_x, x.last).astype(jnp.int32)[:, :, None]
        return add(state, weight, cell)

    return jax.lax.fori_loop(0, count_y * count_x, tap, state)
