"""Random sampling of anchors: who is taken depends on the seed and the anchors' places alone."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from jaxdet.ops.anchors import AnchorGrid, feature_size


def sample(
    priority: Float[Array, " n"],
    positive: Bool[Array, " n"],
    negative: Bool[Array, " n"],
    num: int,
    positive_fraction: float,
) -> tuple[Bool[Array, " n"], Bool[Array, " n"]]:
    """Returns at most `num * positive_fraction` positives, then negatives to make `num` in all.

    Those of the highest priority, in [0, 1), are taken.

    Examples:
        >>> positive = jnp.array([True, True, False, False, False])
        >>> priority = jnp.array([0.1, 0.2, 0.3, 0.4, 0.5])
        >>> [x.tolist() for x in sample(priority, positive, ~positive, 2, 0.5)]
        [[False, True, False, False, False], [False, False, False, False, True]]
    """
    limit = int(num * positive_fraction)
    positive = _take(priority, positive, limit, jnp.int32(limit))
    negative = _take(priority, negative, num, num - positive.sum(dtype=jnp.int32))
    return positive, negative


def priorities(
    seed: UInt32[Array, ""], bucket: tuple[int, int], grid: AnchorGrid
) -> Float[Array, " n"]:
    """Returns a number in [0, 1) for every anchor, of all levels, of a bucket (height, width).

    It is a function of the seed and of the anchor's level, row, column and shape (threefry, 24
    bits), so that it does not depend on the bucket.

    Examples:
        >>> grid = AnchorGrid(strides=(32,), scales=(8.0,), ratios=(1.0,))
        >>> small, large = (priorities(jnp.uint32(7), (32, side), grid) for side in (64, 96))
        >>> bool((small == large[:2]).all())
        True
    """
    codes = _place_codes(bucket, grid)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), codes)
    return (jax.random.key_data(keys)[:, 0] >> 8).astype(jnp.float32) * 2.0**-24


def _take(
    priority: Array, candidates: Array, most: int, count: Int[Array, ""]
) -> Bool[Array, " n"]:
    """Returns the `count` (<= `most`) candidates of highest priority, of equals the first."""
    n = priority.shape[0]
    value, index = jax.lax.top_k(jnp.where(candidates, priority, -1.0), min(most, n))
    taken = (value >= 0) & (jnp.arange(value.shape[0]) < count)
    return jnp.zeros(n, bool).at[index].set(taken)


def _place_codes(bucket: tuple[int, int], grid: AnchorGrid) -> UInt32[Array, " n"]:
    """Returns a number for every anchor that tells its level, row, column and shape."""
    codes = []
    for level, stride in enumerate(grid.strides):
        rows, columns = feature_size(bucket, stride)
        # 2**11 columns are 8192 pixels at stride 4; rows may wrap without harm.
        row = jnp.arange(rows, dtype=jnp.uint32)[:, None, None] << 11
        column = jnp.arange(columns, dtype=jnp.uint32)[None, :, None]
        shape = jnp.arange(grid.per_cell, dtype=jnp.uint32)[None, None, :]
        codes.append((((row + column) * grid.per_cell + shape) * 8 + level).reshape(-1))
    return jnp.concatenate(codes)
