"""ResNet and ResNeXt backbones (He et al. 2016, Xie et al. 2017) with PyTorch's padding."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxdet.config import ModelConfig
from jaxdet.models.layers import ConvNorm, apply_mask, cell_mask, max_pool_3x3_2

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, for depths 18 and 34."""

    planes: int
    stride: int
    project: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, mask_in: Array, mask_out: Array) -> Array:
        """Maps [b, h, w, c] to [b, h / stride, w / stride, planes]."""
        n, dtype = self.planes, self.dtype
        x = apply_mask(x, mask_in)
        y = nn.relu(ConvNorm(n, 3, self.stride, dtype=dtype, name="conv1")(x))
        y = apply_mask(y, mask_out)
        y = ConvNorm(n, 3, scale_init=nn.initializers.zeros, dtype=dtype, name="conv2")(y)
        if self.project:
            x = ConvNorm(n, 1, self.stride, dtype=dtype, name="downsample")(x)
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """1x1, 3x3 (grouped in ResNeXt), 1x1 to four times the planes."""

    planes: int
    width: int
    stride: int
    groups: int
    caffe_style: bool  # the first 1x1 strides, not the 3x3
    project: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, mask_in: Array, mask_out: Array) -> Array:
        """Maps [b, h, w, c] to [b, h / stride, w / stride, 4 * planes]."""
        n, dtype = self.width, self.dtype
        first, second = (self.stride, 1) if self.caffe_style else (1, self.stride)
        y = nn.relu(ConvNorm(n, 1, first, dtype=dtype, name="conv1")(x))
        y = apply_mask(y, mask_out if self.caffe_style else mask_in)
        y = nn.relu(ConvNorm(n, 3, second, self.groups, dtype=dtype, name="conv2")(y))
        n = 4 * self.planes
        # From scratch every block starts as the identity, as in the reference.
        y = ConvNorm(n, 1, scale_init=nn.initializers.zeros, dtype=dtype, name="conv3")(y)
        if self.project:
            x = ConvNorm(n, 1, self.stride, dtype=dtype, name="downsample")(x)
        return nn.relu(x + y)


class Stages(nn.Module):
    """The blocks of a ResNet's stages."""

    config: ModelConfig
    remat: bool
    dtype: jnp.dtype

    def stage(self, number: int, x: Array, mask_in: Array, mask_out: Array) -> Array:
        """Returns what the blocks of a stage, 0 to 3, make of the one before."""
        for j in range(BLOCKS[self.config.depth][number]):
            stride = 2 if number > 0 and j == 0 else 1
            block = self._block(number, j, stride, x.shape[-1])
            x = block(x, mask_out if j else mask_in, mask_out)
        return x

    def _block(self, stage: int, index: int, stride: int, channels: int) -> nn.Module:
        config, planes = self.config, self.config.stem_channels * 2**stage
        basic = config.depth < 50
        cls = BasicBlock if basic else Bottleneck
        cls = nn.remat(cls) if self.remat else cls
        fields = {
            "planes": planes,
            "stride": stride,
            "project": stride > 1 or channels != (planes if basic else 4 * planes),
            "dtype": self.dtype,
            "name": f"layer{stage + 1}_{index}",
        }
        if not basic:
            groups, caffe_style = config.groups, config.style == "caffe"
            width = planes if groups == 1 else planes * config.base_width // 64 * groups
            fields |= {"width": width, "groups": groups, "caffe_style": caffe_style}
        return cls(**fields)


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
