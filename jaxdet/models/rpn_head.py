"""The head that scores anchors and refines them (Ren et al. 2015)."""

from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Float32

from jaxdet.config import ModelConfig
from jaxdet.models.layers import Conv, apply_mask


class Outputs(NamedTuple):
    """What the network says of every anchor, per level."""

    logits: list[Float32[Array, "B h w A"]]
    deltas: list[Float32[Array, "B h w 4*A"]]


class RPNHead(nn.Module):
    """3x3 convolutions, then one score and four deltas for each anchor of a cell."""

    config: ModelConfig
    num_anchors: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w 1"]
    ) -> tuple[Float[Array, "b h w a"], Float[Array, "b h w 4*a"]]:
        """Args: x: a level; mask: the cells of its image.

        Returns:
            Logits and deltas, float32, anchor-major: a0 dx dy dw dh, a1 dx ...
        """
        init, channels = nn.initializers.normal(0.01), self.config.head_channels
        for name in ("rpn_conv", *(f"rpn_conv_{i}" for i in range(1, self.config.head_convs))):
            x = nn.relu(Conv(channels, 3, init, self.dtype, name=name)(apply_mask(x, mask)))
        logits = Conv(self.num_anchors, 1, init, self.dtype, name="rpn_cls")(x)
        deltas = Conv(4 * self.num_anchors, 1, init, self.dtype, name="rpn_reg")(x)
        return logits.astype(jnp.float32), deltas.astype(jnp.float32)
