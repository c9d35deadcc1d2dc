"""Feature pyramid (Lin et al. 2017), and RetinaNet's (Lin et al. 2017b)."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxdet.config import ModelConfig
from jaxdet.models.layers import INITS, Conv, apply_mask, cell_mask, upsample_2


class FPN(nn.Module):
    """One level per backbone stage from `fpn_start` on, and one or two coarser ones."""

    config: ModelConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, stages: list[Float[Array, "b _ _ _"]], pad_size: Int[Array, "b 2"]
    ) -> list[Float[Array, "b _ _ c"]]:
        """Args: stages: strides 4, 8, ...; pad_size: (height, width) of each padded image."""
        config, init = self.config, INITS[self.config.init].pyramid
        channels, start = config.fpn_channels, config.fpn_start

        def conv(number: int, x: Array, stride: int, step: int) -> Array:
            """Returns a 3x3 convolution of a map at `stride`, each `step` cells."""
            x = apply_mask(x, cell_mask(pad_size, stride, *x.shape[1:3]))
            name = f"fpn_convs_{number}"
            return Conv(channels, 3, init, self.dtype, stride=step, name=name)(x)

        sums = [
            Conv(channels, 1, init, self.dtype, name=f"lateral_convs_{i}")(x)
            for i, x in enumerate(stages[start:])
        ]
        for i in reversed(range(1, len(sums))):
            sums[i - 1] = sums[i - 1] + upsample_2(sums[i])
        strides = [2 ** (start + i + 2) for i in range(len(sums))]
        levels = [conv(i, x, strides[i], 1) for i, x in enumerate(sums)]
        if config.fpn_extra == "subsampled":
            return [*levels, levels[-1][:, ::2, ::2]]
        last = stages[-1] if config.fpn_extra == "on_stage" else levels[-1]
        first = conv(len(sums), last, strides[-1], 2)
        seen = nn.relu(first) if config.fpn_relu else first
        second = conv(len(sums) + 1, seen, 2 * strides[-1], 2)
        return [*levels, first, second]
