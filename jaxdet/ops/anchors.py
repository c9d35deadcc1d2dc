"""Anchors: the boxes of a few shapes that stand on every cell of a feature map.

`A` anchors per cell, `H, W` cells; anchors of a level are ordered by row, column, shape, so
`[H * W * A, 4]` matches the head's output `[H, W, A]` flattened.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int

from jaxdet.ops.boxes import MMDET1, BoxConvention, ImageSize


class AnchorGrid(NamedTuple):
    """The anchors of every level of a pyramid, as static numbers."""

    strides: tuple[int, ...]  # pixels per cell, fine to coarse
    scales: tuple[float, ...]  # anchor side over stride
    ratios: tuple[float, ...]  # height over width
    convention: BoxConvention = MMDET1

    @property
    def per_cell(self) -> int:
        """Anchors on a cell, `A`."""
        return len(self.scales) * len(self.ratios)


def base_anchors(
    stride: int,
    scales: Sequence[float | int],
    ratios: Sequence[float],
    convention: BoxConvention = MMDET1,
) -> Float32[np.ndarray, "a 4"]:
    """Returns the anchors of the cell at the origin, ratio-major, on the host.

    Sides are `stride * scale / sqrt(ratio)` by `stride * scale * sqrt(ratio)` pixels, where a
    ratio is height over width; see `BoxConvention` for whole sides, centre and rounding.

    Examples:
        >>> base_anchors(16, (8,), (1.0,))
        array([[-56., -56.,  71.,  71.]], dtype=float32)
    """
    root = np.sqrt(np.asarray(ratios, np.float32))[:, None]
    size, scale = np.float32(stride), np.asarray(scales, np.float32)[None]
    if convention.whole_sides:
        size, scale = np.float32(1), np.trunc(stride * np.asarray(scales))[None].astype(np.float32)
    widths = (size * (1 / root) * scale).ravel()
    heights = (size * root * scale).ravel()
    centre = np.float32(convention.anchor_centre * (stride - convention.offset))
    half_w, half_h = 0.5 * (widths - convention.offset), 0.5 * (heights - convention.offset)
    corners = np.stack([centre - half_w, centre - half_h, centre + half_w, centre + half_h], -1)
    return (corners.round() if convention.round_anchors else corners).astype(np.float32)


def feature_size(image_hw: tuple[int, int], stride: int) -> tuple[int, int]:
    """Returns the rows and columns of a level for an image of (height, width) pixels.

    Examples:
        >>> feature_size((100, 96), 32)
        (4, 3)
    """
    return -(-image_hw[0] // stride), -(-image_hw[1] // stride)


def grid_anchors(
    base: Float32[np.ndarray, "a 4"], stride: int | Int[Array, "2"], size: tuple[int, int]
) -> Float[Array, "n 4"]:
    """Returns the anchors of every cell of a level of `size` rows and columns, in pixels.

    `stride` is one of both axes, or that of (y, x), perhaps traced.  Built from `base` and the
    cell's index, so a jitted caller carries `[A, 4]` numbers and not the whole grid as a constant.

    Examples:
        >>> grid_anchors(np.array([[-1, -1, 2, 2]], np.float32), 4, (1, 2))
        Array([[-1., -1.,  2.,  2.],
               [ 3., -1.,  6.,  2.]], dtype=float32)
    """
    stride_y, stride_x = (stride, stride) if isinstance(stride, int) else stride
    y = jnp.arange(size[0], dtype=jnp.float32) * stride_y
    x = jnp.arange(size[1], dtype=jnp.float32) * stride_x
    corner = [jnp.broadcast_to(x[None, :], size), jnp.broadcast_to(y[:, None], size)]
    shift = jnp.stack(corner * 2, axis=-1)
    return (shift[:, :, None] + jnp.asarray(base)[None, None]).reshape(-1, 4)


def pyramid_anchors(
    image_hw: tuple[int, int], grid: AnchorGrid, pad_size: Int[Array, "2"] | None = None
) -> list[Float[Array, "_ 4"]]:
    """Returns the anchors of every level of a bucket of (height, width) pixels.

    Where strides are measured, those of an image that is padded to `pad_size`, by default the
    whole bucket; elsewhere all images of a bucket have the same.

    Examples:
        >>> grid = AnchorGrid(strides=(16, 32), scales=(8.0,), ratios=(0.5, 1.0, 2.0))
        >>> [level.shape for level in pyramid_anchors((64, 96), grid)]
        [(72, 4), (18, 4)]
    """
    levels, padded = [], jnp.array(image_hw) if pad_size is None else pad_size
    for stride in grid.strides:
        base = base_anchors(stride, grid.scales, grid.ratios, grid.convention)
        step = padded // -(-padded // stride) if grid.convention.measured_strides else stride
        levels.append(grid_anchors(base, step, feature_size(image_hw, stride)))
    return levels


def in_grid(
    pad_size: Int[Array, "2"], image_hw: tuple[int, int], grid: AnchorGrid
) -> list[Bool[Array, " _"]]:
    """Returns, per level, which anchors of `pyramid_anchors` stand on the image's own cells.

    An image may be smaller than its bucket of `image_hw` pixels; its own cells are those that it
    would have had if padded only to `pad_size`, (height, width), which may be traced.

    Examples:
        >>> grid = AnchorGrid(strides=(32,), scales=(8.0,), ratios=(1.0,))
        >>> in_grid(jnp.array([32, 64]), (64, 64), grid)[0].tolist()
        [True, True, False, False]
    """
    masks = []
    for stride in grid.strides:
        rows, columns = feature_size(image_hw, stride)
        own = -(-pad_size // stride)
        cell = (jnp.arange(rows) < own[0])[:, None] & (jnp.arange(columns) < own[1])[None, :]
        mask = jnp.broadcast_to(cell[:, :, None], (rows, columns, grid.per_cell))
        masks.append(mask.reshape(-1))
    return masks


def inside(anchors: Float[Array, "n 4"], image_size: ImageSize) -> Bool[Array, " n"]:
    """Returns which anchors lie wholly inside an image of (height, width) before padding.

    That is `x1 >= 0`, `y1 >= 0`, `x2 < width` and `y2 < height`, in every convention.

    Examples:
        >>> inside(jnp.array([[0.0, 0, 9, 9], [-1, 0, 9, 9]]), jnp.array([10, 10])).tolist()
        [True, False]
    """
    height, width = image_size.astype(anchors.dtype)
    x1, y1, x2, y2 = (anchors[:, i] for i in range(4))
    return (x1 >= 0) & (y1 >= 0) & (x2 < width) & (y2 < height)
