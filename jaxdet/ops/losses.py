"""Losses of single numbers, from which detectors make theirs."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxdet.ops.boxes import MMDET1, BoxConvention, Boxes, area, sides

_TINY = 1e-7  # added to areas that are divided by


def binary_cross_entropy(logits: Float[Array, "*n"], target: Bool[Array, "*n"]) -> Array:
    """Returns -log p of the right answer, from logits, without overflow.

    An infinite logit costs nothing where it is right and infinitely much where it is wrong.

    Examples:
        >>> logits, targets = jnp.array([0.0, jnp.inf]), jnp.array([True, True])
        >>> binary_cross_entropy(logits, targets).round(4).tolist()
        [0.6930999755859375, 0.0]
    """
    # Written out with `abs`, its gradient at a logit of 0 would be off by a half.
    return jnp.logaddexp(jnp.where(target, -logits, logits), 0)


def smooth_l1(error: Float[Array, "*n"], beta: float) -> Array:
    """Returns a loss that is quadratic below `beta` and linear above, continuous with its slope.

    A `beta` of 0 makes it the absolute error.

    Examples:
        >>> smooth_l1(jnp.array([0.5, -3.0]), 1.0).tolist()
        [0.125, 2.5]
    """
    size = jnp.abs(error)
    if beta == 0:
        return size
    return jnp.where(size < beta, 0.5 * size * size / beta, size - 0.5 * beta)


def focal_loss(logits: Float[Array, "*n"], target: Bool[Array, "*n"]) -> Array:
    """Returns the focal loss (Lin et al. 2017b) with its paper's alpha 0.25 and gamma 2.

    That is the cross-entropy times the square of the wrong answer's probability, and a quarter of
    it where the target is true, three quarters elsewhere.

    Examples:
        >>> focal_loss(jnp.array([0.0, 2.0]), jnp.array([True, False])).round(4)
        Array([0.0433, 1.2376], dtype=float32)
    """
    wrong = jax.nn.sigmoid(jnp.where(target, -logits, logits))
    return jnp.where(target, 0.25, 0.75) * wrong**2 * binary_cross_entropy(logits, target)


def giou_loss(a: Boxes, b: Boxes, convention: BoxConvention = MMDET1) -> Float[Array, "*n"]:
    """Returns 1 minus the generalised IoU (Rezatofighi et al. 2019) of boxes pair by pair.

    Examples:
        >>> giou_loss(jnp.array([0.0, 0, 9, 9]), jnp.array([10.0, 0, 19, 9])).item()
        1.0
    """
    low, high = jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:])
    width, height = sides(jnp.concatenate([low, high], axis=-1), convention)
    shared = jnp.where((width > 0) & (height > 0), width * height, 0)
    union = area(a, convention) + area(b, convention) - shared
    low, high = jnp.minimum(a[..., :2], b[..., :2]), jnp.maximum(a[..., 2:], b[..., 2:])
    hull = area(jnp.concatenate([low, high], axis=-1), convention)
    return 1 - shared / (union + _TINY) + (hull - union) / (hull + _TINY)
