"""Boxes: area, overlap, and the regression code between anchors and boxes.

Boxes are `x1, y1, x2, y2` in pixels with **inclusive** corners: a box is `x2 - x1 + 1`
pixels wide and a single pixel has area 1.  Everything here works on `[..., 4]` arrays.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# A box may become at most 1000/16 times wider or narrower than its anchor (the reference).
MAX_LOG_RATIO = abs(math.log(16 / 1000))

# A pixel this far away overlaps nothing: what loops put in place of boxes that take no part.
FAR = 1e9

_LARGEST = float(np.finfo(np.float32).max)


def area(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Area in square pixels, corners included.

    Args:
        boxes: float `[..., 4]`, pixels.

    Returns:
        float `[...]`, `(x2 - x1 + 1) * (y2 - y1 + 1)`.
    """
    x1, y1, x2, y2 = _corners(boxes)
    return _product(x2 - x1 + 1, y2 - y1 + 1)


def iou(a: Float[Array, "n 4"], b: Float[Array, "m 4"]) -> Float[Array, "n m"]:
    """Intersection over union of every box of `a` with every box of `b`.

    The operations and their order are the reference's, and no two are contracted into one, so
    that overlaps that tie there tie here, to the last bit.

    Args:
        a: float `[n, 4]`, pixels.
        b: float `[m, 4]`, pixels of the same image.

    Returns:
        float `[n, m]` in `[0, 1]`.
    """
    return overlap(columns(a)[:, :, None], columns(b)[:, None])


def columns(boxes: Float[Array, "n 4"]) -> Float[Array, "5 n"]:
    """Boxes by column, `x1, y1, x2, y2, area`, as `overlap` takes them.

    Vector units want each coordinate contiguous: loops over boxes transpose once, outside.

    Args:
        boxes: float `[n, 4]`, pixels.

    Returns:
        float `[5, n]`.
    """
    return jnp.concatenate([boxes.T, area(boxes)[None]])


def overlap(a: Float[Array, "5 ..."], b: Float[Array, "5 ..."]) -> Float[Array, "..."]:
    """Intersection over union of boxes by column.

    Args:
        a: float `[5, ...]` as `columns` returns it, with axes of size 1 added.
        b: the same, of a shape that broadcasts with `a` (same rank).

    Returns:
        float of the broadcast shape without the leading axis.
    """
    width = jnp.maximum(jnp.minimum(a[2], b[2]) - jnp.maximum(a[0], b[0]) + 1, 0)
    height = jnp.maximum(jnp.minimum(a[3], b[3]) - jnp.maximum(a[1], b[1]) + 1, 0)
    shared = _product(width, height)
    return shared / (a[4] + b[4] - shared)


def encode(anchors: Float[Array, "*n 4"], boxes: Float[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """Regression targets that turn `anchors` into `boxes` (R-CNN parametrisation, means 0, stds 1).

    Args:
        anchors: float `[..., 4]`, pixels.
        boxes: float `[..., 4]`, the box that each anchor should become, same image.

    Returns:
        float `[..., 4]`: `dx, dy` in anchor sides, `dw, dh` as natural logarithms of ratios.
    """
    ax, ay, aw, ah = _centre_form(anchors)
    bx, by, bw, bh = _centre_form(boxes)
    deltas = [(bx - ax) / aw, (by - ay) / ah, jnp.log(bw / aw), jnp.log(bh / ah)]
    return jnp.stack(deltas, axis=-1)


def decode(
    anchors: Float[Array, "*n 4"],
    deltas: Float[Array, "*n 4"],
    image_size: Int[Array, "2"] | Float[Array, "2"],
) -> Float[Array, "*n 4"]:
    """Boxes that `deltas` make of `anchors`, clipped to the image (the reference's decoder).

    Args:
        anchors: float `[..., 4]`, pixels.
        deltas: float `[..., 4]`, as `encode` returns; `dw, dh` are clipped to
            `+-|log(16/1000)|`.
        image_size: `(height, width)` in pixels before padding; may be traced.

    Returns:
        float `[..., 4]` within `[0, width - 1] x [0, height - 1]`.
    """
    ax, ay, aw, ah = _centre_form(anchors)
    dx, dy, dw, dh = _corners(deltas)
    width = aw * jnp.exp(jnp.clip(dw, -MAX_LOG_RATIO, MAX_LOG_RATIO))
    height = ah * jnp.exp(jnp.clip(dh, -MAX_LOG_RATIO, MAX_LOG_RATIO))
    x = ax + aw * dx
    y = ay + ah * dy
    last_y, last_x = (image_size.astype(anchors.dtype) - 1)[:2]
    corners = [
        jnp.clip(x - width * 0.5 + 0.5, 0, last_x),
        jnp.clip(y - height * 0.5 + 0.5, 0, last_y),
        jnp.clip(x + width * 0.5 - 0.5, 0, last_x),
        jnp.clip(y + height * 0.5 - 0.5, 0, last_y),
    ]
    return jnp.stack(corners, axis=-1)


def _product(a: Array, b: Array) -> Array:
    # `x * y + z` in one fusion may become one fused multiply-add, which rounds once instead of
    # twice.  XLA's CPU backend does so with `area(a) + area(b)` in some loops and not in others
    # (it depends on shapes and on how a loop is split over threads), which moved one overlap
    # in 500 by a unit in the last place.  Then ties break otherwise than in the reference, and
    # a pair computed in two fusions may differ from itself.  `optimization_barrier` does not
    # help: that backend drops it before it fuses.  A minimum that never binds does.
    return jnp.minimum(a * b, _LARGEST)


def _corners(boxes: Array) -> tuple[Array, Array, Array, Array]:
    return boxes[..., 0], boxes[..., 1], boxes[..., 2], boxes[..., 3]


def _centre_form(boxes: Array) -> tuple[Array, Array, Array, Array]:
    x1, y1, x2, y2 = _corners(boxes)
    return (x1 + x2) * 0.5, (y1 + y2) * 0.5, x2 - x1 + 1, y2 - y1 + 1
