"""RetinaNet (Lin et al. 2017b): network, losses and detections.

`K` outputs per anchor; the rest as in `rpn`, whose targets it shares.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdet.config import Config, DetectionConfig, ModelConfig, TargetConfig
from jaxdet.detectors.classes import labels_of, outputs_of
from jaxdet.detectors.detections import as_predictions, detect, detect_pairs
from jaxdet.detectors.rpn import Targets, anchor_grid, is_trainable, make_targets, per_image
from jaxdet.models.features import Features, blank_images, feature_fields
from jaxdet.models.params import apply
from jaxdet.models.retina_head import RetinaHead
from jaxdet.models.rpn_head import Outputs
from jaxdet.ops.anchors import in_grid, pyramid_anchors
from jaxdet.ops.boxes import decode
from jaxdet.ops.losses import focal_loss, giou_loss, smooth_l1
from jaxdet.types import Batch, Detector, Images, Params, Predictions


def retinanet(config: Config) -> Detector:
    """Returns the RetinaNet of a configuration as pure functions.

    Raises:
        InputError: its classes do not fit `config.model.class_outputs`.
    """
    model = config.model
    network = build_network(model, config.train.precision, config.train.remat)

    def init(key: Array) -> Params:
        return network.init(key, blank_images(config.data.pixel_dtype))["params"]

    def loss(params: Params, batch: Batch) -> tuple[dict[str, Array], dict[str, Array]]:
        targets = make_targets(batch, model, config.targets)
        outputs = apply(network, params, batch.images)
        cls, bbox = retinanet_losses(outputs, targets, batch, model, config.targets)
        losses = {"loss_cls": cls.sum(), "loss_bbox": bbox.sum()}
        return losses, {"num_positive": per_image(targets.positive)}

    def predict(params: Params, images: Images) -> Predictions:
        outputs = apply(network, params, images)
        return detections(outputs, images, model, config.detections)

    return Detector(init, loss, predict, partial(is_trainable, config=model))


class RetinaNet(Features):
    """From images to logits and deltas."""

    bbox_head: RetinaHead

    def __call__(self, images: Images) -> Outputs:
        """Returns logits and deltas of every anchor of the bucket."""
        return self.dense(self.bbox_head, images)[1]


def build_network(
    config: ModelConfig, precision: str = "float32", remat: bool = False
) -> RetinaNet:
    """Returns the network of a config, computing in `precision`; parameters are float32 always.

    Raises:
        InputError: as `retinanet`.
    """
    fields = feature_fields(config, precision, remat)
    head = RetinaHead(
        channels=config.head_channels,
        num_convs=config.head_convs,
        num_anchors=anchor_grid(config).per_cell,
        num_outputs=len(labels_of(config)),
        group_norm=config.group_norm,
        dtype=fields["dtype"],
    )
    return RetinaNet(bbox_head=head, **fields)


def retinanet_losses(
    outputs: Outputs, targets: Targets, batch: Batch, model: ModelConfig, config: TargetConfig
) -> tuple[Float[Array, " l"], Float[Array, " l"]]:
    """Returns classification and box loss of each level; their sum is what training minimises.

    Both are sums over anchors, divided as `TargetConfig.loss_count` says.
    """
    grid, bucket = anchor_grid(model), batch.image.shape[1:3]
    share = _shares(targets.positive.sum(axis=1), config)[:, None]
    wanted = jnp.asarray(outputs_of(model))[batch.labels]
    wanted = jnp.where(targets.positive, jnp.take_along_axis(wanted, targets.box, axis=1), -1)
    anchors = jax.vmap(lambda pad: pyramid_anchors(bucket, grid, pad))(batch.pad_size)
    classification, box = [], []
    start = 0
    for logits, deltas, own in zip(*outputs, anchors, strict=True):
        b, n, _ = own.shape
        logits, deltas = logits.reshape(b, n, -1), deltas.reshape(b, n, 4)
        level = slice(start, start + n)
        start = level.stop
        positive, negative = targets.positive[:, level], targets.negative[:, level]
        right = wanted[:, level, None] == jnp.arange(logits.shape[2])[None, None]
        entropy = focal_loss(logits, right).sum(axis=2)
        classification.append((jnp.where(positive | negative, entropy, 0) * share).sum())
        if config.box_loss == "giou":
            truth = jnp.take_along_axis(batch.boxes, targets.box[:, level, None], axis=1)
            found = decode(own, deltas, None, grid.convention)
            error = giou_loss(found, truth, grid.convention)
        else:
            difference = deltas - targets.deltas[:, level]
            error = smooth_l1(difference, config.smooth_l1_beta).sum(axis=2)
        box.append((jnp.where(positive, error, 0) * share).sum())
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
        levels = [level(*x) for x in zip(logits, deltas, *grids, strict=True)]
        rest = size, scale, config, grid.convention
        if config.pairs:
            pairs = [_best_pairs(*x, config.nms_pre) for x in levels]
            boxes, scores, outputs = (jnp.concatenate(x) for x in zip(*pairs, strict=True))
            found = detect_pairs(boxes, scores, outputs, *rest)
        else:
            boxes, scores = (jnp.concatenate(x) for x in zip(*levels, strict=True))
            found = detect(boxes, scores, *rest)
        return as_predictions(found, labels)

    return jax.vmap(one_image)(*outputs, images.image_size, images.pad_size, images.scale)


def _best_pairs(boxes: Array, scores: Array, count: int) -> tuple[Array, Array, Array]:
    """Returns boxes, scores and outputs of the best pairs of an anchor and an output.

    The best `count` pairs are among the best `count` anchors.
    """
    top, index = jax.lax.top_k(scores.reshape(-1), min(count, scores.size))
    return boxes[index // scores.shape[1]], top, index % scores.shape[1]
