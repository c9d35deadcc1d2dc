"""RoIs of the second stage: which are trained on, what they should become, what they read.

`P` proposals and `M` padded boxes of an image, `R` RoIs sampled from them.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from jaxdet.config import ModelConfig, RoIConfig
from jaxdet.detectors.classes import head_outputs
from jaxdet.ops.boxes import CONVENTIONS, encode
from jaxdet.ops.matching import match
from jaxdet.ops.roi_align import RoIAlign, roi_align, roi_levels
from jaxdet.ops.sampling import sample
from jaxdet.types import Batch

# Deltas of the second stage are divided by these (Girshick 2015); detectron2 and torchvision
# multiply by their inverses.
STDS = (0.1, 0.1, 0.2, 0.2)

_SALT = 1  # of RoIs' random numbers, apart from those of anchors


class RoIs(NamedTuple):
    """Sampled RoIs of each image: positives first, each kind in the order of proposals."""

    boxes: Float32[Array, "B R 4"]  # resized pixels
    valid: Bool[Array, "B R"]  # sampled; there may be fewer than R
    positive: Bool[Array, "B R"]
    matched: Int32[Array, "B R"]  # the box that a positive belongs to
    outputs: Int32[Array, "B R"]  # the class output that should win; 0 is the background
    deltas: Float32[Array, "B R 4"]  # zero where not positive


def sample_rois(
    batch: Batch,
    proposals: Float[Array, "B P 4"],
    valid: Bool[Array, "B P"],
    model: ModelConfig,
    config: RoIConfig,
) -> RoIs:
    """Returns the RoIs that an image is trained on, ground truth among them.

    Which are sampled depends on `batch.seed` and on their places among boxes and proposals.
    """
    convention, outputs = CONVENTIONS[model.convention], jnp.asarray(head_outputs(model), jnp.int32)

    def one_image(
        proposals: Array, valid: Array, boxes: Array, box_mask: Array, labels: Array, seed: Array
    ) -> RoIs:
        own = jnp.where(box_mask, jnp.arange(1, boxes.shape[0] + 1), -1)
        if config.match_truth:
            proposals = jnp.concatenate([proposals, boxes])
            valid = jnp.concatenate([valid, box_mask])
        iou = config.positive_iou
        least = iou if config.low_quality else 2.0  # more than any: no box claims a proposal
        matches = partial(match, pos_iou=iou, neg_iou=iou, min_pos_iou=least, convention=convention)
        matched = matches(proposals, valid, boxes, box_mask)
        if not config.match_truth:
            proposals = jnp.concatenate([boxes, proposals])
            matched = jnp.concatenate([own, matched])
        key = jax.random.fold_in(jax.random.key(seed), _SALT)
        priority = jax.random.uniform(key, matched.shape)
        limits = config.num_samples, config.positive_fraction
        positive, negative = sample(priority, matched > 0, matched == 0, *limits)
        place, count = jnp.arange(len(matched)), len(matched)
        order = jnp.where(positive, place, jnp.where(negative, place + count, 2 * count))
        chosen = jnp.argsort(order)[: config.num_samples]
        positive, matched = positive[chosen], jnp.maximum(matched[chosen] - 1, 0)
        rois = proposals[chosen]
        deltas = encode(rois, boxes[matched], convention) / jnp.array(STDS)[None]
        return RoIs(
            rois,
            order[chosen] < 2 * count,
            positive,
            matched,
            jnp.where(positive, outputs[labels[matched]], 0),
            jnp.where(positive[:, None], deltas, 0.0),
        )

    truth = batch.boxes, batch.box_mask, jnp.asarray(batch.labels)
    return jax.vmap(one_image)(proposals, valid, *truth, batch.seed)


def read_features(
    levels: list[Float[Array, "B _ _ c"]],
    boxes: Float[Array, "B n 4"],
    pad_size: Int[Array, "B 2"],
    size: int,
    model: ModelConfig,
    config: RoIConfig,
) -> Float[Array, "B*n p p c"]:
    """Returns the features of RoIs, in `size` x `size` bins; no gradient goes to the boxes."""
    roi = RoIAlign(config.aligned, config.points, config.min_side, config.level_rule)
    convention = CONVENTIONS[model.convention]
    strides = model.strides[:4]  # the coarsest level of a pyramid is the RPN's alone
    boxes = jax.lax.stop_gradient(boxes)
    own = roi_levels(boxes, len(strides), roi, convention)
    levels = levels[: len(strides)]
    x = roi_align(levels, boxes, own, pad_size, strides, size, roi, convention)
    return x.reshape(-1, *x.shape[2:])
