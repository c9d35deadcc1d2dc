"""Feature pyramid (Lin et al. 2017)."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxdet.models.layers import Conv, apply_mask, cell_mask, upsample_2


class FPN(nn.Module):
    """One level per backbone stage, strides 4, 8, ..., and one more at twice the last stride."""

    channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, stages: list[Float[Array, "b _ _ _"]], pad_size: Int[Array, "b 2"]
    ) -> list[Float[Array, "b _ _ c"]]:
        """Args: stages: fine to coarse; pad_size: (height, width) of each padded image."""
        init = nn.initializers.xavier_uniform()
        sums = [
            Conv(self.channels, 1, init, self.dtype, name=f"lateral_convs_{i}")(x)
            for i, x in enumerate(stages)
        ]
        for i in reversed(range(1, len(sums))):
            sums[i - 1] = sums[i - 1] + upsample_2(sums[i])
        levels = []
        for i, x in enumerate(sums):
            x = apply_mask(x, cell_mask(pad_size, 2 ** (i + 2), *x.shape[1:3]))
            levels.append(Conv(self.channels, 3, init, self.dtype, name=f"fpn_convs_{i}")(x))
        levels.append(levels[-1][:, ::2, ::2])
        return levels
