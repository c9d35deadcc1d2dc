"""Mask R-CNN (He et al. 2017): Faster or Fast R-CNN, and a mask of each detection."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxdet.config import Config
from jaxdet.detectors.classes import head_outputs
from jaxdet.detectors.faster_rcnn import TwoStage
from jaxdet.detectors.rois import RoIs
from jaxdet.detectors.rpn import is_trainable
from jaxdet.models.mask_head import MASK_SIZE, MaskHead
from jaxdet.models.params import apply
from jaxdet.ops.masks import mask_targets
from jaxdet.types import Batch, Detector, Images, Params, Predictions


def with_masks(stages: TwoStage, config: Config) -> Detector:
    """Returns a detector of what two stages give, and of masks.

    With a pyramid the head reads features of its own; C4's reads what the box head does.
    """
    model, is_c4 = config.model, not config.model.fpn_channels
    dtype = jnp.dtype(config.train.precision)
    outputs = head_outputs(model)
    head = MaskHead(model, int(outputs.max()) + 1, dtype)

    def init(key: Array) -> Params:
        keys = jax.random.split(key)
        channels = model.stem_channels * 32 if is_c4 else model.fpn_channels
        x = jnp.zeros((1, MASK_SIZE, MASK_SIZE, channels), dtype)
        return {**stages.init(keys[0]), "mask_head": head.init(keys[1], x)["params"]}

    def draw(params: Params, x: Array, outputs: Array) -> Array:
        """Returns the logits of one class of each RoI."""
        logits = apply(head, params["mask_head"], x)
        chosen = outputs.reshape(-1, 1, 1, 1)
        logits = jnp.take_along_axis(logits, chosen, axis=-1)[..., 0]
        return logits.reshape(*outputs.shape, *logits.shape[1:])

    def loss(params: Params, batch: Batch):
        losses, numbers, levels, rois, x = stages.loss(params, batch)
        count = rois.boxes.shape[1]
        most = int(config.rois.num_samples * config.rois.positive_fraction)
        rois = RoIs(*(field[:, :most] for field in rois))  # all positives are among them
        if is_c4:
            x = x.reshape(-1, count, *x.shape[1:])[:, :most].reshape(-1, *x.shape[1:])
        else:
            x = stages.read(params, levels, rois.boxes, batch.pad_size, MASK_SIZE)
        logits = draw(params, x, rois.outputs)
        target = partial(mask_targets, size=logits.shape[-1], kind=config.rois.mask_target)
        given = jnp.asarray(batch.masks), rois.boxes, rois.matched, batch.image_size, batch.pad_size
        # One image after another: each has its bitmaps in hand.
        targets = jax.lax.map(lambda image: target(*image), given)
        return {**losses, "loss_mask": mask_loss(logits, targets, rois)}, numbers

    def predict(params: Params, images: Images) -> Predictions:
        found, levels = stages.predict(params, images)
        x = stages.read(params, levels, found.boxes, images.pad_size, MASK_SIZE)
        logits = draw(params, x, jnp.asarray(outputs, jnp.int32)[found.labels])
        return found._replace(masks=jax.nn.sigmoid(logits))

    return Detector(init, loss, predict, partial(is_trainable, config=model))


def mask_loss(
    logits: Float[Array, "B n s s"], targets: Float[Array, "B n s s"], rois: RoIs
) -> Float[Array, ""]:
    """Returns the mean over the pixels of this device's positives; 0 without any."""
    count = jnp.maximum(rois.positive.sum(), 1) * targets.shape[-1] ** 2
    entropy = optax.sigmoid_binary_cross_entropy(logits, targets)
    return jnp.where(rois.positive[..., None, None], entropy, 0).sum() / count
