"""From the network's outputs to scored boxes: decode, top-k and NMS in one program."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxdet.config import ModelConfig, ProposalConfig
from jaxdet.detectors.network import Outputs
from jaxdet.ops import anchors as anchors_lib
from jaxdet.ops import boxes as boxes_lib
from jaxdet.ops.nms import nms
from jaxdet.types import Proposals


def propose(
    outputs: Outputs,
    image_size: Int[Array, "b 2"],
    pad_size: Int[Array, "b 2"],
    bucket: tuple[int, int],
    model: ModelConfig,
    config: ProposalConfig,
) -> Proposals:
    """The best boxes of each image, in pixels of the resized image.

    Infinite logits and deltas are ordinary extremes: scores of 0 and 1, boxes at the image's
    border.  An anchor whose logit or box is not a number takes no part.

    Args:
        outputs: logits and deltas of a bucket's batch.
        image_size: (height, width) of each image; boxes are clipped to it.
        pad_size: (height, width) of each padded image; anchors beyond take no part.
        bucket: (height, width) of the batch's arrays.
        model: for its anchors.
        config: how many to keep where.
    """
    grid = (bucket, model.strides)
    shapes = len(model.anchor_scales) * len(model.anchor_ratios)
    levels = anchors_lib.pyramid_anchors(*grid, model.anchor_scales, model.anchor_ratios)

    def one_image(logits: list, deltas: list, size: Array, pad: Array) -> Proposals:
        masks = anchors_lib.in_grid(pad, *grid, shapes)
        kept = [
            _level(x.reshape(-1), d.reshape(-1, 4), anchors, mask, size, config)
            for x, d, anchors, mask in zip(logits, deltas, levels, masks, strict=True)
        ]
        boxes, scores = (jnp.concatenate(parts) for parts in zip(*kept, strict=True))
        return _best(boxes, scores, config.max_num)

    return jax.vmap(one_image)(*outputs, image_size, pad_size)


def _level(
    logits: Array, deltas: Array, anchors: Array, mask: Array, size: Array, config: ProposalConfig
) -> tuple[Array, Array]:
    """Boxes [n, 4] and scores [n] of one level after NMS; a score of -1 marks a dropped one."""
    scores = jnp.where(mask & ~jnp.isnan(logits), jax.nn.sigmoid(logits), -1.0)
    scores, index = jax.lax.top_k(scores, min(config.nms_pre, scores.shape[0]))
    boxes = boxes_lib.decode(anchors[index], deltas[index], size)
    valid = (scores >= 0) & ~jnp.isnan(boxes).any(axis=1)
    if config.min_box_size > 0:
        sides = boxes[:, 2:] - boxes[:, :2] + 1
        valid &= (sides >= config.min_box_size).all(axis=1)
    kept = nms(boxes, valid, config.nms_threshold)
    if config.nms_post < scores.shape[0]:
        kept = _first(kept, index, mask.sum(), config)
    return boxes, jnp.where(kept, scores, -1.0)


def _first(kept: Array, index: Array, candidates: Array, config: ProposalConfig) -> Array:
    """The first `nms_post` of the kept boxes, in the reference's order.

    That is by score where top-k cut, and in the grid's order where there were too few
    candidates to cut.
    """
    n = kept.shape[0]
    place = jnp.where(candidates > config.nms_pre, jnp.arange(n), index)
    by_place = jnp.argsort(jnp.where(kept, place, jnp.iinfo(jnp.int32).max))
    return kept & jnp.zeros(n, bool).at[by_place[: config.nms_post]].set(True)


def _best(boxes: Array, scores: Array, count: int) -> Proposals:
    """The `count` best scores, padded with invalid boxes where there are fewer."""
    short = max(count - scores.shape[0], 0)
    scores = jnp.pad(scores, (0, short), constant_values=-1.0)
    scores, index = jax.lax.top_k(scores, count)
    valid = scores >= 0
    boxes = jnp.where(valid[:, None], jnp.pad(boxes, ((0, short), (0, 0)))[index], 0.0)
    return Proposals(boxes, jnp.where(valid, scores, 0.0), valid)
