"""From the scores and deltas of an RPN to proposals, for all images of a batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int

from jaxdet.config import ProposalConfig
from jaxdet.models.rpn_head import Outputs
from jaxdet.ops.anchors import AnchorGrid, in_grid, pyramid_anchors
from jaxdet.ops.boxes import BoxConvention, decode, sides
from jaxdet.ops.nms import nms
from jaxdet.types import Images, Predictions


def propose(
    outputs: Outputs, images: Images, grid: AnchorGrid, config: ProposalConfig
) -> Predictions:
    """Returns the best boxes of each image, in pixels of the resized image.

    Boxes are clipped to `images.image_size`; anchors beyond `pad_size` take no part, nor do those
    whose logit or box is not a number.  Infinite logits and deltas are ordinary extremes: scores
    of 0 and 1, boxes at the image's border.
    """
    bucket = images.image.shape[1:3]

    def one_image(logits: list, deltas: list, size: Array, pad: Array) -> Predictions:
        def choose(logits: Array, deltas: Array, anchors: Array, own: Array) -> _Candidates:
            """Returns the `nms_pre` best anchors of a level, of `own` cells and large enough."""
            logits = logits.reshape(-1)
            ranked = jnp.maximum(logits, jnp.finfo(jnp.float32).min)  # above what takes no part
            ranked = jnp.where(own & ~jnp.isnan(logits), ranked, -jnp.inf)
            ranked, index = jax.lax.top_k(ranked, min(config.nms_pre, len(anchors)))
            boxes = decode(anchors[index], deltas.reshape(-1, 4)[index], size, grid.convention)
            width, height = sides(boxes, grid.convention)
            # Where a side is not a number, neither is larger.
            large = (width > config.min_box_size) & (height > config.min_box_size)
            return _Candidates(boxes, ranked, large & (ranked > -jnp.inf), index, own.sum())

        places = pyramid_anchors(bucket, grid, pad), in_grid(pad, bucket, grid)
        levels = [choose(*level) for level in zip(logits, deltas, *places, strict=True)]
        kept = [
            _suppress(level, shift, config, grid.convention)
            for level, shift in zip(levels, _shifts(levels, config), strict=True)
        ]
        boxes = jnp.concatenate([level.boxes for level in levels])
        return _best(boxes, jnp.concatenate(kept), config.max_num)

    return jax.vmap(one_image)(*outputs, images.image_size, images.pad_size)


class _Candidates(NamedTuple):
    """The best anchors of a level, and the boxes they became, best first."""

    boxes: Float32[Array, "n 4"]
    logits: Float32[Array, " n"]
    valid: Bool[Array, " n"]
    place: Int[Array, " n"]  # of the anchor in its level
    available: Int[Array, ""]  # anchors of the image, before the choice


def _shifts(levels: list[_Candidates], config: ProposalConfig) -> list[Array | float]:
    """Returns the pixels by which each level's boxes move for suppression.

    Boxes of different levels do not meet; a batched NMS ensures it by moving level `l` right and
    down by `l` times the largest coordinate plus one, which rounds coordinates.
    """
    if not config.level_shift:
        return [0.0] * len(levels)
    largest = [jnp.where(x.valid[:, None], x.boxes, 0).max(initial=0) for x in levels]
    return [number * (jnp.stack(largest).max() + 1) for number in range(len(levels))]


def _suppress(
    level: _Candidates, shift: Array | float, config: ProposalConfig, convention: BoxConvention
) -> Float32[Array, " n"]:
    """Returns the logits of a level, minus infinity where NMS or `nms_post` drops a box."""
    kept = nms(level.boxes + shift, level.valid, config.nms_threshold, convention)
    n = kept.shape[0]
    if config.nms_post < n:
        # The first of them in the reference's order: by score where top-k cut, and in the grid's
        # where there were too few candidates to cut.
        place = jnp.where(level.available > config.nms_pre, jnp.arange(n), level.place)
        by_place = jnp.sort(jnp.where(kept, place, jnp.iinfo(jnp.int32).max))
        kept &= place <= by_place[config.nms_post - 1]
    return jnp.where(kept, level.logits, -jnp.inf)


def _best(boxes: Array, logits: Array, count: int) -> Predictions:
    """Returns the `count` best boxes, padded with invalid ones where there are fewer."""
    short = max(count - logits.shape[0], 0)
    logits = jnp.pad(logits, (0, short), constant_values=-jnp.inf)
    logits, index = jax.lax.top_k(logits, count)
    valid = logits > -jnp.inf
    boxes = jnp.where(valid[:, None], jnp.pad(boxes, ((0, short), (0, 0)))[index], 0.0)
    labels = jnp.zeros(count, jnp.int32)
    return Predictions(boxes, jnp.where(valid, jax.nn.sigmoid(logits), 0.0), labels, valid)
