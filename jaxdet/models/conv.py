"""Two-dimensional convolution whose CPU programs are written out as matrix products.

Glossary: `B` images, `H, W` height and width in pixels of the feature map, `C` input channels,
`O` output channels, `kh, kw` the kernel's size.
"""

from jax import lax
from jaxtyping import Array, Float

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def conv2d(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "kh kw D O"],
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> Float[Array, "B P Q O"]:
    """Cross-correlates `x` with `kernel`, as `torch.nn.functional.conv2d` does.

    Args:
        x: [B, H, W, C], float32 or bfloat16.
        kernel: [kh, kw, C / groups, O], of `x`'s dtype.
        stride: step in pixels, in both directions.
        padding: zeros put on all four sides, in pixels.
        groups: number of blocks the channels are cut into; each sees only its own.

    Returns:
        [B, (H + 2 padding - kh) // stride + 1, (W + 2 padding - kw) // stride + 1, O], of `x`'s
        dtype.
    """
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((padding, padding), (padding, padding)),
        dimension_numbers=_DIMENSIONS,
        feature_group_count=groups,
    )
