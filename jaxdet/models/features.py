"""What the networks of all detectors begin with: normalised pixels, a backbone, a pyramid."""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Float32, Int, UInt8

from jaxdet.config import ModelConfig, TrainConfig
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

    config: ModelConfig
    train: TrainConfig  # networks compute in its precision; parameters are float32

    def setup(self) -> None:
        """Makes the backbone, and the pyramid if there is one."""
        self.dtype = jnp.dtype(self.train.precision)
        self.backbone = ResNet(self.config, self.train.remat, self.dtype)
        self.neck = FPN(self.config, self.dtype) if self.config.fpn_channels else None

    def features(self, images: Images) -> tuple[list[Array], list[Array]]:
        """Returns the backbone's stages and the levels that heads see (C4: the last stage)."""
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
        config = self.config
        mean, std = (np.array(x, np.float32) for x in (config.pixel_mean, config.pixel_std))
        x = image[..., ::-1] if config.channel_order == "bgr" else image
        if x.dtype == jnp.uint8:
            table = (np.arange(256, dtype=np.float32)[:, None] - mean) / std
            x = jnp.stack([jnp.asarray(table[:, c])[x[..., c]] for c in range(3)], axis=-1)
        else:
            x = (x - mean.reshape(1, 1, 1, 3)) / std.reshape(1, 1, 1, 3)
        return apply_mask(x, cell_mask(image_size, 1, *x.shape[1:3]))


class AnchorNetwork(Features):
    """Features, and what a head says of every anchor of the bucket."""

    head: nn.Module
    preserve_adopted_names = True  # parameters lie under the head's own

    def __call__(self, images: Images) -> Outputs:
        """Returns logits and deltas."""
        return self.forward(images)[1]

    def forward(self, images: Images) -> tuple[list[Array], Outputs]:
        """Returns the levels that the head sees, and its logits and deltas."""
        _, levels = self.features(images)
        said = [
            self.head(x, cell_mask(images.pad_size, stride, *x.shape[1:3]))
            for x, stride in zip(levels, self.config.strides, strict=True)
        ]
        return levels, Outputs([logits for logits, _ in said], [deltas for _, deltas in said])


def blank_images(dtype: str) -> Images:
    """Returns one small image, zero everywhere, from which a network learns its shapes."""
    size = jnp.full((1, 2), 64, jnp.int32)
    return Images(jnp.zeros((1, 64, 64, 3), dtype), size, size, jnp.ones((1, 2)))
