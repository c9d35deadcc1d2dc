"""Two-dimensional convolution, with CPU programs built from matrix products.

On GPU and TPU `conv2d` is `lax.conv_general_dilated` and its transpose.  On CPU some of XLA's
programs are slow, above all for kernel gradients, so there:

- 1x1: one matrix product each way.
- 3x3 at stride 1 between many channels: `winograd`, each way.
- grouped, a few channels each: for each place of the kernel, multiply-adds over whole maps.
- grouped, more: neighbouring groups share a dense convolution whose kernel is zero between them.
- whatever is left is as elsewhere.

Glossary: `B` images, `H, W` height and width of the map in cells, `P, Q` those of the output,
`C` input channels, `O` output channels, `D` input channels per group, `kh, kw` the kernel's
size, `N` blocks of groups, `dy` the gradient in the output.
"""

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxdet.ops import winograd
from jaxdet.ops.platforms import platform_dependent
from jaxdet.ops.product import einsum

# Channels that a block of groups is filled up to on CPU: fewer leave the vector units idle,
# more multiply zeros.
_BLOCK = 32
# Channels per group up to which multiply-adds are faster than products.
_FEW = 8


def conv2d(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "kh kw D O"],
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> Float[Array, "B P Q O"]:
    """Cross-correlates `x` with `kernel`, as `torch.nn.functional.conv2d` does.

    Keeps `x` and `kernel` alone for the gradient.  Differentiable once, in reverse mode.  On CPU
    wide 3x3 convolutions have the rounding error of `winograd.conv3x3`.

    `x` is float32 or bfloat16, as are `kernel`, with D = C / groups, and the result.  `stride` and
    `padding`, with zeros, are in cells and alike on both axes: P = (H + 2 padding - kh) // stride
    + 1.  Each of the `groups` that channels are cut into sees only its own.
    """
    # Nothing is added, but inside `shard_map` the kernel now varies with the device as `x` does,
    # and its gradient is summed over devices by JAX and not by the programs below.
    kernel = kernel + lax.stop_gradient(jnp.sum(x[:0], axis=(0, 1, 2, 3)))
    return _conv(_Spec(stride, padding, groups), x, kernel)


def computed_once(x: Array) -> Array:
    """Returns `x`, and on CPU keeps XLA from computing it anew for each of its uses.

    Left alone, XLA computes a residual block's sum from the sum before it, that from the one
    before, and so for every block again.  A choice between two programs ends that: the second
    never runs, as nothing times zero is one, which XLA cannot know.
    """

    def chosen(x: Array) -> Array:
        first = x[(0,) * x.ndim]
        return lax.cond(first * 0 != 1, lambda x: x, jnp.zeros_like, x)

    return platform_dependent(x, cpu=chosen, default=lambda x: x)


class _Spec(NamedTuple):
    """What a convolution has beside its arrays; static."""

    stride: int
    padding: int
    groups: int = 1


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv(spec: _Spec, x: Array, kernel: Array) -> Array:
    cpu, default = partial(_cpu_conv, spec), partial(_lax_conv, spec)
    return platform_dependent(x, kernel, cpu=cpu, default=default)


