"""ResNet and ResNeXt backbones (He et al. 2016, Xie et al. 2017) with PyTorch's padding."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxdet.models.layers import ConvNorm, apply_mask, cell_mask, max_pool_3x3_2

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def width_of(planes: int, groups: int, base_width: int) -> int:
    """Returns the channels of a bottleneck's 3x3 convolution."""
    return planes if groups == 1 else planes * base_width // 64 * groups


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


class ResNet(nn.Module):
    """The stages' outputs, strides 4, 8, 16, 32."""

    depth: int
    num_stages: int
    stem_channels: int
    groups: int
    base_width: int
    caffe_style: bool
    remat: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"], pad_size: Int[Array, "b 2"]
    ) -> list[Float[Array, "b _ _ _"]]:
        """Args: x: normalised, zero beyond each image; pad_size: (height, width) of each."""
        x = ConvNorm(self.stem_channels, 7, 2, dtype=self.dtype, name="conv1")(x)
        mask = cell_mask(pad_size, 2, *x.shape[1:3])
        # After ReLU a zero never wins, so masking serves the pool's -inf padding as well.
        x = max_pool_3x3_2(apply_mask(nn.relu(x), mask))
        mask = cell_mask(pad_size, 4, *x.shape[1:3])
        outputs = []
        for i, count in enumerate(BLOCKS[self.depth][: self.num_stages]):
            stride = 1 if i == 0 else 2
            for j in range(count):
                if j > 0:
                    stride = 1
                h, w = x.shape[1] // stride, x.shape[2] // stride
                mask_out = cell_mask(pad_size, 2 ** (i + 2), h, w)
                x = self._block(i, j, stride, x.shape[-1])(x, mask, mask_out)
                mask = mask_out
            outputs.append(x)
        return outputs

    def _block(self, stage: int, index: int, stride: int, channels: int) -> nn.Module:
        planes = self.stem_channels * 2**stage
        basic = self.depth < 50
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
            width = width_of(planes, self.groups, self.base_width)
            fields |= {"width": width, "groups": self.groups, "caffe_style": self.caffe_style}
        return cls(**fields)
