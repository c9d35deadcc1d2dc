"""Losses of single numbers, from which detectors make theirs."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def binary_cross_entropy(logits: Float[Array, "*n"], target: Bool[Array, "*n"]) -> Array:
    """Returns -log p of the right answer, from logits, without overflow.

    An infinite logit costs nothing where it is right and infinitely much where it is wrong.

    >>> binary_cross_entropy(jnp.array([0.0, jnp.inf]), jnp.array([True, True])).round(4).tolist()
    [0.6930999755859375, 0.0]
    """
    wrong = jnp.where(target, -logits, logits)
    return jnp.maximum(wrong, 0) + jnp.log1p(jnp.exp(-jnp.abs(logits)))


def smooth_l1(error: Float[Array, "*n"], beta: float) -> Array:
    """Returns a loss that is quadratic below `beta` and linear above, continuous with its slope.

    A `beta` of 0 makes it the absolute error.

    >>> smooth_l1(jnp.array([0.5, -3.0]), 1.0).tolist()
    [0.125, 2.5]
    """
    size = jnp.abs(error)
    if beta == 0:
        return size
    return jnp.where(size < beta, 0.5 * size * size / beta, size - 0.5 * beta)
