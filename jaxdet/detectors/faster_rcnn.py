"""Faster R-CNN (Ren et al. 2015) and Fast R-CNN (Girshick 2015).

A first stage, an RPN or given proposals, says where objects may be; the second says of each what
it is, and refines its box.

`P` proposals of an image, `R` sampled RoIs, `C` class outputs, the background first.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Float32

from jaxdet.config import Config, ModelConfig, ProposalConfig, TrainConfig
from jaxdet.detectors.classes import head_outputs, labels_of
from jaxdet.detectors.detections import all_pairs, detect
from jaxdet.detectors.proposals import propose
from jaxdet.detectors.rois import STDS, RoIs, read_features, sample_rois
from jaxdet.detectors.rpn import (
    Terms,
    anchor_grid,
    anchor_losses,
    build_network,
    is_trainable,
    per_image,
)
from jaxdet.models.box_head import BOX_SIZE, BoxHead
from jaxdet.models.features import AnchorNetwork, Features, blank_images
from jaxdet.models.mask_head import MASK_SIZE
from jaxdet.models.params import apply
from jaxdet.models.resnet import SharedHead
from jaxdet.ops.boxes import CONVENTIONS, decode
from jaxdet.ops.losses import smooth_l1
from jaxdet.types import Batch, Detector, Images, Params, Predictions


class Proposed(NamedTuple):
    """What the first stage hands on."""

    levels: list[Float[Array, "B _ _ c"]]  # features
    boxes: Float32[Array, "B P 4"]  # resized pixels, without gradient
    valid: Bool[Array, "B P"]


class FirstStage(NamedTuple):
    """Where proposals come from, as pure functions of parameters."""

    init: Callable[[Array, Images], Params]
    train: Callable[[Params, Batch], tuple[Proposed, Terms, Terms]]  # with losses and numbers
    test: Callable[[Params, Images], Proposed]


class TwoStage(NamedTuple):
    """A detector of boxes that also tells what a further head needs."""

    init: Callable[[Array], Params]
    # losses, numbers, the features of levels, the RoIs, and their features as the box head has them
    loss: Callable[[Params, Batch], tuple[Terms, Terms, list[Array], RoIs, Array]]
    predict: Callable[[Params, Images], tuple[Predictions, list[Array]]]
    # features of boxes as heads take them, given the images' padded sizes and the bins wanted
    read: Callable[[Params, list[Array], Array, Array, int], Array]


def without_masks(stages: TwoStage, config: Config) -> Detector:
    """Returns a detector of what two stages give."""
    return Detector(
        stages.init,
        lambda params, batch: stages.loss(params, batch)[:2],
        lambda params, images: stages.predict(params, images)[0],
        partial(is_trainable, config=config.model),
    )


def rpn_stage(config: Config) -> FirstStage:
    """Returns a first stage that finds proposals, trained with the second."""
    model = config.model
    network, rois = build_network(model, config.train), config.rois
    counts = {"nms_pre": rois.nms_pre, "nms_post": rois.nms_post, "max_num": rois.max_num}
    training = ProposalConfig(**{**vars(config.proposals), **counts})

    def run(params: Params, images: Images, settings: ProposalConfig):
        levels, outputs = apply(network, params, images, method=AnchorNetwork.forward)
        found = propose(jax.lax.stop_gradient(outputs), images, anchor_grid(model), settings)
        return Proposed(levels, found.boxes, found.valid), outputs

    def train(params: Params, batch: Batch) -> tuple[Proposed, Terms, Terms]:
        proposed, outputs = run(params, batch.images, training)
        return proposed, *anchor_losses(outputs, batch, config, "loss_rpn")

    def test(params: Params, images: Images) -> Proposed:
        return run(params, images, config.proposals)[0]

    return FirstStage(lambda key, images: network.init(key, images)["params"], train, test)


def given_stage(config: Config) -> FirstStage:
    """Returns a first stage whose proposals come with the images."""
    network = Features(config.model, config.train)

    def init(key: Array, images: Images) -> Params:
        return network.init(key, images, method=Features.features)["params"]

    def test(params: Params, images: Images) -> Proposed:
        _, levels = apply(network, params, images, method=Features.features)
        return Proposed(levels, jnp.asarray(images.proposals), jnp.asarray(images.proposal_mask))

    return FirstStage(init, lambda params, batch: (test(params, batch.images), {}, {}), test)


def two_stage(config: Config, first: FirstStage) -> TwoStage:
    """Returns the second stage over a first one."""
    model, convention = config.model, CONVENTIONS[config.model.convention]
    shared, head = build_heads(model, config.train)

    def init(key: Array) -> Params:
        keys = jax.random.split(key, 3)
        params = first.init(keys[0], blank_images(config.data.pixel_dtype))
        side = pooled_size(model, BOX_SIZE)
        x = jnp.zeros((1, side, side, model.fpn_channels or 16 * model.stem_channels), head.dtype)
        if shared:
            params = {**params, "shared_head": shared.init(keys[1], x)["params"]}
            x = apply(shared, params["shared_head"], x)
        return {**params, "bbox_head": head.init(keys[2], x)["params"]}

    def read(params: Params, levels: list[Array], boxes: Array, pad_size: Array, bins: int):
        x = read_features(levels, boxes, pad_size, pooled_size(model, bins), model, config.rois)
        return apply(shared, params["shared_head"], x) if shared else x

    def say(params: Params, x: Array, count: int) -> tuple[Array, Array]:
        logits, deltas = apply(head, params["bbox_head"], x)
        logits = logits.reshape(-1, count, logits.shape[-1])
        return logits, deltas.reshape(*logits.shape, 4)

    def loss(params: Params, batch: Batch):
        proposed, losses, numbers = first.train(params, batch)
        rois = sample_rois(batch, proposed.boxes, proposed.valid, model, config.rois)
        x = read(params, proposed.levels, rois.boxes, batch.pad_size, BOX_SIZE)
        logits, deltas = say(params, x, rois.boxes.shape[1])
        own_losses, own_numbers = roi_losses(logits, deltas, rois, config.rois.smooth_l1_beta)
        return losses | own_losses, numbers | own_numbers, proposed.levels, rois, x

    def predict(params: Params, images: Images) -> tuple[Predictions, list[Array]]:
        proposed = first.test(params, images)
        x = read(params, proposed.levels, proposed.boxes, images.pad_size, BOX_SIZE)
        logits, deltas = say(params, x, proposed.boxes.shape[1])

        # A class's number, by which NMS may move its boxes, counts the background in some systems.
        start = 0 if model.class_outputs == "coco_ids" else 1
        class_labels = labels_of(model)

        def one_image(
            boxes: Array, valid: Array, logits: Array, deltas: Array, size: Array, scale: Array
        ) -> Predictions:
            scores = jax.nn.softmax(logits)[:, start:]
            scores = jnp.where(valid[:, None] & (class_labels >= 0)[None], scores, 0.0)
            deltas = deltas[:, start:] * jnp.array(STDS)[None, None]
            rois = jnp.broadcast_to(boxes[:, None], deltas.shape)
            pairs = all_pairs(decode(rois, deltas, size, convention), scores)
            return detect(*pairs, size, scale, class_labels, config.detections, convention)

        found = jax.vmap(one_image)(
            proposed.boxes, proposed.valid, logits, deltas, images.image_size, images.scale
        )
        return found, proposed.levels

    return TwoStage(init, loss, predict, read)


def build_heads(model: ModelConfig, train: TrainConfig) -> tuple[SharedHead | None, BoxHead]:
    """Returns C4's shared stage, or None with a pyramid, and the box head."""
    dtype = jnp.dtype(train.precision)
    shared = None if model.fpn_channels else SharedHead(model, train.remat, dtype)
    return shared, BoxHead(model, int(head_outputs(model).max()) + 1, dtype)


def pooled_size(model: ModelConfig, bins: int) -> int:
    """Returns how many bins RoIAlign makes along each axis for a head that wants `bins`."""
    return bins if model.fpn_channels else MASK_SIZE  # which C4's shared stage halves


def roi_losses(
    logits: Float[Array, "B R C"], deltas: Float[Array, "B R C 4"], rois: RoIs, beta: float
) -> tuple[Terms, Terms]:
    """Returns losses of this device's RoIs, both divided by how many there are, and numbers."""
    count = jnp.maximum(rois.valid.sum(), 1).astype(jnp.float32)
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, rois.outputs)
    own = jnp.take_along_axis(deltas, rois.outputs[..., None, None], axis=2)[:, :, 0]
    error = smooth_l1(own - rois.deltas, beta)
    right = (logits.argmax(axis=-1) == rois.outputs) & rois.valid
    losses = {
        "loss_cls": jnp.where(rois.valid, entropy, 0).sum() / count,
        "loss_bbox": jnp.where(rois.positive[..., None], error, 0).sum() / count,
    }
    numbers = {"accuracy": right.sum() / count, "num_positive_rois": per_image(rois.positive)}
    return losses, numbers
