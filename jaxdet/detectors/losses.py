"""The RPN's losses (Ren et al. 2015; the reference's smooth L1 and normaliser)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxdet.detectors.network import Outputs
from jaxdet.detectors.targets import Targets


def binary_cross_entropy(logits: Float[Array, "*n"], target: Bool[Array, "*n"]) -> Array:
    """-log p of the right answer, from logits, without overflow.

    An infinite logit costs nothing where it is right and infinitely much where it is wrong.
    """
    wrong = jnp.where(target, -logits, logits)
    return jnp.maximum(wrong, 0) + jnp.log1p(jnp.exp(-jnp.abs(logits)))


def smooth_l1(error: Float[Array, "*n"], beta: float) -> Array:
    """Quadratic below `beta`, linear above, continuous in value and slope."""
    size = jnp.abs(error)
    return jnp.where(size < beta, 0.5 * size * size / beta, size - 0.5 * beta)


def rpn_losses(
    outputs: Outputs, targets: Targets, beta: float
) -> tuple[Float[Array, " l"], Float[Array, " l"]]:
    """Classification and box loss of each level; their sum is what training minimises.

    Both are sums over this device's images divided by the same number of sampled anchors,
    where every image counts at least one positive and one negative.

    Args:
        outputs: per level, [B, h, w, A] logits and [B, h, w, 4 A] deltas.
        targets: all levels' anchors concatenated.
        beta: where smooth L1 turns linear.
    """
    counts = [jnp.maximum(kind.sum(axis=1), 1) for kind in (targets.positive, targets.negative)]
    total = (counts[0] + counts[1]).sum().astype(jnp.float32)
    classification, box = [], []
    start = 0
    for logits, deltas in zip(*outputs, strict=True):
        b = logits.shape[0]
        logits, deltas = logits.reshape(b, -1), deltas.reshape(b, -1, 4)
        level = slice(start, start + logits.shape[1])
        start = level.stop
        positive, negative = targets.positive[:, level], targets.negative[:, level]
        entropy = binary_cross_entropy(logits, positive)
        classification.append(jnp.where(positive | negative, entropy, 0).sum() / total)
        error = smooth_l1(deltas - targets.deltas[:, level], beta)
        box.append(jnp.where(positive[..., None], error, 0).sum() / total)
    return jnp.stack(classification), jnp.stack(box)