def _conv_backward(spec: _Spec, kept: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    # Two programs, so that one whose result is not used is never run.
    on_cpu = partial(_cpu_input_gradient, spec), partial(_cpu_kernel_gradient, spec)
    dx, dkernel = (
        platform_dependent(*kept, dy, cpu=cpu, default=partial(_lax_gradient, index, spec))
        for index, cpu in enumerate(on_cpu)
    )
    return dx, dkernel


_conv.defvjp(lambda spec, *kept: (_conv(spec, *kept), kept), _conv_backward)


def _lax_conv(spec: _Spec, x: Array, kernel: Array) -> Array:
    strides, edges = (spec.stride, spec.stride), [(spec.padding, spec.padding)] * 2
    order = "NHWC", "HWIO", "NHWC"
    return lax.conv_general_dilated(
        x, kernel, strides, edges, dimension_numbers=order, feature_group_count=spec.groups
    )


def _lax_gradient(index: int, spec: _Spec, x: Array, kernel: Array, dy: Array) -> Array:
    """Returns XLA's gradient in `x` (index 0) or `kernel` (1)."""
    return jax.vjp(partial(_lax_conv, spec), x, kernel)[1](dy)[index]


# The CPU programs of a convolution in groups, in float32 whatever the dtype.


def _cpu_conv(spec: _Spec, x: Array, kernel: Array) -> Array:
    if _has_few(spec, kernel):
        x32, kernel32 = _in_float32(x, kernel)
        return _multiply_adds(spec, x32, kernel32, x.dtype)
    return _cpu_map(_dense_conv, spec, x, kernel)


def _cpu_input_gradient(spec: _Spec, x: Array, kernel: Array, dy: Array) -> Array:
    if not _has_few(spec, kernel):
        return _cpu_map(_dense_input_gradient, spec, x, kernel, dy)
    kh, kw, depth, _ = kernel.shape
    turned = kernel[::-1, ::-1].reshape(kh, kw, depth, spec.groups, -1).swapaxes(2, 4)
    turned, dy32 = _in_float32(turned.reshape(kh, kw, -1, x.shape[-1]), dy)
    spread = _spread(spec, kernel, x, dy32)
    return _multiply_adds(_Spec(1, 0, spec.groups), spread, turned, x.dtype)


def _multiply_adds(spec: _Spec, x: Array, kernel: Array, dtype: Any) -> Array:
    """Returns the map as a sum over places and a group's channels, all groups side by side."""
    kh, kw, depth, _ = kernel.shape
    stride, edges = spec.stride, (spec.padding, spec.padding)
    # A group's channels lie apart, so that neighbours in memory are of neighbouring groups.
    x = computed_once(x.reshape(*x.shape[:3], spec.groups, depth).swapaxes(3, 4))
    x = jnp.pad(x, ((0, 0), edges, edges, (0, 0), (0, 0)))
    kernel = computed_once(kernel.reshape(kh, kw, depth, spec.groups, -1).swapaxes(3, 4))
    rows, columns = (size - k + 1 for size, k in zip(x.shape[1:3], (kh, kw), strict=True))
    kernel = kernel[:, :, :, None, None, None]
    terms = (
        x[:, i : i + rows : stride, j : j + columns : stride, d, None] * kernel[i, j, d]
        for i, j, d in np.ndindex(kh, kw, depth)
    )
    # Its own program, as one in the order of the result would read memory in strides.
    y = computed_once(reduce(jnp.add, terms).astype(dtype))
    return y.swapaxes(3, 4).reshape(*y.shape[:3], -1)


def _has_few(spec: _Spec, kernel: Array) -> bool:
    """Returns whether a convolution in groups has but a few channels in each."""
    return spec.groups > 1 and max(kernel.shape[2], kernel.shape[3] // spec.groups) <= _FEW


def _cpu_map(dense: Callable, spec: _Spec, x: Array, kernel: Array, *dy: Array) -> Array:
    """Returns the map that `dense` gives of a kernel and maps, block of groups by block."""
    dense = partial(dense, spec._replace(groups=1))
    if spec.groups == 1:
        return dense(kernel, x, *dy).astype(x.dtype)
    kernel32, *maps = _in_float32(kernel, x, *dy)
    blocks = _split_kernel(spec.groups, kernel32)
    split = [_split(a, len(blocks)) for a in maps]
    y = lax.map(lambda block: dense(*block), (blocks, *split))
    y = jnp.moveaxis(y, 0, 3)
    return y.reshape(*y.shape[:3], -1).astype(x.dtype)


def _cpu_kernel_gradient(spec: _Spec, x: Array, kernel: Array, dy: Array) -> Array:
    if spec.groups == 1:
        return _dense_kernel_gradient(spec, kernel, x, dy).astype(kernel.dtype)
    x32, kernel32, dy32 = _in_float32(x, kernel, dy)
    blocks = spec.groups // _block_groups(kernel.shape[2], spec.groups)
    # XLA's own kernel gradient is a hundred times slower inside a loop.
    dense = partial(_shifted_products, spec, kernel.shape)
    dblocks = lax.map(lambda block: dense(*block), (_split(x32, blocks), _split(dy32, blocks)))
    (dkernel,) = jax.linear_transpose(partial(_split_kernel, spec.groups), kernel32)(dblocks)
    return dkernel.astype(kernel.dtype)


def _in_float32(*arrays: Array) -> tuple[Array, ...]:
    return tuple(a.astype(jnp.float32) for a in arrays)


def _block_groups(depth: int, groups: int) -> int:
    """Groups of `depth` input channels that share a dense convolution."""
    return math.gcd(groups, max(1, _BLOCK // depth))


def _split(x: Array, blocks: int) -> Array:
    """Turns [B, H, W, C] into [N, B, H, W, C / N]."""
    return jnp.moveaxis(x.reshape(*x.shape[:3], blocks, -1), 3, 0)


def _split_kernel(groups: int, kernel: Array) -> Array:
    """Turns [kh, kw, D, O] into blocks [N, kh, kw, m D, O / N], zero between groups."""
    kh, kw, depth, features = kernel.shape
    m = _block_groups(depth, groups)
    kernel = kernel.reshape(kh, kw, depth, groups // m, m, features // groups)
    blocks = jnp.einsum("hwdnmo,gm->nhwgdmo", kernel, jnp.eye(m))
    return blocks.reshape(groups // m, kh, kw, m * depth, m * features // groups)


# The CPU programs of a dense convolution: the result is float32, but for `winograd`'s maps.


def _dense_conv(spec: _Spec, kernel: Array, x: Array) -> Array:
    if _is_product(spec, kernel):
        return einsum("bhwc,co->bhwo", x[:, :: spec.stride, :: spec.stride], kernel[0, 0])
    if _is_winograd(spec, x, kernel):
        return winograd.conv3x3(x, kernel, spec.padding)
    return _lax_conv(spec, *_in_float32(x, kernel))


def _dense_input_gradient(spec: _Spec, kernel: Array, x: Array, dy: Array) -> Array:
    if _is_winograd(spec, x, kernel):
        return winograd.conv3x3(dy, kernel[::-1, ::-1].swapaxes(2, 3), 2 - spec.padding)
    if _is_product(spec, kernel):
        return _spread(spec, kernel, x, einsum("bhwo,co->bhwc", dy, kernel[0, 0]))
    # XLA's own is as fast outside of loops, and ten times slower inside.
    turned, dy32 = _in_float32(kernel[::-1, ::-1].swapaxes(2, 3), dy)
    return _lax_conv(_Spec(1, 0), _spread(spec, kernel, x, dy32), turned)


def _spread(spec: _Spec, kernel: Array, x: Array, dy: Array) -> Array:
    """Returns `dy` with zeros between and around, whose convolution is the gradient in `x`."""
    edges = [(0, 0, 0)]
    for size, outputs, k in zip(x.shape[1:3], dy.shape[1:3], kernel.shape[:2], strict=True):
        after = size + spec.padding - 1 - (outputs - 1) * spec.stride
        edges.append((k - 1 - spec.padding, after, spec.stride - 1))
    return lax.pad(dy, jnp.float32(0), [*edges, (0, 0, 0)])


def _dense_kernel_gradient(spec: _Spec, kernel: Array, x: Array, dy: Array) -> Array:
    channels, features = kernel.shape[2:]
    if _is_product(spec, kernel):
        cells = x[:, :: spec.stride, :: spec.stride].reshape(-1, channels)
        outputs = dy.reshape(-1, features)
        if channels <= features:
            return einsum("tc,to->co", cells, outputs).reshape(kernel.shape)
        # The factor that lies transposed in memory had better be the narrow one; without the
        # barrier XLA swaps them back.
        transposed = lax.optimization_barrier(einsum("to,tc->oc", outputs, cells))
        return transposed.T.reshape(kernel.shape)
    if _is_winograd(spec, x, kernel):
        return winograd.conv3x3_kernel_gradient(x, dy, spec.padding)
    if _is_large(x):
        return _shifted_products(spec, kernel.shape, x, dy)
    return _lax_gradient(1, spec, *_in_float32(x, kernel, dy))


def _shifted_products(spec: _Spec, shape: tuple[int, ...], x: Array, dy: Array) -> Array:
    """Returns the gradient in a kernel of `shape`, a product over all cells for each place."""
    stride, padding = spec.stride, spec.padding
    kh, kw = shape[:2]
    _, height, width, features = dy.shape
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    shifted = [
        x[:, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]
        for i, j in np.ndindex(kh, kw)
    ]
    cells = jnp.stack([cell.reshape(-1, x.shape[-1]) for cell in shifted])
    dkernel = einsum("jtc,to->jco", cells, dy.reshape(-1, features))
    return dkernel.reshape(kh, kw, x.shape[-1], features)


def _is_product(spec: _Spec, kernel: Array) -> bool:
    return kernel.shape[:2] == (1, 1) and spec.padding == 0


def _is_large(x: Array) -> bool:
    """Returns whether XLA's kernel gradient, channel by channel, would miss the cache."""
    return x.size >= 2**20 and x.shape[-1] >= _BLOCK


def _is_winograd(spec: _Spec, x: Array, kernel: Array) -> bool:
    """Returns whether `winograd` is both possible and faster.

    Its transforms cost as much per cell as 45 channels' worth of the products it saves, and the
    kernel's transform must be shared by many cells.  Those of one image count: an image's
    rounding shall not depend on its batch, whose size is moreover unknown in an exported model.
    """
    if kernel.shape[:2] != (3, 3) or spec.stride != 1 or spec.padding > 2:
        return False
    channels, features = kernel.shape[2:]
    wide = channels * features >= 48 * (channels + features)
    return wide and x.shape[1] * x.shape[2] >= 1024
