"""RetinaNet (Lin et al. 2017b): network, losses and detections.

`K` outputs per anchor; the rest as in `rpn`, whose targets it shares.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdet.config import Config, DetectionConfig, ModelConfig, TargetConfig, TrainConfig
from jaxdet.detectors.classes import labels_of, outputs_of
from jaxdet.detectors.detections import all_pairs, best_pairs, detect
from jaxdet.detectors.rpn import (
    Targets,
    Terms,
    anchor_grid,
    by_level,
    is_trainable,
    make_targets,
    per_image,
)
from jaxdet.models.features import AnchorNetwork, blank_images
from jaxdet.models.params import apply
from jaxdet.models.retina_head import RetinaHead
from jaxdet.models.rpn_head import Outputs
from jaxdet.ops.anchors import in_grid, pyramid_anchors
from jaxdet.ops.boxes import decode
from jaxdet.ops.losses import focal_loss, giou_loss, smooth_l1
from jaxdet.types import Batch, Detector, Images, Params, Predictions


def retinanet(config: Config) -> Detector:
    """Returns RetinaNet as pure functions; `InputError` if classes do not fit their outputs."""
    model = config.model
    network = build_network(model, config.train)

    def init(key: Array) -> Params:
        return network.init(key, blank_images(config.data.pixel_dtype))["params"]

    def loss(params: Params, batch: Batch) -> tuple[Terms, Terms]:
        targets = make_targets(batch, model, config.targets)
        outputs = apply(network, params, batch.images)
        cls, bbox = retinanet_losses(outputs, targets, batch, model, config.targets)
        losses = {"loss_cls": cls.sum(), "loss_bbox": bbox.sum()}
        return losses, {"num_positive": per_image(targets.positive)}

    def predict(params: Params, images: Images) -> Predictions:
        outputs = apply(network, params, images)
        return detections(outputs, images, model, config.detections)

    return Detector(init, loss, predict, partial(is_trainable, config=model))


def build_network(config: ModelConfig, train: TrainConfig) -> AnchorNetwork:
    """Returns the network of a config; raises as `retinanet` does."""
    sizes = anchor_grid(config).per_cell, len(labels_of(config))
    head = RetinaHead(config, *sizes, jnp.dtype(train.precision), name="bbox_head")
    return AnchorNetwork(config, train, head)


def retinanet_losses(
    outputs: Outputs, targets: Targets, batch: Batch, model: ModelConfig, config: TargetConfig
) -> tuple[Float[Array, " l"], Float[Array, " l"]]:
    """Returns classification and box loss of each level; their sum is what training minimises.

    Both are sums over anchors, divided as `TargetConfig.loss_count` says.
    """
    grid, bucket = anchor_grid(model), batch.image.shape[1:3]
    share = _shares(targets.positive.sum(axis=1), config)[:, None]
    truth = jnp.asarray(outputs_of(model))[batch.labels]
    anchors = jax.vmap(lambda pad: pyramid_anchors(bucket, grid, pad))(batch.pad_size)
    classification, box = [], []
    for places, (logits, deltas, own) in zip(anchors, by_level(outputs, targets), strict=True):
        wanted = jnp.where(own.positive, jnp.take_along_axis(truth, own.box, axis=1), -1)
        right = wanted[..., None] == jnp.arange(logits.shape[2])[None, None]
        entropy = focal_loss(logits, right).sum(axis=2)
        taken = own.positive | own.negative
        classification.append((jnp.where(taken, entropy, 0) * share).sum())
        if config.box_loss == "giou":
            boxes = jnp.take_along_axis(batch.boxes, own.box[..., None], axis=1)
            found = decode(places, deltas, None, grid.convention)
            error = giou_loss(found, boxes, grid.convention)
        else:
            error = smooth_l1(deltas - own.deltas, config.smooth_l1_beta).sum(axis=2)
        box.append((jnp.where(own.positive, error, 0) * share).sum())
    return jnp.stack(classification), jnp.stack(box)


def _shares(positives: Int[Array, " b"], config: TargetConfig) -> Float[Array, " b"]:
    """Returns what each image's losses are multiplied by, from its number of positives."""
    each = jnp.maximum(positives, 1).astype(jnp.float32)
    if config.loss_count == "per_image":
        return 1 / (each * len(each))
    total = each.sum()
    if config.loss_count == "average":
        total = 90 + 0.1 * jnp.maximum(positives.sum(), 1).astype(jnp.float32)
    return jnp.broadcast_to(1 / total, each.shape)


def detections(
    outputs: Outputs, images: Images, model: ModelConfig, config: DetectionConfig
) -> Predictions:
    """Returns the detections of each image, in pixels of the resized image."""
    grid, bucket = anchor_grid(model), images.image.shape[1:3]
    labels = labels_of(model)

    def one_image(logits: list, deltas: list, size: Array, pad: Array, scale: Array) -> Predictions:
        def level(logits: Array, deltas: Array, anchors: Array, own: Array) -> tuple[Array, Array]:
            """Returns boxes and scores of a level's best anchors, by their best class."""
            logits = logits.reshape(len(anchors), -1)
            # Neither does what is no number take part, nor what stands for no class.
            taken = own[:, None] & (labels >= 0)[None] & ~jnp.isnan(logits)
            logits = jnp.where(taken, logits, -jnp.inf)
            _, index = jax.lax.top_k(logits.max(axis=1), min(config.nms_pre, len(anchors)))
            within = size if config.clip_first else None
            found = deltas.reshape(-1, 4)[index]
            boxes = decode(anchors[index], found, within, grid.convention)
            return boxes, jax.nn.sigmoid(logits[index])

        grids = pyramid_anchors(bucket, grid, pad), in_grid(pad, bucket, grid)
        pairs = partial(best_pairs, count=config.nms_pre) if config.pairs else all_pairs
        levels = [pairs(*level(*x)) for x in zip(logits, deltas, *grids, strict=True)]
        boxes, scores, outputs = (jnp.concatenate(x) for x in zip(*levels, strict=True))
        return detect(boxes, scores, outputs, size, scale, labels, config, grid.convention)

    return jax.vmap(one_image)(*outputs, images.image_size, images.pad_size, images.scale)
