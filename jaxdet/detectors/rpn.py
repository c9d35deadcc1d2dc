"""The region proposal network (Ren et al. 2015): network, targets, losses and proposals.

`B` images, `A` anchors per cell, `N` anchors of all levels, fine to coarse.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32

from jaxdet.config import Config, ModelConfig, TargetConfig, TrainConfig
from jaxdet.detectors.proposals import propose
from jaxdet.models.features import AnchorNetwork, blank_images
from jaxdet.models.params import apply
from jaxdet.models.rpn_head import Outputs, RPNHead
from jaxdet.ops.anchors import AnchorGrid, in_grid, inside, pyramid_anchors
from jaxdet.ops.boxes import CONVENTIONS, encode
from jaxdet.ops.losses import binary_cross_entropy, smooth_l1
from jaxdet.ops.matching import match
from jaxdet.ops.sampling import priorities, sample
from jaxdet.types import Batch, Detector, Images, Params, Predictions

Terms = dict[str, Array]  # float32 scalars: losses, or numbers to be logged


class Targets(NamedTuple):
    """What the network should say."""

    positive: Bool[Array, "B N"]  # sampled
    negative: Bool[Array, "B N"]  # sampled
    deltas: Float32[Array, "B N 4"]  # zero where not positive
    box: Int32[Array, "B N"]  # the box of a positive one; of others, any


def rpn(config: Config) -> Detector:
    """Returns the RPN of a configuration as pure functions."""
    network = build_network(config.model, config.train)

    def init(key: Array) -> Params:
        return network.init(key, blank_images(config.data.pixel_dtype))["params"]

    def loss(params: Params, batch: Batch) -> tuple[Terms, Terms]:
        return anchor_losses(apply(network, params, batch.images), batch, config, "loss")

    def predict(params: Params, images: Images) -> Predictions:
        outputs = apply(network, params, images)
        return propose(outputs, images, anchor_grid(config.model), config.proposals)

    return Detector(init, loss, predict, partial(is_trainable, config=config.model))


def build_network(config: ModelConfig, train: TrainConfig) -> AnchorNetwork:
    """Returns the network of a config."""
    dtype = jnp.dtype(train.precision)
    head = RPNHead(config, anchor_grid(config).per_cell, dtype, name="rpn_head")
    return AnchorNetwork(config, train, head)


def anchor_grid(config: ModelConfig) -> AnchorGrid:
    """Returns the anchors of a config."""
    convention = CONVENTIONS[config.convention]
    return AnchorGrid(config.strides, config.anchor_scales, config.anchor_ratios, convention)


def is_trainable(path: tuple[str, ...], config: ModelConfig) -> bool:
    """Returns whether the tensor at a path trains: statistics and frozen stages do not."""
    if path[-1] in ("mean", "var"):
        return False
    if path[0] not in ("backbone", "shared_head"):
        return True
    stage = 0 if path[1] == "conv1" else int(path[1].removeprefix("layer").split("_")[0])
    return stage > config.frozen_stages and (config.train_norm or path[-1] == "kernel")


def make_targets(batch: Batch, model: ModelConfig, config: TargetConfig) -> Targets:
    """Returns the sampled anchors of every image of a batch, and what they should become.

    An anchor takes part if it stands on a cell of its padded image, and lies inside the image
    itself if `config.inside_only`.  Which anchors are sampled depends on `batch.seed` and the
    anchors' places alone, not on the bucket.
    """
    bucket, grid = batch.image.shape[1:3], anchor_grid(model)

    def one_image(size: Array, pad: Array, boxes: Array, box_mask: Array, seed: Array) -> Targets:
        anchors = jnp.concatenate(pyramid_anchors(bucket, grid, pad))
        inner = config.inside_only
        matched = match(
            anchors,
            inside(anchors, size) if inner else jnp.concatenate(in_grid(pad, bucket, grid)),
            boxes,
            box_mask,
            pos_iou=config.positive_iou,
            neg_iou=config.negative_iou,
            min_pos_iou=config.min_positive_iou,
            low_quality_takes=config.low_quality_takes,
            convention=grid.convention,
        )
        positive, negative = matched > 0, matched == 0
        if config.num_samples:
            priority = priorities(seed, bucket, grid)
            limits = config.num_samples, config.positive_fraction
            positive, negative = sample(priority, positive, negative, *limits)
        box = jnp.maximum(matched - 1, 0)
        deltas = encode(anchors, boxes[box], grid.convention)
        return Targets(positive, negative, jnp.where(positive[:, None], deltas, 0.0), box)

    sizes = batch.image_size, batch.pad_size
    return jax.vmap(one_image)(*sizes, batch.boxes, batch.box_mask, batch.seed)


def anchor_losses(outputs: Outputs, batch: Batch, config: Config, name: str) -> tuple[Terms, Terms]:
    """Returns classification and box loss, called `name`_cls and _bbox, and numbers."""
    targets = make_targets(batch, config.model, config.targets)
    cls, bbox = rpn_losses(outputs, targets, config.targets)
    losses = {f"{name}_cls": cls.sum(), f"{name}_bbox": bbox.sum()}
    return losses, {"num_positive": per_image(targets.positive)}


def per_image(positive: Bool[Array, "B n"]) -> Float32[Array, ""]:
    """Returns how many positives an image has on average, to be logged."""
    return positive.sum(axis=1).astype(jnp.float32).mean()


def rpn_losses(
    outputs: Outputs, targets: Targets, config: TargetConfig
) -> tuple[Float[Array, " l"], Float[Array, " l"]]:
    """Returns classification and box loss of each level; their sum is what training minimises.

    Both are sums over this device's images divided by the same number of anchors; see
    `TargetConfig.loss_count`.
    """
    counts = jnp.stack([targets.positive.sum(axis=1), targets.negative.sum(axis=1)])
    total = {
        "at_least_one": jnp.maximum(counts, 1).sum(),
        "sampled": jnp.maximum(counts.sum(), 1),
        "quota": jnp.int32(config.num_samples * counts.shape[1]),
    }[config.loss_count].astype(jnp.float32)
    classification, box = [], []
    for logits, deltas, own in by_level(outputs, targets):
        entropy = binary_cross_entropy(logits[..., 0], own.positive)
        classification.append(jnp.where(own.positive | own.negative, entropy, 0).sum() / total)
        error = smooth_l1(deltas - own.deltas, config.smooth_l1_beta)
        box.append(jnp.where(own.positive[..., None], error, 0).sum() / total)
    return jnp.stack(classification), jnp.stack(box)


def by_level(outputs: Outputs, targets: Targets) -> Iterator[tuple[Array, Array, Targets]]:
    """Yields logits [B, n, outputs], deltas [B, n, 4] and targets of each level's n anchors."""
    start = 0
    for logits, deltas in zip(*outputs, strict=True):
        deltas = deltas.reshape(len(deltas), -1, 4)
        end = start + deltas.shape[1]
        own = Targets(*(x[:, start:end] for x in targets))
        yield logits.reshape(*deltas.shape[:2], -1), deltas, own
        start = end
