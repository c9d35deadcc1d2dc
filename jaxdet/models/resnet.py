"""ResNet and ResNeXt backbones (He et al. 2016, Xie et al. 2017) with PyTorch's padding."""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxdet.config import ModelConfig
from jaxdet.models.layers import ConvNorm, apply_mask, cell_mask, max_pool_3x3_2
from jaxdet.ops.conv import computed_once

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
# From scratch every block starts as the identity, as in the reference.
_ZEROS = nn.initializers.zeros


class Block(nn.Module):
    """Convolutions and a shortcut around them."""

    config: ModelConfig
    planes: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, mask_in: Array, mask_out: Array) -> Array:
        """Maps [b, h, w, c] to [b, h / stride, w / stride, d]."""
        branch = self._basic if self.config.depth < 50 else self._bottleneck
        y = branch(partial(ConvNorm, dtype=self.dtype), x, mask_in, mask_out)
        if x.shape != y.shape:
            x = ConvNorm(y.shape[-1], 1, self.stride, dtype=self.dtype, name="downsample")(x)
        return computed_once(nn.relu(x + y))

    def _basic(self, conv: Callable, x: Array, mask_in: Array, mask_out: Array) -> Array:
        """Two 3x3 convolutions."""
        y = nn.relu(conv(self.planes, 3, self.stride, name="conv1")(apply_mask(x, mask_in)))
        return conv(self.planes, 3, scale_init=_ZEROS, name="conv2")(apply_mask(y, mask_out))

    def _bottleneck(self, conv: Callable, x: Array, mask_in: Array, mask_out: Array) -> Array:
        """1x1, 3x3 (grouped in ResNeXt), 1x1 to four times the planes."""
        config, width = self.config, self.planes
        if config.groups > 1:
            width = width * config.base_width // 64 * config.groups
        caffe = config.style == "caffe"  # the first 1x1 strides, not the 3x3
        first, second = (self.stride, 1) if caffe else (1, self.stride)
        y = nn.relu(conv(width, 1, first, name="conv1")(x))
        y = apply_mask(y, mask_out if caffe else mask_in)
        y = nn.relu(conv(width, 3, second, config.groups, name="conv2")(y))
        return conv(4 * self.planes, 1, scale_init=_ZEROS, name="conv3")(y)


class Stages(nn.Module):
    """The blocks of a ResNet's stages."""

    config: ModelConfig
    remat: bool
    dtype: jnp.dtype

    def stage(self, number: int, x: Array, mask_in: Array, mask_out: Array) -> Array:
        """Returns what the blocks of a stage, 0 to 3, make of the one before."""
        block, planes = nn.remat(Block) if self.remat else Block, self.config.stem_channels
        for j in range(BLOCKS[self.config.depth][number]):
            stride, name = 2 if number > 0 and j == 0 else 1, f"layer{number + 1}_{j}"
            layer = block(self.config, planes * 2**number, stride, self.dtype, name=name)
            x = layer(x, mask_out if j else mask_in, mask_out)
        return x


class ResNet(Stages):
    """The stages' outputs, strides 4, 8, 16, 32."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"], pad_size: Int[Array, "b 2"]
    ) -> list[Float[Array, "b _ _ _"]]:
        """Args: x: normalised, zero beyond each image; pad_size: (height, width) of each."""
        x = ConvNorm(self.config.stem_channels, 7, 2, dtype=self.dtype, name="conv1")(x)
        mask = cell_mask(pad_size, 2, *x.shape[1:3])
        # After ReLU a zero never wins, so masking serves the pool's -inf padding as well.
        x = max_pool_3x3_2(apply_mask(nn.relu(x), mask))
        mask = cell_mask(pad_size, 4, *x.shape[1:3])
        outputs = []
        for i in range(self.config.num_stages):
            step = 1 if i == 0 else 2
            mask_out = cell_mask(pad_size, 2 ** (i + 2), x.shape[1] // step, x.shape[2] // step)
            x, mask = self.stage(i, x, mask, mask_out), mask_out
            outputs.append(x)
        return outputs


class SharedHead(Stages):
    """The last stage by itself, which C4 applies to each RoI."""

    @nn.compact
    def __call__(self, x: Float[Array, "n p p c"]) -> Float[Array, "n q q d"]:
        """Returns features of half as many bins along each axis."""
        mask = jnp.ones((*x.shape[:3], 1), bool)
        return self.stage(3, x, mask, mask[:, ::2, ::2])
