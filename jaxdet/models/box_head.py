"""The head that says of each RoI what it is, and refines its box (Girshick 2015)."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Float32

from jaxdet.config import ModelConfig
from jaxdet.models.layers import INITS, Conv, Dense, he_normal

# Bins of a RoI along each axis.
BOX_SIZE = 7


class BoxHead(nn.Module):
    """Class scores and four deltas per class; class 0 is the background."""

    config: ModelConfig
    num_outputs: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "n p p c"]
    ) -> tuple[Float32[Array, "n o"], Float32[Array, "n 4*o"]]:
        """Returns logits and deltas, output-major: o0 dx dy dw dh, o1 dx ..."""
        config, init = self.config, INITS[self.config.init]
        for i in range(config.box_convs):
            conv = Conv(x.shape[-1], 3, he_normal, self.dtype, name=f"convs_{i}")
            x = nn.relu(conv(x))
        if config.box_fcs == 0:
            x = x.mean(axis=(1, 2), keepdims=True)
        for i in range(config.box_fcs):
            x = nn.relu(
                Dense(config.box_channels, init.dense, self.dtype, name=f"shared_fcs_{i}")(x)
            )
        x = x.reshape(x.shape[0], -1)
        logits = Dense(self.num_outputs, init.classes, self.dtype, name="fc_cls")(x)
        deltas = Dense(4 * self.num_outputs, init.deltas, self.dtype, name="fc_reg")(x)
        return logits.astype(jnp.float32), deltas.astype(jnp.float32)
