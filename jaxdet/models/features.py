"""What the networks of all detectors begin with: normalised pixels, a backbone, a pyramid."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Float32, Int, UInt8

from jaxdet.config import ModelConfig
from jaxdet.models.fpn import FPN
from jaxdet.models.layers import apply_mask, cell_mask
from jaxdet.models.resnet import ResNet
from jaxdet.models.rpn_head import Outputs
from jaxdet.types import Images


class Features(nn.Module):
    """From images to the levels of a pyramid; a network adds its heads.

    Images lie in a bucket whose sides are multiples of 32 and are taken to be zero-padded to
    `pad_size`; the bucket beyond has no influence on the cells within.
    """

    backbone: ResNet
    neck: FPN | None
    strides: tuple[int, ...]  # pixels per cell of each level
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    bgr: bool
    dtype: jnp.dtype

    def features(self, images: Images) -> tuple[list[Array], list[Array]]:
        """Returns the backbone's stages and the levels that heads see (C4: the last stage)."""
        x = self.normalize(images.image, images.image_size).astype(self.dtype)
        stages = self.backbone(x, images.pad_size)
        return stages, self.neck(stages, images.pad_size) if self.neck else stages[-1:]

    def dense(self, head: nn.Module, images: Images) -> tuple[list[Array], Outputs]:
        """Returns the levels, and what a head says of every anchor of the bucket."""
        _, levels = self.features(images)
        said = [
            head(x, cell_mask(images.pad_size, stride, *x.shape[1:3]))
            for x, stride in zip(levels, self.strides, strict=True)
        ]
        return levels, Outputs([logits for logits, _ in said], [deltas for _, deltas in said])

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


def feature_fields(config: ModelConfig, precision: str, remat: bool) -> dict[str, Any]:
    """Returns the fields of `Features`, which every network's builder passes on.

    They compute in `precision`; parameters are float32 always.
    """
    dtype = jnp.dtype(precision)
    return {
        "backbone": ResNet(
            depth=config.depth,
            num_stages=config.num_stages,
            stem_channels=config.stem_channels,
            groups=config.groups,
            base_width=config.base_width,
            caffe_style=config.style == "caffe",
            remat=remat,
            dtype=dtype,
        ),
        "neck": _pyramid(config, dtype) if config.fpn_channels else None,
        "strides": config.strides,
        "pixel_mean": config.pixel_mean,
        "pixel_std": config.pixel_std,
        "bgr": config.channel_order == "bgr",
        "dtype": dtype,
    }


def _pyramid(config: ModelConfig, dtype: jnp.dtype) -> FPN:
    rest = config.fpn_start, config.fpn_extra, config.fpn_relu, config.init
    return FPN(config.fpn_channels, dtype, *rest)


def blank_images(dtype: str) -> Images:
    """Returns one small image, zero everywhere, from which a network learns its shapes."""
    size = jnp.full((1, 2), 64, jnp.int32)
    return Images(jnp.zeros((1, 64, 64, 3), dtype), size, size, jnp.ones((1, 2)))
