"""The layers everything is made of: masked borders, convolutions, frozen batch norm.

Activations are [B, H, W, C].  An image may lie in a larger bucket; `mask` [B, H, W, 1]
says which cells belong to it.  A convolution wider than one cell reads zeros beyond the
image, exactly as if the image had been padded no further than `pad_size`: its input is
masked first.  Cells outside the mask hold numbers of no meaning.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from jaxdet.ops.conv import conv2d
from jaxdet.ops.product import einsum
from jaxdet.types import Params

BN_EPSILON = 1e-5
GN_EPSILON = 1e-5
GROUPS = 32

# He et al. 2015 on the fan-out, as the reference initialises backbones.
he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_xavier, _normal = nn.initializers.xavier_uniform(), nn.initializers.normal
# PyTorch's default of fully connected layers has a third of the variance of Caffe2's "Xavier".
_caffe2, _linear = (
    nn.initializers.variance_scaling(scale, "fan_in", "uniform") for scale in (1.0, 1.0 / 3.0)
)


class Inits(NamedTuple):
    """How kernels begin where systems differ."""

    pyramid: nn.initializers.Initializer = _xavier
    dense: nn.initializers.Initializer = _xavier
    classes: nn.initializers.Initializer = _normal(0.01)
    deltas: nn.initializers.Initializer = _normal(0.001)
    masks: nn.initializers.Initializer = he_normal


INITS = {
    "mmdet": Inits(),
    "detectron2": Inits(pyramid=_caffe2, dense=_caffe2, masks=_normal(0.001)),
    "torchvision": Inits(_caffe2, _linear, _linear, _linear),
}


def cell_mask(
    pad_size: Int[Array, "b 2"], stride: int, height: int, width: int
) -> Bool[Array, "b h w 1"]:
    """Returns which of `height` x `width` cells of `stride` pixels lie in each padded image."""
    cells = -(-pad_size // stride)  # rounded up
    rows = jnp.arange(height)[None, :] < cells[:, :1]
    columns = jnp.arange(width)[None, :] < cells[:, 1:]
    return (rows[:, :, None] & columns[:, None, :])[..., None]


def apply_mask(x: Float[Array, "b h w c"], mask: Bool[Array, "b h w 1"]) -> Array:
    """Sets zero outside the image; a choice, not a product, so that infinities stay out."""
    return jnp.where(mask, x, jnp.zeros((), x.dtype))


def max_pool_3x3_2(x: Float[Array, "b h w c"]) -> Array:
    """Takes 3x3 maxima at stride 2 with one cell of padding.

    Rows, then columns, each a maximum of three views: on a CPU a third of the time of XLA's
    windowed reduction, and a fifteenth in the gradient.
    """
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    x = jnp.pad(x, padding, constant_values=-jnp.inf)
    height, width = x.shape[1] - 2, x.shape[2] - 2
    x = functools.reduce(jnp.maximum, [x[:, i : i + height : 2] for i in range(3)])
    return functools.reduce(jnp.maximum, [x[:, :, i : i + width : 2] for i in range(3)])


def upsample_2(x: Float[Array, "b h w c"]) -> Array:
    """Repeats every cell to twice the height and width (nearest neighbour)."""
    b, h, w, c = x.shape
    wide = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c))
    return wide.reshape(b, 2 * h, 2 * w, c)


class Conv(nn.Module):
    """Convolution with bias, padded by half its kernel on every side."""

    features: int
    kernel_size: int
    kernel_init: nn.initializers.Initializer
    dtype: jnp.dtype = jnp.float32
    stride: int = 1
    bias_init: nn.initializers.Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Array:
        """Args: x in `dtype`, masked if the kernel is wider than one cell."""
        k = self.kernel_size
        kernel = self.param("kernel", self.kernel_init, (k, k, x.shape[-1], self.features))
        bias = self.param("bias", self.bias_init, (self.features,))
        y = conv2d(x, kernel.astype(self.dtype), stride=self.stride, padding=k // 2)
        return y + bias.astype(self.dtype).reshape(1, 1, 1, -1)


class Dense(nn.Module):
    """Fully connected layer over all cells and channels of a map, or over a vector.

    Of a map the kernel is kept as that of a convolution of the map's size, HWIO, so that a
    checkpoint's order of inputs (channel, row, column) is a matter of axes.
    """

    features: int
    kernel_init: nn.initializers.Initializer
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n *cells c"]) -> Float[Array, "n d"]:
        """Args: x in `dtype`."""
        shape = x.shape[1:]
        flat = x.reshape(x.shape[0], -1)

        def init(key: Array, *_: object) -> Array:
            return self.kernel_init(key, (flat.shape[1], self.features)).reshape(*shape, -1)

        kernel = self.param("kernel", init, (*shape, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = einsum("nc,cd->nd", flat, kernel.astype(self.dtype).reshape(-1, self.features))
        return y.astype(self.dtype) + bias.astype(self.dtype)[None]


class ConvGroupNorm(nn.Module):
    """3x3 convolution without bias, then group norm (Wu and He 2018) over the image's own cells."""

    features: int
    kernel_init: nn.initializers.Initializer
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w 1"]) -> Array:
        """Args: x in `dtype`, masked; mask: the cells of its image."""
        n = self.features
        kernel = self.param("kernel", self.kernel_init, (3, 3, x.shape[-1], n))
        scale = self.param("scale", nn.initializers.ones, (n,))
        bias = self.param("bias", nn.initializers.zeros, (n,))
        y = conv2d(x, kernel.astype(self.dtype), padding=1).astype(jnp.float32)
        groups = y.reshape(*y.shape[:3], min(GROUPS, n), -1)
        own = jnp.broadcast_to(mask[..., None], groups.shape)
        mean = groups.mean((1, 2, 4), where=own, keepdims=True)
        var = groups.var((1, 2, 4), where=own, keepdims=True)
        y = ((groups - mean) * jax.lax.rsqrt(var + GN_EPSILON)).reshape(y.shape)
        return (y * scale.reshape(1, 1, 1, -1) + bias.reshape(1, 1, 1, -1)).astype(self.dtype)


