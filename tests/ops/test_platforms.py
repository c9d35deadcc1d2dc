"""Plain operations: the same results, without choices between platforms, in any cache of jit's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet.ops.conv import conv2d
from jaxdet.ops.nms import nms
from jaxdet.ops.platforms import every_platform, plain_operations


def test_plain_operations_give_the_same_without_asking_for_a_platform():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 60, (600, 2))  # more than one block on a CPU
    boxes = jnp.asarray(np.hstack([corner, corner + rng.uniform(5, 30, (600, 2))]), jnp.float32)
    x = jnp.asarray(rng.standard_normal((1, 8, 8, 4)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((3, 3, 2, 6)), jnp.float32)

    @jax.jit
    def both(boxes, x, kernel):
        return nms(boxes, boxes[:, 0] > 9, 0.5), conv2d(x, kernel, padding=1, groups=2)

    def asks() -> bool:
        return "platform_index" in str(jax.make_jaxpr(both)(boxes, x, kernel))

    kept, y = both(boxes, x, kernel)
    assert not asks()  # CPUs are all there is
    with every_platform():
        np.testing.assert_array_equal(kept, both(boxes, x, kernel)[0])
        assert asks()
    with plain_operations():
        plain_kept, plain_y = both(boxes, x, kernel)
        assert not asks()
    assert 0 < kept.sum() < 600
    np.testing.assert_array_equal(kept, plain_kept)
    np.testing.assert_allclose(y, plain_y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [0, 40, 600])
def test_plain_suppression_finds_the_first_of_each_label(count):
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, 60, (600, 2))
    boxes = jnp.asarray(np.hstack([corner, corner + rng.uniform(5, 30, (600, 2))]), jnp.float32)
    valid, labels = jnp.arange(600) < count, jnp.asarray(rng.integers(0, 3, 600))
    every = nms(boxes, valid, 0.5, labels=labels)
    with plain_operations():
        first = nms(boxes, valid, 0.5, labels=labels, limit=30)
    np.testing.assert_array_equal(first, every & (every.cumsum() <= 30))
    assert first.sum() == min(30, every.sum())
