"""The head that draws masks of RoIs (He et al. 2017)."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Float32

from jaxdet.config import ModelConfig
from jaxdet.models.layers import INITS, Conv, he_normal
from jaxdet.ops.product import einsum

# Bins of a RoI along each axis; masks have twice as many.
MASK_SIZE = 14


class MaskHead(nn.Module):
    """3x3 convolutions, twice the resolution, and a logit of every class; 0 is the background."""

    config: ModelConfig
    num_outputs: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "n p p c"]) -> Float32[Array, "n 2*p 2*p o"]:
        """Returns logits of masks."""
        channels, init = self.config.mask_channels, INITS[self.config.init].masks
        for i in range(self.config.mask_convs):
            x = nn.relu(Conv(channels, 3, he_normal, self.dtype, name=f"convs_{i}")(x))
        x = nn.relu(Upsample(channels, self.dtype, name="upsample")(x))
        logits = Conv(self.num_outputs, 1, init, self.dtype, name="conv_logits")(x)
        return logits.astype(jnp.float32)


class Upsample(nn.Module):
    """Transposed 2x2 convolution of stride 2: each cell becomes four."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n 2*h 2*w d"]:
        """Args: x in `dtype`."""
        n, h, w, c = x.shape
        # The fan that the reference counts: it takes the first two axes of (in, out, 2, 2).
        init = nn.initializers.normal((2.0 / (4 * c)) ** 0.5)
        kernel = self.param("kernel", init, (2, 2, c, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = einsum("nijc,abcd->niajbd", x, kernel.astype(self.dtype)).astype(self.dtype)
        return y.reshape(n, 2 * h, 2 * w, self.features) + bias.astype(self.dtype)[None, None, None]