class ConvNorm(nn.Module):
    """Convolution without bias, then batch norm with frozen statistics.

    With frozen statistics the norm is an affine map of each channel, so it is folded into
    the kernel: one pass less over the activations, none of them kept for the scale's
    gradient, and the gradients of `kernel`, `scale` and `bias` are still exact.  Parameters that
    `fold_norms` has folded are taken as they are.
    """

    features: int
    kernel_size: int
    stride: int = 1
    groups: int = 1
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Array:
        """Args: x in `dtype`, masked if the kernel is wider than one cell."""
        k, n = self.kernel_size, self.features
        kernel = self.param("kernel", he_normal, (k, k, x.shape[-1] // self.groups, n))
        bias = self.param("bias", nn.initializers.zeros, (n,))
        if self.is_initializing() or self.has_variable("params", "var"):
            scale = self.param("scale", self.scale_init, (n,))
            mean = self.param("mean", nn.initializers.zeros, (n,))
            var = self.param("var", nn.initializers.ones, (n,))
            kernel, bias = _folded(kernel, scale, bias, mean, var)
        kernel, bias = (jnp.asarray(a, self.dtype) for a in (kernel, bias))
        y = conv2d(x, kernel, stride=self.stride, padding=k // 2, groups=self.groups)
        return y + bias.reshape(1, 1, 1, -1)


def fold_norms(params: Params) -> Params:
    """Returns parameters to predict with: of every `ConvNorm` a kernel and a bias alone.

    Predictions are those of `params` up to float32 rounding.  Leaves are arrays of NumPy or JAX.
    """
    if "var" in params:
        kernel, bias = _folded(**params)
        return {"kernel": kernel, "bias": bias}
    return {k: fold_norms(v) if isinstance(v, dict) else v for k, v in params.items()}


def _folded(kernel: Any, scale: Any, bias: Any, mean: Any, var: Any) -> tuple[Any, Any]:
    slope = scale / (var + np.float32(BN_EPSILON)) ** np.float32(0.5)
    return kernel * slope.reshape(1, 1, 1, -1), bias - mean * slope
