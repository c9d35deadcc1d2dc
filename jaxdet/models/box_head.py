"""The heads of the second stage: classes and boxes of RoIs, and C4's shared fifth stage."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Float32

from jaxdet.models.layers import INITS, Conv, Dense, he_normal
from jaxdet.models.resnet import Bottleneck

# Bins of a RoI along each axis.
BOX_SIZE = 7


class BoxHead(nn.Module):
    """Class scores and four deltas per class (Girshick 2015); class 0 is the background."""

    num_outputs: int
    num_convs: int
    num_fcs: int  # 0: the mean over a RoI's bins
    channels: int
    dtype: jnp.dtype
    inits: str = "mmdet"

    @nn.compact
    def __call__(
        self, x: Float[Array, "n p p c"]
    ) -> tuple[Float32[Array, "n o"], Float32[Array, "n 4*o"]]:
        """Returns logits and deltas, output-major: o0 dx dy dw dh, o1 dx ..."""
        init = INITS[self.inits]
        for i in range(self.num_convs):
            conv = Conv(x.shape[-1], 3, he_normal, self.dtype, name=f"convs_{i}")
            x = nn.relu(conv(x))
        if self.num_fcs == 0:
            x = x.mean(axis=(1, 2), keepdims=True)
        for i in range(self.num_fcs):
            x = nn.relu(Dense(self.channels, init.dense, self.dtype, name=f"shared_fcs_{i}")(x))
        x = x.reshape(x.shape[0], -1)
        logits = Dense(self.num_outputs, init.classes, self.dtype, name="fc_cls")(x)
        deltas = Dense(4 * self.num_outputs, init.deltas, self.dtype, name="fc_reg")(x)
        return logits.astype(jnp.float32), deltas.astype(jnp.float32)


class SharedHead(nn.Module):
    """The fifth stage of a ResNet, which C4 applies to each RoI."""

    planes: int
    count: int
    width: int
    groups: int
    caffe_style: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "n p p c"]) -> Float[Array, "n q q d"]:
        """Returns features of half as many bins along each axis."""
        mask_in = jnp.ones((*x.shape[:3], 1), bool)
        mask_out = mask_in[:, ::2, ::2]
        for j in range(self.count):
            x = Bottleneck(
                planes=self.planes,
                width=self.width,
                stride=2 if j == 0 else 1,
                groups=self.groups,
                caffe_style=self.caffe_style,
                project=j == 0,
                dtype=self.dtype,
                name=f"layer4_{j}",
            )(x, mask_out if j else mask_in, mask_out)
        return x
