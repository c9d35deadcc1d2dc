"""The head that scores anchors and refines them (Ren et al. 2015)."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxdet.models.layers import Conv


class RPNHead(nn.Module):
    """A 3x3 convolution, then one score and four deltas for each anchor of a cell."""

    channels: int
    num_anchors: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b h w a"], Float[Array, "b h w 4*a"]]:
        """Args: x: a masked level.

        Returns:
            Logits and deltas, float32, anchor-major: a0 dx dy dw dh, a1 dx ...
        """
        init = nn.initializers.normal(0.01)
        x = nn.relu(Conv(self.channels, 3, init, self.dtype, name="rpn_conv")(x))
        logits = Conv(self.num_anchors, 1, init, self.dtype, name="rpn_cls")(x)
        deltas = Conv(4 * self.num_anchors, 1, init, self.dtype, name="rpn_reg")(x)
        return logits.astype(jnp.float32), deltas.astype(jnp.float32)
