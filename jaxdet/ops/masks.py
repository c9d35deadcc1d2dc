"""Training targets of masks: what of an object's bitmap lies in a box, as size x size pixels."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int, Int32, UInt8


def mask_targets(
    packed: UInt8[Array, "m h bytes"],
    boxes: Float32[Array, "n 4"],
    matched: Int32[Array, " n"],
    image_size: Int[Array, "2"],
    pad_size: Int[Array, "2"],
    size: int,
    kind: Literal["crop", "binary", "soft"],
) -> Float32[Array, "n {size} {size}"]:
    """Returns targets in 0 to 1 for the positives' boxes, in pixels of the resized image.

    `packed` are bitmaps of the image in its bucket (`np.packbits` of rows), zero beyond it, of
    which each box is `matched` to one; sizes are (height, width) in pixels.

    - `crop` (the 2018 toolbox): corners cut to whole pixels, x2 and y2 inside; the crop is
      resized as OpenCV resizes bytes of 0 and 1, to the bit.
    - `binary` (mmdet 2 and 3, detectron2's bitmasks): aligned RoIAlign (He et al. 2017; half a
      pixel's shift, a point a pixel) of the box clipped to the padded bitmap, at least 0.5.
    - `soft` (torchvision): RoIAlign without the shift, of a box at least one pixel wide and
      high; the bitmap ends with the resized image.

    RoIAlign takes one box after another: memory is O(size * width of the bitmap), time that times
    the pixels in a bin's height.  Images of a batch: `jax.lax.map`, since under `jax.vmap` each
    box waits for the tallest of the batch.

    Examples:
        >>> packed = jnp.asarray(np.packbits(np.eye(8, dtype=np.uint8), axis=1))[None]
        >>> box, first, eight = jnp.array([[0.0, 0, 7, 7]]), jnp.array([0]), jnp.array([8, 8])
        >>> mask_targets(packed, box, first, eight, eight, 2, "crop")[0].tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    if kind == "crop":
        return _crop(packed, boxes, matched, pad_size, size)
    if kind == "soft":
        end, starts = image_size, boxes[:, :2]
        sides = jnp.maximum(boxes[:, 2:] - starts, 1)
    else:
        clipped = jnp.clip(boxes, 0, jnp.tile(pad_size[::-1], 2)[None]) - 0.5
        end, starts = pad_size, clipped[:, :2]
        sides = clipped[:, 2:] - starts
    each = (matched, starts, sides)
    means = jax.lax.map(lambda box: _roi_align(packed, box[0], box[1], box[2], end, size), each)
    return means if kind == "soft" else (means >= 0.5).astype(jnp.float32)


def _roi_align(
    packed: Array, index: Array, start: Array, side: Array, end: Array, size: int
) -> Array:
    # A bin's mean is separable: rows first, which stay packed until they are read, then columns.
    row_bytes = packed.shape[2]

    def rows(y: Array) -> Array:
        # The bits of a byte come to lie `row_bytes` apart, and each is a shift by a constant: so
        # a CPU's vector units unpack seven times as fast as in the order of the pixels.
        row = packed[index, y]
        bits = jnp.stack([row >> shift & 1 for shift in range(7, -1, -1)], axis=1)
        return bits.reshape(size, 8 * row_bytes)

    def columns(x: Array) -> Array:
        return by_row[x % 8 * row_bytes + x // 8]

    by_row = _bin_means(rows, 8 * row_bytes, start[1], side[1], end[0], size).T
    return _bin_means(columns, size, start[0], side[0], end[1], size).T


def _bin_means(
    lines: Callable[[Array], Array], length: int, start: Array, side: Array, end: Array, size: int
) -> Array:
    # For each bin [size] the mean line [length] over its points, ceil(side / size) of them.
    # Every bin's first pixel is added, then its second and so on, one more than it has points.
    # Arithmetic and its order are torchvision's.  A constant divisor XLA would replace by its
    # reciprocal, and 14 bins of 700 px had 51 points: so the divisor is none, and a negative
    # side, which has no points, takes another.
    step = side / jnp.where(side < 0, 1.0, size)
    count = jnp.maximum(jnp.ceil(step), 0)
    bins = start + jnp.arange(size, dtype=jnp.float32) * step
    last = (end - 1).astype(jnp.float32)

    def point(k: Array | float) -> Array:
        return bins + (k + 0.5) * step / count

    def weight(pixel: Array) -> Array:
        # Points lie over half a pixel apart, unless a bin has one only: of those less than a
        # pixel away there are four at most, and rounding may put the first one off by one.
        near = jnp.maximum(jnp.ceil((pixel - 1 - bins) * count / step - 0.5) - 1, 0)
        total = jnp.zeros(size)
        for k in range(6):
            at = point(near + k)
            reach = jnp.maximum(1 - jnp.abs(jnp.clip(at, 0, last) - pixel), 0)
            total += jnp.where((near + k < count) & (at >= -1) & (at <= last + 1), reach, 0)
        return total / count

    def add(i: Array, total: Array) -> Array:
        pixel = first + i
        line = lines(jnp.minimum(pixel, last).astype(jnp.int32))
        return total + weight(pixel)[:, None] * line

    first = jnp.floor(jnp.clip(point(0.0), 0, last))
    touched = jnp.where(count > 0, jnp.minimum(count, last) + 1, 0).astype(jnp.int32)
    return jax.lax.fori_loop(0, touched, add, jnp.zeros((size, length)))


def _crop(packed: Array, boxes: Array, matched: Array, pad_size: Array, size: int) -> Array:
    # Arrays are [2 neighbours, n, size] per axis.  OpenCV weighs bytes in units of 2^-11 and drops
    # bits after either pass.
    tables = _opencv_resize(max(packed.shape[1], 8 * packed.shape[2]), size)
    corners = boxes.astype(jnp.int32)

    def axis(first: Array, last: Array, end: Array) -> tuple[Array, Array, Array]:
        side = jnp.maximum(jnp.minimum(last, end - 1) - first + 1, 1)[:, None]
        low, weight = (jnp.asarray(table)[side[:, 0] - 1] for table in tables)
        places = jnp.clip(jnp.stack([low, low + 1]), 0, side[None] - 1) + first[None, :, None]
        return places, jnp.stack([2048 - weight, weight]), (low >= 0) & (low < side - 1)

    y, down, _ = axis(corners[:, 1], corners[:, 3], pad_size[0])
    x, across, inside = axis(corners[:, 0], corners[:, 2], pad_size[1])
    # Past a border OpenCV takes its column once, but its row twice, which rounds otherwise.
    across = jnp.where(inside[None], across, jnp.array([2048, 0])[:, None, None])
    y, x = y[:, None, :, :, None], x[None, :, :, None, :]
    bits = packed[matched[None, None, :, None, None], y, x // 8] >> (7 - x % 8) & 1
    rows = (bits * across[None, :, :, None, :]).sum(1) >> 4
    quarters = (rows * down[:, :, :, None] >> 16).sum(0)
    return (quarters + 2 >> 2).astype(jnp.float32)


def _opencv_resize(longest: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    # For every side 1.. of a crop [longest] the pixel before each point [size] and the weight of
    # the next.  On the host, as a compiled division by a constant rounds otherwise (`_bin_means`).
    side = np.arange(1, longest + 1)[:, None]
    at = ((np.arange(size) + 0.5) * (side / size) - 0.5).astype(np.float32)
    low = np.floor(at)
    return low.astype(np.int32), np.rint((at - low) * np.float32(2048)).astype(np.int32)
