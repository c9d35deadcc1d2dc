"""The region proposal network (Ren et al. 2015): network, targets, losses and proposals.

`B` images, `A` anchors per cell, `N` anchors of all levels, fine to coarse.
"""

import typing
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Float32, Int, UInt8

from jaxdet.config import Config, ModelConfig, TargetConfig
from jaxdet.detectors.proposals import propose
from jaxdet.models.fpn import FPN
from jaxdet.models.layers import apply_mask, cell_mask
from jaxdet.models.resnet import ResNet
from jaxdet.models.rpn_head import Outputs, RPNHead
from jaxdet.ops.anchors import AnchorGrid, in_grid, inside, pyramid_anchors
from jaxdet.ops.boxes import CONVENTIONS, encode
from jaxdet.ops.losses import binary_cross_entropy, smooth_l1
from jaxdet.ops.matching import match
from jaxdet.ops.sampling import priorities, sample
from jaxdet.types import Batch, Detector, Images, Params, Predictions


class Targets(NamedTuple):
    """What the network should say."""

    positive: Bool[Array, "B N"]  # sampled
    negative: Bool[Array, "B N"]  # sampled
    deltas: Float32[Array, "B N 4"]  # zero where not positive


def rpn(config: Config) -> Detector:
    """Returns the RPN of a configuration as pure functions."""
    network = build_network(config.model, config.train.precision, config.train.remat)

    def init(key: Array) -> Params:
        size = jnp.full((1, 2), 64, jnp.int32)
        image = jnp.zeros((1, 64, 64, 3), config.data.pixel_dtype)
        return network.init(key, Images(image, size, size, jnp.ones((1, 2))))["params"]

    def loss(params: Params, batch: Batch) -> tuple[dict[str, Array], dict[str, Array]]:
        targets = make_targets(batch, config.model, config.targets)
        outputs = apply(network, params, batch.images)
        cls, bbox = rpn_losses(outputs, targets, config.targets)
        positives = targets.positive.sum(axis=1).astype(jnp.float32).mean()
        return {"loss_cls": cls.sum(), "loss_bbox": bbox.sum()}, {"num_positive": positives}

    def predict(params: Params, images: Images) -> Predictions:
        outputs, bucket = apply(network, params, images), images.image.shape[1:3]
        sizes = images.image_size, images.pad_size
        return propose(outputs, *sizes, bucket, anchor_grid(config.model), config.proposals)

    return Detector(init, loss, predict, partial(is_trainable, config=config.model))


class RPN(nn.Module):
    """From images to logits and deltas.

    Images lie in a bucket whose sides are multiples of 32 and are taken to be zero-padded to
    `pad_size`; the bucket beyond has no influence on the outputs within.
    """

    backbone: ResNet
    neck: FPN | None
    rpn_head: RPNHead
    strides: tuple[int, ...]  # pixels per cell of each level
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    bgr: bool
    dtype: jnp.dtype

    def __call__(self, images: Images) -> Outputs:
        """Returns logits and deltas of every anchor of the bucket."""
        return self.forward(images)[1]

    def forward(self, images: Images) -> tuple[list[Array], Outputs]:
        """Returns the levels that the head sees, and what it says of them."""
        _, levels = self.features(images)
        heads = [
            self.rpn_head(x, cell_mask(images.pad_size, stride, *x.shape[1:3]))
            for x, stride in zip(levels, self.strides, strict=True)
        ]
        outputs = Outputs([logits for logits, _ in heads], [deltas for _, deltas in heads])
        return levels, outputs

    def features(self, images: Images) -> tuple[list[Array], list[Array]]:
        """Returns the backbone's stages and the levels that the head sees (C4: the last stage)."""
        x = self.normalize(images.image, images.image_size).astype(self.dtype)
        stages = self.backbone(x, images.pad_size)
        return stages, self.neck(stages, images.pad_size) if self.neck else stages[-1:]

    def normalize(
        self,
        image: UInt8[Array, "b h w 3"] | Float32[Array, "b h w 3"],
        image_size: Int[Array, "b 2"],
    ) -> Float[Array, "b h w 3"]:
        """Returns (pixel - mean) / std in float32; zero beyond the image.

        Of uint8 it is the reference's to the bit, looked up in a table that NumPy made: XLA's
        division is not always correctly rounded.
        """
        mean, std = np.array(self.pixel_mean, np.float32), np.array(self.pixel_std, np.float32)
        x = image[..., ::-1] if self.bgr else image
        if x.dtype == jnp.uint8:
            table = (np.arange(256, dtype=np.float32)[:, None] - mean) / std
            x = jnp.stack([jnp.asarray(table[:, c])[x[..., c]] for c in range(3)], axis=-1)
        else:
            x = (x - mean.reshape(1, 1, 1, 3)) / std.reshape(1, 1, 1, 3)
        return apply_mask(x, cell_mask(image_size, 1, *x.shape[1:3]))


def build_network(config: ModelConfig, precision: str = "float32", remat: bool = False) -> RPN:
    """Returns the network of a config, computing in `precision`; parameters are float32 always."""
    dtype = jnp.dtype(precision)
    return RPN(
        backbone=ResNet(
            depth=config.depth,
            num_stages=config.num_stages,
            stem_channels=config.stem_channels,
            groups=config.groups,
            base_width=config.base_width,
            caffe_style=config.style == "caffe",
            remat=remat,
            dtype=dtype,
        ),
        neck=FPN(config.fpn_channels, dtype) if config.fpn_channels else None,
        rpn_head=RPNHead(
            config.head_channels, config.head_convs, anchor_grid(config).per_cell, dtype
        ),
        strides=config.strides,
        pixel_mean=config.pixel_mean,
        pixel_std=config.pixel_std,
        bgr=config.channel_order == "bgr",
        dtype=dtype,
    )


def apply(network: RPN, params: Params, images: Images) -> Outputs:
    """Returns the network's outputs as a pure function of its parameters; see `RPN`."""
    return typing.cast(Outputs, network.apply({"params": params}, images))


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
            positive, negative = sample(
                priority, positive, negative, config.num_samples, config.positive_fraction
            )
        matched_gt = boxes[jnp.maximum(matched - 1, 0)]
        deltas = encode(anchors, matched_gt, grid.convention)
        return Targets(positive, negative, jnp.where(positive[:, None], deltas, 0.0))

    sizes = batch.image_size, batch.pad_size
    return jax.vmap(one_image)(*sizes, batch.boxes, batch.box_mask, batch.seed)


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
    start = 0
    for logits, deltas in zip(*outputs, strict=True):
        b = logits.shape[0]
        logits, deltas = logits.reshape(b, -1), deltas.reshape(b, -1, 4)
        level = slice(start, start + logits.shape[1])
        start = level.stop
        positive, negative = targets.positive[:, level], targets.negative[:, level]
        entropy = binary_cross_entropy(logits, positive)
        classification.append(jnp.where(positive | negative, entropy, 0).sum() / total)
        error = smooth_l1(deltas - targets.deltas[:, level], config.smooth_l1_beta)
        box.append(jnp.where(positive[..., None], error, 0).sum() / total)
    return jnp.stack(classification), jnp.stack(box)
