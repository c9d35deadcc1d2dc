"""Anchors: the boxes of a few shapes that stand on every cell of a feature map.

`A` anchors per cell, `H, W` cells; anchors of a level are ordered by row, column, shape, so
`[H * W * A, 4]` matches the head's output `[H, W, A]` flattened.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int


def base_anchors(
    stride: int, scales: Sequence[float | int], ratios: Sequence[float]
) -> Float32[np.ndarray, "a 4"]:
    """The anchors of the cell at the origin, on the host.

    Side lengths are `stride * scale / sqrt(ratio)` by `stride * scale * sqrt(ratio)`; corners
    are rounded half to even as in the reference.

    Args:
        stride: pixels between cells, also the base size.
        scales: multiples of the base size.
        ratios: height over width.

    Returns:
        float32 `[A, 4]` with `A = len(ratios) * len(scales)`, ratio-major, pixels.
    """
    root = np.sqrt(np.asarray(ratios, np.float32))[:, None]
    scale = np.asarray(scales, np.float32)[None]
    size = np.float32(stride)
    widths = (size * (1 / root) * scale).ravel()
    heights = (size * root * scale).ravel()
    centre = np.float32(0.5 * (stride - 1))
    half_w, half_h = 0.5 * (widths - 1), 0.5 * (heights - 1)
    corners = [centre - half_w, centre - half_h, centre + half_w, centre + half_h]
    return np.stack(corners, axis=-1).round().astype(np.float32)


def feature_size(image_hw: tuple[int, int], stride: int) -> tuple[int, int]:
    """Cells of a level, `(rows, columns)`, for an image of `image_hw` pixels: rounded up."""
    return -(-image_hw[0] // stride), -(-image_hw[1] // stride)


def grid_anchors(
    base: Float32[np.ndarray, "a 4"], stride: int, size: tuple[int, int]
) -> Float[Array, "n 4"]:
    """The anchors of every cell of one level.

    Built from `base` and the cell's index, so a jitted caller carries `[A, 4]` numbers and not
    the whole grid as a constant.  All values are small integers: exact in float32.

    Args:
        base: float32 `[A, 4]` of `base_anchors`.
        stride: pixels between cells.
        size: `(rows, columns)` of the feature map.

    Returns:
        float32 `[rows * columns * A, 4]`, pixels.
    """
    rows, columns = size
    y = jnp.arange(rows, dtype=jnp.float32) * stride
    x = jnp.arange(columns, dtype=jnp.float32) * stride
    shift = jnp.stack(
        [
            jnp.broadcast_to(x[None, :], size),
            jnp.broadcast_to(y[:, None], size),
        ]
        * 2,
        axis=-1,
    )
    return (shift[:, :, None] + jnp.asarray(base)[None, None]).reshape(-1, 4)


def pyramid_anchors(
    image_hw: tuple[int, int],
    strides: Sequence[int],
    scales: Sequence[float | int],
    ratios: Sequence[float | int],
) -> list[Float[Array, "_ 4"]]:
    """The anchors of every level for images padded to `image_hw`.

    Args:
        image_hw: `(height, width)` of the bucket, pixels.
        strides: one per level, pixels.
        scales: anchor side over stride.
        ratios: height over width.

    Returns:
        One float32 `[n_l, 4]` per level, pixels.
    """
    return [
        grid_anchors(base_anchors(s, scales, ratios), s, feature_size(image_hw, s)) for s in strides
    ]


def in_grid(
    pad_size: Int[Array, "2"], image_hw: tuple[int, int], strides: Sequence[int], per_cell: int
) -> list[Bool[Array, " _"]]:
    """Which anchors of `pyramid_anchors` stand on the image's own cells.

    An image may be smaller than its bucket; its own cells are those that it would have had if
    padded only to `pad_size`.

    Args:
        pad_size: `(height, width)` of the padded image, pixels; may be traced.
        image_hw: `(height, width)` of the bucket, pixels.
        strides: one per level, pixels.
        per_cell: anchors per cell, `A`.

    Returns:
        One bool `[n_l]` per level.
    """
    masks = []
    for stride in strides:
        rows, columns = feature_size(image_hw, stride)
        own = -(-pad_size // stride)
        cell = (jnp.arange(rows) < own[0])[:, None] & (jnp.arange(columns) < own[1])[None, :]
        mask = jnp.broadcast_to(cell[:, :, None], (rows, columns, per_cell))
        masks.append(mask.reshape(-1))
    return masks


def inside(
    anchors: Float[Array, "n 4"], image_size: Int[Array, "2"] | Float[Array, "2"]
) -> Bool[Array, " n"]:
    """Which anchors lie wholly inside the image before padding.

    Args:
        anchors: float `[n, 4]`, pixels.
        image_size: `(height, width)`, pixels; may be traced.

    Returns:
        bool `[n]`: `x1 >= 0`, `y1 >= 0`, `x2 < width` and `y2 < height`.
    """
    height, width = image_size.astype(anchors.dtype)
    x1, y1, x2, y2 = (anchors[:, i] for i in range(4))
    return (x1 >= 0) & (y1 >= 0) & (x2 < width) & (y2 < height)
