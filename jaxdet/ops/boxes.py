"""Boxes: sides, area, IoU, and the regression code between anchors and boxes.

Boxes are `x1, y1, x2, y2` in pixels.  How wide a box is, and what else differs between systems,
says a `BoxConvention`.  All functions work on NumPy and on JAX arrays: on the host while data
are loaded and results measured, on the device inside a compiled program.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Real

# NumPy's or JAX's; jax itself is not imported, which loader processes would pay for.
Array = Any
Boxes = Float[Array, "*n 4"]
ImageSize = Real[Array, "2"]  # (height, width) in pixels

# A box may become at most 1000/16 times wider or narrower than its anchor (every system).
MAX_LOG_RATIO = abs(math.log(16 / 1000))

# A pixel this far away overlaps nothing: what loops put in place of boxes that take no part.
FAR = 1e9

_LARGEST = float(np.finfo(np.float32).max)


class BoxConvention(NamedTuple):
    """What a system takes a box to be; static, so that every choice is made while tracing.

    The defaults are those of the 2018 toolbox.
    """

    offset: int = 1  # pixels added to x2 - x1 to make a width: 1 if x2 is the last pixel inside
    anchor_centre: float = 0.5  # of the first cell's anchors, in units of (stride - offset)
    round_anchors: bool = True  # corners of the first cell's anchors to whole pixels, half to even
    clamp_shrinking: bool = True  # decoding bounds how far a box may shrink, not only grow
    whole_sides: bool = False  # anchors' sides, before their ratio, lose what is not a whole pixel
    # A level's stride is the padded side // its cells: 59 and not 64 for 7 cells of 416 pixels.
    measured_strides: bool = False


_TORCHVISION = BoxConvention(0, 0.0, clamp_shrinking=False, whole_sides=True, measured_strides=True)
CONVENTIONS = {
    "mmdet1": BoxConvention(),
    "mmdet2": BoxConvention(0, 0.0, round_anchors=False),
    "mmdet3": BoxConvention(0, 0.0, round_anchors=False),
    "detectron2": BoxConvention(0, 0.0, round_anchors=False, clamp_shrinking=False),
    "torchvision": _TORCHVISION,
    "torchvision_v2": _TORCHVISION,
}
MMDET1 = CONVENTIONS["mmdet1"]


def sides(
    boxes: Boxes, convention: BoxConvention = MMDET1
) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
    """Returns widths and heights in pixels.

    Examples:
        >>> sides(np.array([3.0, 4.0, 3.0, 9.0]))
        (np.float64(1.0), np.float64(6.0))
    """
    return _sides(*_columns(boxes), convention)


def area(boxes: Boxes, convention: BoxConvention = MMDET1) -> Float[Array, "*n"]:
    """Returns areas in square pixels.

    Examples:
        >>> area(np.array([[0.0, 0.0, 9.0, 4.0]]))
        array([50.])
    """
    return _product(*sides(boxes, convention))


def iou(
    a: Float[Array, "n 4"], b: Float[Array, "m 4"], convention: BoxConvention = MMDET1
) -> Float[Array, "n m"]:
    """Returns the intersection over union of every box of `a` with every box of `b`.

    The operations and their order are the reference's, and no two are contracted into one, so
    that IoUs that tie there tie here, to the last bit.

    Examples:
        >>> iou(np.array([[0.0, 0, 9, 9]]), np.array([[5.0, 0, 14, 9], [10, 0, 19, 9]]))
        array([[0.33333333, 0.        ]])
    """
    a, b = columns(a, convention), columns(b, convention)
    return iou_of_columns(a[:, :, None], b[:, None], convention)


def columns(boxes: Float[Array, "n 4"], convention: BoxConvention = MMDET1) -> Float[Array, "5 n"]:
    """Returns boxes by column, `x1, y1, x2, y2, area`, as `iou_of_columns` takes them.

    Vector units want each coordinate contiguous: loops over boxes transpose once, outside.

    Examples:
        >>> columns(np.array([[0.0, 0.0, 9.0, 4.0]])).ravel()
        array([ 0.,  0.,  9.,  4., 50.])
    """
    xp = boxes.__array_namespace__()
    return xp.concatenate([boxes.T, area(boxes, convention)[None]])


def iou_of_columns(
    a: Float[Array, "5 ..."], b: Float[Array, "5 ..."], convention: BoxConvention = MMDET1
) -> Float[Array, "..."]:
    """Returns the intersection over union of boxes by column, whose shapes broadcast (same rank).

    Examples:
        >>> box = columns(np.array([[0.0, 0.0, 9.0, 9.0]]))
        >>> iou_of_columns(box, box)
        array([1.])
    """
    xp = a.__array_namespace__()
    x1, y1 = xp.maximum(a[0], b[0]), xp.maximum(a[1], b[1])
    x2, y2 = xp.minimum(a[2], b[2]), xp.minimum(a[3], b[3])
    width, height = _sides(x1, y1, x2, y2, convention)
    shared = _product(xp.maximum(width, 0), xp.maximum(height, 0))
    union = a[4] + b[4] - shared
    # Only without an offset can both boxes be empty; what they share is then nothing.
    return shared / (union if convention.offset else xp.maximum(union, 1e-6))


def encode(anchors: Boxes, boxes: Boxes, convention: BoxConvention = MMDET1) -> Boxes:
    """Returns the deltas that turn `anchors` into `boxes` (Girshick et al. 2014; means 0, stds 1).

    Deltas are `dx, dy` in sides of the anchor and `dw, dh` as natural logarithms of ratios.

    Examples:
        >>> encode(np.array([0.0, 0, 9, 9]), np.array([5.0, 0, 14, 9]))
        array([0.5, 0. , 0. , 0. ])
    """
    xp = anchors.__array_namespace__()
    ax, ay, aw, ah = _centre_form(anchors, convention)
    bx, by, bw, bh = _centre_form(boxes, convention)
    deltas = [(bx - ax) / aw, (by - ay) / ah, xp.log(bw / aw), xp.log(bh / ah)]
    return xp.stack(deltas, axis=-1)


def decode(
    anchors: Boxes, deltas: Boxes, image_size: ImageSize | None, convention: BoxConvention = MMDET1
) -> Boxes:
    """Returns the boxes that `deltas` make of `anchors`, clipped to an image of (height, width).

    Without an image they are not clipped.  `dw, dh` are bounded by `MAX_LOG_RATIO`; see
    `BoxConvention.clamp_shrinking`.

    Examples:
        >>> decode(np.array([0.0, 0, 9, 9]), np.array([0.5, 0, 0, 0]), np.array([20, 12]))
        array([ 5.,  0., 11.,  9.])
    """
    xp = anchors.__array_namespace__()
    ax, ay, aw, ah = _centre_form(anchors, convention)
    dx, dy, dw, dh = _columns(deltas)
    least = -MAX_LOG_RATIO if convention.clamp_shrinking else None
    width = aw * xp.exp(xp.clip(dw, least, MAX_LOG_RATIO))
    height = ah * xp.exp(xp.clip(dh, least, MAX_LOG_RATIO))
    x = ax + aw * dx
    y = ay + ah * dy
    half = 0.5 * convention.offset
    corners = [x - width * 0.5, y - height * 0.5, x + width * 0.5, y + height * 0.5]
    if half:
        corners = [corners[0] + half, corners[1] + half, corners[2] - half, corners[3] - half]
    boxes = xp.stack(corners, axis=-1)
    if image_size is None:
        return boxes
    return clip(boxes, image_size.astype(anchors.dtype), convention)


def clip(
    boxes: Boxes, image_size: Real[Array, "*m 2"], convention: BoxConvention = MMDET1
) -> Boxes:
    """Returns boxes cut to `[0, width - offset] x [0, height - offset]` of (height, width).

    Of one image, or of each box's own.

    Examples:
        >>> clip(np.array([-3.0, 2.0, 50.0, 9.0]), np.array([20, 30]))
        array([ 0.,  2., 29.,  9.])
    """
    xp = boxes.__array_namespace__()
    last = (image_size - convention.offset).astype(boxes.dtype)
    lasts = last[..., 1], last[..., 0], last[..., 1], last[..., 0]
    limited = zip(_columns(boxes), lasts, strict=True)
    return xp.stack([xp.clip(side, 0, last) for side, last in limited], axis=-1)


def flip(boxes: Boxes, width: int, convention: BoxConvention = MMDET1) -> Boxes:
    """Returns boxes mirrored left and right with their image of `width` pixels.

    Examples:
        >>> flip(np.array([[0.0, 2.0, 3.0, 9.0]]), 10)
        array([[6., 2., 9., 9.]])
    """
    xp = boxes.__array_namespace__()
    x1, y1, x2, y2 = _columns(boxes)
    # In the reference's order, which float32 tells from w - 1 - x.
    left, right = (np.float32(width) - x - np.float32(convention.offset) for x in (x2, x1))
    return xp.stack([left, y1, right, y2], axis=-1)


def from_xywh(xywh: Boxes, convention: BoxConvention = MMDET1) -> Boxes:
    """Returns COCO's x, y, width, height as corners.

    Examples:
        >>> from_xywh(np.array([5.0, 6.0, 1.0, 4.0]))
        array([5., 6., 5., 9.])
    """
    xp = xywh.__array_namespace__()
    x, y, w, h = _columns(xywh)
    return xp.stack([x, y, x + w - convention.offset, y + h - convention.offset], axis=-1)


def to_xywh(boxes: Boxes, convention: BoxConvention = MMDET1) -> Boxes:
    """Returns corners as COCO's x, y, width, height.

    Examples:
        >>> to_xywh(np.array([5.0, 6.0, 5.0, 9.0]))
        array([5., 6., 1., 4.])
    """
    xp = boxes.__array_namespace__()
    return xp.stack([boxes[..., 0], boxes[..., 1], *sides(boxes, convention)], axis=-1)


def _product(a: Array, b: Array) -> Array:
    # `x * y + z` in one fusion may become one fused multiply-add, which rounds once instead of
    # twice.  XLA's CPU backend does so with `area(a) + area(b)` in some loops and not in others
    # (it depends on shapes and on how a loop is split over threads), which moved one IoU in 500
    # by a unit in the last place.  Then ties break otherwise than in the reference, and a pair
    # computed in two fusions may differ from itself.  `optimization_barrier` does not help: that
    # backend drops it before it fuses.  A minimum that never binds does.
    return a.__array_namespace__().minimum(a * b, _LARGEST)


def _sides(
    x1: Array, y1: Array, x2: Array, y2: Array, convention: BoxConvention
) -> tuple[Array, Array]:
    return x2 - x1 + convention.offset, y2 - y1 + convention.offset


def _columns(boxes: Array) -> tuple[Array, Array, Array, Array]:
    return boxes[..., 0], boxes[..., 1], boxes[..., 2], boxes[..., 3]


def _centre_form(boxes: Array, convention: BoxConvention) -> tuple[Array, Array, Array, Array]:
    x1, y1, x2, y2 = _columns(boxes)
    return (x1 + x2) * 0.5, (y1 + y2) * 0.5, *sides(boxes, convention)
