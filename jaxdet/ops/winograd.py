"""3x3 convolution at stride 1 with a quarter of the products: Winograd's F(4x4, 3x3).

The output is cut into 4x4 tiles, each a function of a 6x6 tile of the input.  With matrices
`A, B, G` made from six evaluation points (the Cook-Toom construction),

    y = A' [(G g G') * (B' d B)] A      (Lavin & Gray, "Fast Algorithms for CNNs", CVPR 2016)

so that 36 matrix products over all tiles, [T, C] x [C, O], stand for nine over all cells.
The transforms of kernel and output are matrix products as well, over the 36 numbers of a tile.

Glossary: `B` images, `H, W` height and width in cells, `P, Q` those of the output, `C` input
and `O` output channels, `T` tiles of the whole batch.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_TILE = 4
_WINDOW = _TILE + 2
# Beside infinity.  Next to the usual 0, ±1, ±2 these halve the rounding error.
_POINTS = (0.0, 2**0.5, -(2**0.5), 0.5**0.5, -(0.5**0.5))


def _matrices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns A' [16, 36] and G [36, 9], which act on flattened tiles, and B' [6, 6]."""
    roots = np.array(_POINTS)
    a, g, b = np.zeros((_TILE, _WINDOW)), np.zeros((_WINDOW, 3)), np.zeros((_WINDOW, _WINDOW))
    for i, root in enumerate(roots):
        others = np.delete(roots, i)
        a[:, i] = root ** np.arange(_TILE)
        g[i] = root ** np.arange(3) / np.prod(root - others)
        b[i, :-1] = np.poly(others)[::-1]
    a[-1, -1] = g[-1, -1] = 1.0
    b[-1] = np.poly(roots)[::-1]
    # Coefficients that cancel do so but for rounding; those left are one half or more.
    b[abs(b) < 1e-9] = 0
    return np.kron(a, a).astype(np.float32), np.kron(g, g).astype(np.float32), b.astype(np.float32)


_A, _G, _B = _matrices()


def conv3x3(
    x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 C O"], padding: int
) -> Float[Array, "B P Q O"]:
    """Cross-correlates float32 `x` at stride 1, zero-padded by `padding` cells a side.

    The rounding error is about 1.5e-6 of the output's standard deviation, four times that of
    the direct sum.  Takes memory for 2.25 copies of `x` twice over, or of the output.

    `padding` is 0, 1 or 2; P = H + 2 padding - 2, and Q likewise.
    """
    batch, height, width, channels = x.shape
    height, width = height + 2 * padding - 2, width + 2 * padding - 2
    rows, columns = -(-height // _TILE), -(-width // _TILE)
    features = kernel.shape[-1]
    weights = jnp.dot(_G, kernel.reshape(9, -1)).reshape(-1, channels, features)
    products = jnp.einsum("jtc,jco->jto", _input_tiles(x, padding), weights)
    tiles = jnp.dot(_A, products.reshape(len(weights), -1))
    tiles = tiles.reshape(_TILE, _TILE, batch, rows, columns, features)
    y = tiles.transpose(2, 3, 0, 4, 1, 5).reshape(batch, rows * _TILE, columns * _TILE, features)
    return y[:, :height, :width]


def conv3x3_kernel_gradient(
    x: Float[Array, "B H W C"], gradient: Float[Array, "B P Q O"], padding: int
) -> Float[Array, "3 3 C O"]:
    """Returns the gradient of `sum(conv3x3(x, kernel, padding) * gradient)` in `kernel`."""
    inputs = _input_tiles(x, padding)
    batch, height, width, features = gradient.shape
    rows, columns = -(-height // _TILE), -(-width // _TILE)
    after = ((0, 0), (0, rows * _TILE - height), (0, columns * _TILE - width), (0, 0))
    tiles = jnp.pad(gradient, after).reshape(batch, rows, _TILE, columns, _TILE, features)
    tiles = tiles.transpose(2, 4, 0, 1, 3, 5).reshape(_TILE**2, -1)
    outputs = jnp.dot(_A.T, tiles).reshape(len(inputs), -1, features)
    weights = jnp.einsum("jtc,jto->jco", inputs, outputs)
    return jnp.dot(_G.T, weights.reshape(len(inputs), -1)).reshape(3, 3, x.shape[-1], features)


def _input_tiles(x: Array, padding: int) -> Array:
    """Returns B' d B of every overlapping 6x6 tile: [36, T, C], columns first, then rows.

    Sums of views: B' is small and has zeros, and a product would first copy every tile.
    """
    batch, height, width, channels = x.shape
    rows, columns = (-(-(n + 2 * padding - 2) // _TILE) for n in (height, width))
    after = [_TILE * (n + 1) - size - padding for n, size in ((rows, height), (columns, width))]
    x = jnp.pad(x, ((0, 0), (padding, after[0]), (padding, after[1]), (0, 0)))
    x = x.reshape(batch, -1, columns + 1, _TILE, channels)
    x = _sums(_B, [x[:, :, j // _TILE :, j % _TILE][:, :, :columns] for j in range(_WINDOW)])
    x = x.reshape(_WINDOW, batch, rows + 1, _TILE, columns, channels)
    x = _sums(_B, [x[:, :, i // _TILE :, i % _TILE][:, :, :rows] for i in range(_WINDOW)])
    return x.reshape(_WINDOW**2, -1, channels)


def _sums(matrix: np.ndarray, parts: list[Array]) -> Array:
    """Returns the product of a matrix and a stack of arrays."""
    return jnp.stack([sum(m * x for m, x in zip(row, parts, strict=True) if m) for row in matrix])
