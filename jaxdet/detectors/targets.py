"""What the network should say: sampled positive and negative anchors and their deltas."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt32

from jaxdet.config import ModelConfig, TargetConfig
from jaxdet.ops import anchors as anchors_lib
from jaxdet.ops import boxes as boxes_lib
from jaxdet.ops.matching import match
from jaxdet.types import Batch


class Targets(NamedTuple):
    """`B` images, `N` anchors of all levels, fine to coarse."""

    positive: Array  # bool [B, N], sampled
    negative: Array  # bool [B, N], sampled
    deltas: Array  # float32 [B, N, 4], zero where not positive


def make_targets(batch: Batch, model: ModelConfig, config: TargetConfig) -> Targets:
    """Assigns, samples and encodes every image of a batch.

    An anchor takes part if it lies inside its image (not its padding).  Which anchors are
    sampled depends on `batch.seed` and the anchors' places alone, not on the bucket.
    """
    bucket = batch.image.shape[1:3]
    anchors = jnp.concatenate(
        anchors_lib.pyramid_anchors(bucket, model.strides, model.anchor_scales, model.anchor_ratios)
    )
    codes = _place_codes(bucket, model)

    def one_image(size: Array, boxes: Array, box_mask: Array, seed: Array) -> Targets:
        assigned = match(
            anchors,
            anchors_lib.inside(anchors, size),
            boxes,
            box_mask,
            pos_iou=config.positive_iou,
            neg_iou=config.negative_iou,
            min_pos_iou=config.min_positive_iou,
        )
        positive, negative = assigned > 0, assigned == 0
        if config.num_samples:
            priority = _priorities(seed, codes)
            positive, negative = sample(
                priority, positive, negative, config.num_samples, config.positive_fraction
            )
        deltas = boxes_lib.encode(anchors, boxes[jnp.maximum(assigned - 1, 0)])
        return Targets(positive, negative, jnp.where(positive[:, None], deltas, 0.0))

    return jax.vmap(one_image)(batch.image_size, batch.boxes, batch.box_mask, batch.seed)


def sample(
    priority: Float[Array, " n"],
    positive: Bool[Array, " n"],
    negative: Bool[Array, " n"],
    num: int,
    positive_fraction: float,
) -> tuple[Bool[Array, " n"], Bool[Array, " n"]]:
    """At most `num * positive_fraction` positives, then negatives to make `num` in all.

    Args:
        priority: in [0, 1); the highest are taken.
        positive: candidates.
        negative: candidates.
        num: anchors to take.
        positive_fraction: bound on the positives' share.
    """
    limit = int(num * positive_fraction)
    positive = _take(priority, positive, limit, jnp.int32(limit))
    negative = _take(priority, negative, num, num - positive.sum(dtype=jnp.int32))
    return positive, negative


def _take(priority: Array, candidates: Array, most: int, count: Array) -> Array:
    """The `count` (<= `most`) candidates of highest priority, earlier ones first in a tie."""
    n = priority.shape[0]
    value, index = jax.lax.top_k(jnp.where(candidates, priority, -1.0), min(most, n))
    taken = (value >= 0) & (jnp.arange(value.shape[0]) < count)
    return jnp.zeros(n, bool).at[index].set(taken)


def _place_codes(bucket: tuple[int, int], model: ModelConfig) -> UInt32[Array, " n"]:
    """A number for every anchor that depends on its level, row, column and shape alone."""
    shapes = len(model.anchor_scales) * len(model.anchor_ratios)
    codes = []
    for level, stride in enumerate(model.strides):
        rows, columns = anchors_lib.feature_size(bucket, stride)
        # 2**11 columns are 8192 pixels at stride 4; rows may wrap without harm.
        row = jnp.arange(rows, dtype=jnp.uint32)[:, None, None] << 11
        column = jnp.arange(columns, dtype=jnp.uint32)[None, :, None]
        shape = jnp.arange(shapes, dtype=jnp.uint32)[None, None, :]
        codes.append((((row + column) * shapes + shape) * 8 + level).reshape(-1))
    return jnp.concatenate(codes)


def _priorities(seed: UInt32[Array, ""], codes: UInt32[Array, " n"]) -> Float[Array, " n"]:
    """Uniform in [0, 1), a function of `seed` and each code (threefry, 24 bits)."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), codes)
    return (jax.random.key_data(keys)[:, 0] >> 8).astype(jnp.float32) * 2.0**-24
