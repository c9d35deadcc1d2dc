"""RoIAlign over the levels of a pyramid, and the level that each RoI reads (He et al. 2017).

Each RoI is cut into bins, and a bin's value is the mean of bilinear samples at its points; see
`roi_sums` for how it is summed up.

Glossary: `B` images, `n` RoIs of each, `p` bins per axis, `c` channels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Int32

from jaxdet.ops.boxes import FAR, BoxConvention, area
from jaxdet.ops.roi_sums import Axis, RoIs, align, divided


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
    boxes: Float[Array, "*n 4"], num_levels: int, roi: RoIAlign, convention: BoxConvention
) -> Int32[Array, "*n"]:
    """Returns the level of each RoI, 0 the finest (Lin et al. 2017, equation 1).

    Examples:
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

    `features` are float32 or bfloat16, fine to coarse, of `strides` pixels per cell; boxes are
    float32 pixels of the resized image, and `pad_size` is what the network sees of it.
    Cells outside an image's own padded area are not read, so that results do not depend on the
    bucket; points further than a cell outside of it count as 0.  Sums are in float32.
    Differentiable in `features` alone, once, in reverse mode.

    Examples:
        >>> rows = jnp.arange(64.0).reshape(1, 8, 8, 1) // 8
        >>> box, pad = jnp.array([[[8.0, 8, 23, 23]]]), jnp.array([[32, 32]])
        >>> level = jnp.array([[0]])
        >>> bins = roi_align([rows], box, level, pad, (4,), 2, RoIAlign(), BoxConvention())
        >>> bins[0, 0, :, :, 0].tolist()
        [[3.0, 3.0], [5.0, 5.0]]
    """
    batch, count = levels.shape
    x1, y1, x2, y2 = lax.stop_gradient(boxes).reshape(-1, 4).T
    height, width = jnp.repeat(pad_size, count, axis=0).T
    stride = jnp.asarray(strides, jnp.float32)[levels.ravel()]
    y = _axis(y1, y2 + convention.offset, height, stride, size, roi)
    x = _axis(x1, x2 + convention.offset, width, stride, size, roi)
    shapes = tuple(jax.ShapeDtypeStruct(f.shape, f.dtype) for f in features)
    rois = RoIs(y, x, levels.ravel(), jnp.repeat(jnp.arange(batch), count))
    bins = align(roi.points, shapes, tuple(features), rois)
    return bins.reshape(batch, count, *bins.shape[1:])


def _axis(start: Array, end: Array, pad: Array, stride: Array, size: int, roi: RoIAlign) -> Axis:
    """Returns the points of RoIs from `start` to `end`, in pixels, on maps of `pad` pixels."""
    shift = 0.5 if roi.aligned else 0.0
    start, end = start / stride - shift, end / stride - shift
    side = end - start if roi.aligned else jnp.maximum(end - start, roi.min_side)
    # Not side * (1 / size), which would give a RoI of 21 cells four points a bin and not three;
    # and a bound that never binds keeps `product + start` from being rounded once only.
    bin = divided(side, size)[:, None]
    corner = start[:, None] + jnp.minimum(jnp.arange(size)[None] * bin, FAR)
    points = jnp.full_like(bin, roi.points) if roi.points else jnp.maximum(jnp.ceil(bin), 0)
    last = (jnp.ceil(pad / stride) - 1)[:, None]
    return Axis(*(v[:, :, None, None] for v in (corner, bin, points, last)))
