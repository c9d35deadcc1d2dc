"""The head that gives every anchor a score for each class (Lin et al. 2017b)."""

import math

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from jaxdet.config import ModelConfig
from jaxdet.models.layers import Conv, ConvGroupNorm, apply_mask

_PRIOR = 0.01  # every score at first


class RetinaHead(nn.Module):
    """Two branches of 3x3 convolutions, for scores and for deltas."""

    config: ModelConfig
    num_anchors: int
    num_outputs: int  # scores per anchor
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w 1"]
    ) -> tuple[Float[Array, "b h w _"], Float[Array, "b h w _"]]:
        """Args: x: a level; mask: the cells of its image.

        Returns:
            Logits and deltas, float32, anchor-major: all classes of a0, of a1 ...
        """
        init = nn.initializers.normal(0.01)

        def branch(name: str) -> Array:
            y, channels = apply_mask(x, mask), self.config.head_channels
            for i in range(self.config.head_convs):
                if self.config.group_norm:
                    y = ConvGroupNorm(channels, init, self.dtype, name=f"{name}_{i}")(y, mask)
                else:
                    y = Conv(channels, 3, init, self.dtype, name=f"{name}_{i}")(y)
                y = apply_mask(nn.relu(y), mask)
            return y

        bias = nn.initializers.constant(-math.log((1 - _PRIOR) / _PRIOR))
        count = self.num_anchors * self.num_outputs
        cls = Conv(count, 3, init, self.dtype, bias_init=bias, name="retina_cls")
        reg = Conv(4 * self.num_anchors, 3, init, self.dtype, name="retina_reg")
        logits, deltas = cls(branch("cls_convs")), reg(branch("reg_convs"))
        return logits.astype(jnp.float32), deltas.astype(jnp.float32)
