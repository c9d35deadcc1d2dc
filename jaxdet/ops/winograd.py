"""3x3 convolution at stride 1 with fewer products: Winograd's F(4x4, 3x3) and F(2x2, 3x3).

The output is cut into 4x4 tiles, each a function of a 6x6 tile of the input.  With matrices
`A, B, G` made from six evaluation points (the Cook-Toom construction),

    y = A' [(G g G') * (B' d B)] A      (Lavin & Gray, "Fast Algorithms for CNNs", CVPR 2016)

so that 36 matrix products over all tiles, [T, C] x [C, O], stand for nine over all cells: a
quarter of the multiplications.  The transforms of kernel and output are matrix products as well,
over the 36 numbers of a tile.

In bfloat16 tiles are 2x2 of 4x4, four ninths of the multiplications: rounding the factors then
costs one and a half times the error of a direct sum, where 4x4 tiles would cost four times.

Glossary: `B` images, `H, W` height and width in cells, `P, Q` those of the output, `C` input
and `O` output channels, `T` tiles of the whole batch.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdet.ops.product import einsum


class _Tiling(NamedTuple):
    """A tile and its transforms; the input's tile, `window`, has two cells more a side."""

    size: int  # cells a side of the output's tile
    a: np.ndarray  # A' [size^2, window^2], which acts on flattened tiles
    g: np.ndarray  # G [window^2, 9], likewise
    b: np.ndarray  # B' [window, window]


def _tiling(*points: float) -> _Tiling:
    """Returns that of evaluation points, to which infinity is added."""
    roots, size, window = np.array(points), len(points) - 1, len(points) + 1
    a, g, b = np.zeros((size, window)), np.zeros((window, 3)), np.zeros((window, window))
    for i, root in enumerate(roots):
        others = np.delete(roots, i)
        a[:, i] = root ** np.arange(size)
        g[i] = root ** np.arange(3) / np.prod(root - others)
        b[i, :-1] = np.poly(others)[::-1]
    a[-1, -1] = g[-1, -1] = 1.0
    b[-1] = np.poly(roots)[::-1]
    # Coefficients that cancel do so but for rounding; those left are one half or more.
    b[abs(b) < 1e-9] = 0
    matrices = (m.astype(np.float32) for m in (np.kron(a, a), np.kron(g, g), b))
    return _Tiling(size, *matrices)


# Next to the usual 0, ±1, ±2 these points halve the rounding error.
_LARGE = _tiling(0.0, 2**0.5, -(2**0.5), 0.5**0.5, -(0.5**0.5))
_SMALL = _tiling(0.0, 1.0, -1.0)


def _tiling_for(dtype: Any) -> _Tiling:
    return _SMALL if dtype == jnp.bfloat16 else _LARGE


def conv3x3(
    x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 C O"], padding: int
) -> Float[Array, "B P Q O"]:
    """Cross-correlates `x` at stride 1, zero-padded by `padding` cells a side.

    `x`, `kernel` and the result are float32 or bfloat16; sums are in float32.  The rounding error
    in float32 is about 1.5e-6 of the output's standard deviation, four times that of the direct
    sum; in bfloat16 0.4 %, next to 0.3.  Takes memory for 2.25 copies of `x` (4 in bfloat16)
    twice over, or of the output.

    `padding` is 0, 1 or 2; P = H + 2 padding - 2, and Q likewise.
    """
    batch, height, width, channels = x.shape
    height, width = height + 2 * padding - 2, width + 2 * padding - 2
    tiling, features = _tiling_for(x.dtype), kernel.shape[-1]
    size = tiling.size
    rows, columns = -(-height // size), -(-width // size)
    weights = jnp.dot(tiling.g, kernel.reshape(9, -1).astype(jnp.float32))
    weights = weights.reshape(-1, channels, features).astype(x.dtype)
    products = einsum("jtc,jco->jto", _input_tiles(tiling, x, padding), weights)
    tiles = jnp.dot(tiling.a, products.reshape(len(weights), -1)).astype(x.dtype)
    tiles = tiles.reshape(size, size, batch, rows, columns, features)
    y = tiles.transpose(2, 3, 0, 4, 1, 5).reshape(batch, rows * size, columns * size, features)
    return y[:, :height, :width]


def conv3x3_kernel_gradient(
    x: Float[Array, "B H W C"], gradient: Float[Array, "B P Q O"], padding: int
) -> Float[Array, "3 3 C O"]:
    """Returns the gradient of `sum(conv3x3(x, kernel, padding) * gradient)`, in float32."""
    tiling, (batch, height, width, features) = _tiling_for(x.dtype), gradient.shape
    size, inputs = tiling.size, _input_tiles(tiling, x, padding)
    rows, columns = -(-height // size), -(-width // size)
    after = ((0, 0), (0, rows * size - height), (0, columns * size - width), (0, 0))
    tiles = jnp.pad(gradient, after).reshape(batch, rows, size, columns, size, features)
    tiles = tiles.transpose(2, 4, 0, 1, 3, 5).reshape(size**2, -1).astype(jnp.float32)
    outputs = jnp.dot(tiling.a.T, tiles).astype(x.dtype).reshape(len(inputs), -1, features)
    weights = einsum("jtc,jto->jco", inputs, outputs).reshape(len(inputs), -1)
    return jnp.dot(tiling.g.T, weights).reshape(3, 3, x.shape[-1], features)


def _input_tiles(tiling: _Tiling, x: Array, padding: int) -> Array:
    """Returns B' d B of every overlapping tile: [window^2, T, C], columns first, then rows.

    Sums of views: B' is small and has zeros, and a product would first copy every tile.
    """
    size, window = tiling.size, tiling.size + 2
    batch, height, width, channels = x.shape
    rows, columns = (-(-(n + 2 * padding - 2) // size) for n in (height, width))
    after = [size * (n + 1) - side - padding for n, side in ((rows, height), (columns, width))]
    y = jnp.pad(x.astype(jnp.float32), ((0, 0), (padding, after[0]), (padding, after[1]), (0, 0)))
    y = y.reshape(batch, -1, columns + 1, size, channels)
    y = _sums(tiling.b, [y[:, :, j // size :, j % size][:, :, :columns] for j in range(window)])
    y = y.reshape(window, batch, rows + 1, size, columns, channels)
    y = _sums(tiling.b, [y[:, :, i // size :, i % size][:, :, :rows] for i in range(window)])
    return y.reshape(window**2, -1, channels).astype(x.dtype)


def _sums(matrix: np.ndarray, parts: list[Array]) -> Array:
    """Returns the product of a matrix and a stack of arrays."""
    return jnp.stack([sum(m * x for m, x in zip(row, parts, strict=True) if m) for row in matrix])
