"""From boxes and class scores to detections: multiclass NMS, exact and as one XLA program."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Float, Int

from jaxdet.config import DetectionConfig
from jaxdet.ops.boxes import MMDET1, BoxConvention, clip, sides
from jaxdet.ops.nms import nms
from jaxdet.ops.platforms import platform_dependent
from jaxdet.types import Predictions

# Candidates that are sorted at first; all are where these do not suffice.  To sort 400,000 takes a
# CPU 100 ms, to find the best of them 2 ms.
_FEW = 4096
# Most candidates that torchvision and detectron2 move apart, on a CPU.
_SHIFTED = 1000

Pairs = tuple[Float[Array, "m 4"], Float[Array, " m"], Int[Array, " m"]]


def all_pairs(
    boxes: Float[Array, "n 4"] | Float[Array, "n c 4"], scores: Float[Array, "n c"]
) -> Pairs:
    """Returns boxes, scores and classes of all pairs of a box and a class.

    A box is for all classes, or each class has its own.
    """
    n, c = scores.shape
    boxes = jnp.broadcast_to(boxes.reshape(n, -1, 4), (n, c, 4)).reshape(-1, 4)
    return boxes, scores.reshape(-1), jnp.tile(jnp.arange(c, dtype=jnp.int32), n)


def best_pairs(boxes: Float[Array, "n 4"], scores: Float[Array, "n c"], count: int) -> Pairs:
    """Returns boxes, scores and classes of at most `count` pairs, best first."""
    top, index = jax.lax.top_k(scores.reshape(-1), min(count, scores.size))
    return boxes[index // scores.shape[1]], top, index % scores.shape[1]


def detect(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, " n"],
    outputs: Int[Array, " n"],
    image_size: Int[Array, "2"],
    scale: Float[Array, "2"],
    labels: np.ndarray,
    config: DetectionConfig,
    convention: BoxConvention = MMDET1,
) -> Predictions:
    """Returns the best boxes, at most `config.max_num`, that NMS within each class keeps.

    Boxes are in pixels of the resized image; `scale` (x, y) is resized pixels per original pixel.
    `outputs` are classes in the system's own numbering, which `config.class_shift` depends on, and
    `labels` those that they stand for; what is no class, as the background, has a score of 0.

    Candidates have scores above the threshold, are large enough, and are numbers.  Equal scores
    rank by position.  `config.drop_empty` acts at the end: boxes are clipped to the image, and
    those without area leave no others in their place.

    Examples:
        >>> boxes = jnp.array([[0.0, 0, 9, 9], [0, 0, 9, 8]])
        >>> scores = jnp.array([[0.9, 0.3], [0.8, 0]])
        >>> labels, size, scale = np.arange(2), jnp.array([20, 20]), jnp.ones(2)
        >>> config = DetectionConfig(max_num=3)
        >>> found = detect(*all_pairs(boxes, scores), size, scale, labels, config)
        >>> found.labels.tolist(), found.valid.tolist()
        ([0, 1, 0], [True, True, False])
    """
    original = config.nms_pixels == "original"
    measured = boxes / jnp.tile(scale, 2)[None] if original else boxes
    width, height = sides(boxes, convention)
    large = (width >= config.min_box_size) & (height >= config.min_box_size)
    candidates = (scores > config.score_threshold) & large & jnp.isfinite(boxes).all(axis=1)
    groups: Array | None = outputs
    if config.class_shift != "never":
        moved = jnp.array(True)
        if config.class_shift == "few":
            moved = candidates.sum() <= _SHIFTED
        largest = jnp.where(candidates[:, None], measured, 0).max(initial=0)
        shift = jnp.where(moved, outputs.astype(jnp.float32) * (largest + 1), 0)
        measured = measured + shift[:, None]
        groups = None if config.class_shift == "always" else jnp.where(moved, 0, outputs)
    best = partial(_best, few=_FEW, config=config, convention=convention)
    # One image after another on a CPU: batched, the branch would always be taken.
    valid, index = platform_dependent(
        jax.lax.stop_gradient(measured),
        jax.lax.stop_gradient(jnp.where(candidates, scores, -jnp.inf)),
        groups,
        cpu=sequential_vmap(best),
        default=best,
        plain=partial(best, few=scores.shape[0]),  # without a branch
    )
    boxes, scores = boxes[index], scores[index]
    own = jnp.asarray(labels, jnp.int32)[outputs[index]]
    if config.drop_empty:
        boxes = clip(boxes, image_size, convention)
        width, height = sides(boxes, convention)
        valid &= (width > 0) & (height > 0)
        order = jnp.argsort(~valid, stable=True)
        boxes, scores, own, valid = (x[order] for x in (boxes, scores, own, valid))
    boxes, scores = jnp.where(valid[:, None], boxes, 0), jnp.where(valid, scores, 0)
    return Predictions(boxes, scores, jnp.where(valid, own, 0), valid)


def _best(
    boxes: Array,
    ranked: Array,
    labels: Array | None,
    *,
    few: int,
    config: DetectionConfig,
    convention: BoxConvention,
) -> tuple[Array, Array]:
    """Returns what NMS keeps: whether there is a k-th best, and its index."""

    def among(count: int) -> tuple[Array, Array]:
        """Returns it as the best `count` candidates have it."""
        top, order = jax.lax.top_k(ranked, count)
        own = None if labels is None else labels[order]
        keep = nms(
            boxes[order],
            top > -jnp.inf,
            config.nms_threshold,
            convention,
            labels=own,
            limit=config.max_num,
        )
        short = max(config.max_num - count, 0)
        kept, place = jax.lax.top_k(
            jnp.pad(jnp.where(keep, top, -jnp.inf), (0, short), constant_values=-jnp.inf),
            config.max_num,
        )
        return kept > -jnp.inf, jnp.pad(order, (0, short))[place]

    n = ranked.shape[0]
    found = among(min(n, few))
    if n <= few:
        return found
    enough = found[0].all() | ((ranked > -jnp.inf).sum() <= few)
    return jax.lax.cond(enough, lambda: found, lambda: among(n))
