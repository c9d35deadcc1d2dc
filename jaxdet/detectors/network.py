"""The whole network, and which of its tensors train."""

import typing
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jaxtyping import Array, Float, Int, UInt8

from jaxdet.config import ModelConfig
from jaxdet.models.fpn import FPN
from jaxdet.models.layers import apply_mask, cell_mask
from jaxdet.models.resnet import ResNet
from jaxdet.models.rpn_head import RPNHead

Params = dict[str, Any]  # nested; leaves are float32 arrays


class Outputs(NamedTuple):
    """Per level, fine to coarse."""

    logits: list[Array]  # float32 [B, h, w, A]
    deltas: list[Array]  # float32 [B, h, w, 4 A]


class RPN(nn.Module):
    """From uint8 images to logits and deltas.

    Args of its methods:
        image: RGB, in a bucket whose sides are multiples of 32.
        image_size: (height, width) of each image in it.
        pad_size: (height, width) each is taken to be zero-padded to, multiples of 32; the
            bucket beyond has no influence on the outputs within.
    """

    backbone: ResNet
    neck: FPN | None
    rpn_head: RPNHead
    strides: tuple[int, ...]  # pixels per cell of each level
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    bgr: bool
    dtype: jnp.dtype

    def __call__(
        self,
        image: UInt8[Array, "b h w 3"],
        image_size: Int[Array, "b 2"],
        pad_size: Int[Array, "b 2"],
    ) -> Outputs:
        """Logits and deltas of every anchor of the bucket."""
        _, levels = self.features(image, image_size, pad_size)
        masked = [
            apply_mask(x, cell_mask(pad_size, stride, *x.shape[1:3]))
            for x, stride in zip(levels, self.strides, strict=True)
        ]
        heads = [self.rpn_head(x) for x in masked]
        return Outputs([logits for logits, _ in heads], [deltas for _, deltas in heads])

    def features(
        self,
        image: UInt8[Array, "b h w 3"],
        image_size: Int[Array, "b 2"],
        pad_size: Int[Array, "b 2"],
    ) -> tuple[list[Array], list[Array]]:
        """The backbone's stages and the levels that the head sees (C4: the last stage)."""
        x = self.normalize(image, image_size).astype(self.dtype)
        stages = self.backbone(x, pad_size)
        return stages, self.neck(stages, pad_size) if self.neck else stages[-1:]

    def normalize(
        self, image: UInt8[Array, "b h w 3"], image_size: Int[Array, "b 2"]
    ) -> Float[Array, "b h w 3"]:
        """(pixel - mean) / std in float32, bit for bit as the reference; zero beyond the image.

        Looked up in a table that NumPy made: XLA's division is not always correctly rounded.
        """
        values = np.arange(256, dtype=np.float32)[:, None]
        table = (values - np.array(self.pixel_mean, np.float32)) / np.array(
            self.pixel_std, np.float32
        )
        x = image[..., ::-1] if self.bgr else image
        x = jnp.stack([jnp.asarray(table[:, c])[x[..., c]] for c in range(3)], axis=-1)
        return apply_mask(x, cell_mask(image_size, 1, *x.shape[1:3]))


def build_model(config: ModelConfig, precision: str = "float32", remat: bool = False) -> RPN:
    """The network of a config, computing in `precision`; parameters are float32 always."""
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
            config.head_channels, len(config.anchor_scales) * len(config.anchor_ratios), dtype
        ),
        strides=config.strides,
        pixel_mean=config.pixel_mean,
        pixel_std=config.pixel_std,
        bgr=config.channel_order == "bgr",
        dtype=dtype,
    )


def apply_model(
    model: RPN, params: Params, image: Array, image_size: Array, pad_size: Array
) -> Outputs:
    """The network as a pure function of its parameters; see `RPN`."""
    return typing.cast(Outputs, model.apply({"params": params}, image, image_size, pad_size))


def init_params(model: RPN, key: Array) -> Params:
    """Fresh parameters, in one compiled program."""
    size = jnp.full((1, 2), 64, jnp.int32)
    image = jnp.zeros((1, 64, 64, 3), jnp.uint8)
    return jax.jit(lambda k: model.init(k, image, size, size)["params"])(key)


def param_shapes(model: RPN) -> Params:
    """The parameter tree with `jax.ShapeDtypeStruct` leaves; computes nothing."""
    size = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8)
    return jax.eval_shape(model.init, jax.random.key(0), image, size, size)["params"]


def is_trainable(path: tuple[str, ...], config: ModelConfig) -> bool:
    """Whether the tensor at `path`, e.g. ('backbone', 'layer2_0', 'conv1', 'kernel'), trains."""
    if path[-1] in ("mean", "var"):
        return False
    if path[0] != "backbone":
        return True
    stage = 0 if path[1] == "conv1" else int(path[1].removeprefix("layer").split("_")[0])
    return stage > config.frozen_stages and (config.train_norm or path[-1] == "kernel")


def split_params(params: Params, config: ModelConfig) -> tuple[Params, Params]:
    """Separates the tensors that train from the frozen ones."""
    flat = traverse_util.flatten_dict(params)
    trainable = {k: v for k, v in flat.items() if is_trainable(k, config)}
    frozen = {k: v for k, v in flat.items() if k not in trainable}
    return traverse_util.unflatten_dict(trainable), traverse_util.unflatten_dict(frozen)


def merge_params(trainable: Params, frozen: Params) -> Params:
    """Undoes `split_params`."""
    flatten = traverse_util.flatten_dict
    return traverse_util.unflatten_dict({**flatten(trainable), **flatten(frozen)})
