import jax
import jax.numpy as jnp
import numpy as np

from jaxdet.models.conv import conv2d


def test_known_values():
    x = np.arange(9, dtype=np.float32).reshape(1, 3, 3, 1)
    y = jax.jit(lambda x: conv2d(x, jnp.ones((3, 3, 1, 1)), stride=2, padding=1))(x)
    np.testing.assert_array_equal(y[0, ..., 0], [[8, 12], [20, 24]])
