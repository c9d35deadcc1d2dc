"""From boxes and class scores to detections: multiclass NMS, exact and as one XLA program."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from jaxdet.config import DetectionConfig
from jaxdet.ops.boxes import MMDET1, BoxConvention, clip, sides
from jaxdet.ops.nms import nms
from jaxdet.types import Predictions

# Candidates that are sorted at first; all are where these do not suffice.  To sort 400,000 takes a
# CPU 100 ms, to find the best of them 2 ms.
_FEW = 4096
# Most candidates that torchvision and detectron2 move apart, on a CPU.
_SHIFTED = 1000


class Detections(NamedTuple):
    """The boxes of an image that remain, best first; the valid ones come first."""

    boxes: Float32[Array, "m 4"]  # resized pixels; zero where not valid
    scores: Float32[Array, " m"]  # zero where not valid
    labels: Int32[Array, " m"]
    valid: Bool[Array, " m"]
    row: Int32[Array, " m"]  # of what was given, where it came from


def as_predictions(found: Detections, labels: np.ndarray) -> Predictions:
    """Returns detections with the label of each output instead of the output's number."""
    own = jnp.where(found.valid, jnp.asarray(labels, jnp.int32)[found.labels], 0)
    return Predictions(found.boxes, found.scores, own, found.valid)


def detect(
    boxes: Float[Array, "n 4"] | Float[Array, "n c 4"],
    scores: Float[Array, "n c"],
    image_size: Int[Array, "2"],
    scale: Float[Array, "2"],
    config: DetectionConfig,
    convention: BoxConvention = MMDET1,
) -> Detections:
    """Returns the detections among all pairs of a box and a class; see `detect_pairs`.

    Args:
        boxes: resized pixels; one for all classes, or each class its own.
        scores: of classes in the system's own numbering, which `config.class_shift` depends on.
            Columns that are no class, as the background, are 0.
        image_size: (height, width) of the resized image.
        scale: (x, y), resized pixels per original pixel.
        config: thresholds and rules.
        convention: what a box is.

    >>> boxes, scores = jnp.array([[0.0, 0, 9, 9], [0, 0, 9, 8]]), jnp.array([[0.9, 0.3], [0.8, 0]])
    >>> size, scale = jnp.array([20, 20]), jnp.ones(2)
    >>> found = detect(boxes, scores, size, scale, DetectionConfig(max_num=3))
    >>> found.labels.tolist(), found.row.tolist(), found.valid.tolist()
    ([0, 1, 0], [0, 0, 0], [True, True, False])
    """
    n, c = scores.shape
    pairs = jnp.broadcast_to(boxes.reshape(n, -1, 4), (n, c, 4)).reshape(-1, 4)
    labels = jnp.tile(jnp.arange(c, dtype=jnp.int32), n)
    found = detect_pairs(pairs, scores.reshape(-1), labels, image_size, scale, config, convention)
    return found._replace(row=found.row // c)


def detect_pairs(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, " n"],
    labels: Int[Array, " n"],
    image_size: Int[Array, "2"],
    scale: Float[Array, "2"],
    config: DetectionConfig,
    convention: BoxConvention = MMDET1,
) -> Detections:
    """Returns the best boxes, at most `config.max_num`, that NMS within each class keeps.

    Candidates have scores above the threshold, are large enough, and are numbers.  Equal scores
    rank by position.  `config.drop_empty` acts at the end: boxes are clipped to the image, and
    those without area leave no others in their place.
    """
    original = config.nms_pixels == "original"
    measured = boxes / jnp.tile(scale, 2)[None] if original else boxes
    width, height = sides(boxes, convention)
    large = (width >= config.min_box_size) & (height >= config.min_box_size)
    candidates = (scores > config.score_threshold) & large & jnp.isfinite(boxes).all(axis=1)
    groups: Array | None = labels
    if config.class_shift != "never":
        moved = jnp.array(True)
        if config.class_shift == "few":
            moved = candidates.sum() <= _SHIFTED
        largest = jnp.where(candidates[:, None], measured, 0).max(initial=0)
        shift = jnp.where(moved, labels.astype(jnp.float32) * (largest + 1), 0)
        measured = measured + shift[:, None]
        groups = None if config.class_shift == "always" else jnp.where(moved, 0, labels)
    best = partial(_best, config=config, convention=convention)
    # One image after another on a CPU: batched, the branch would always be taken.
    valid, index = jax.lax.platform_dependent(
        measured,
        jnp.where(candidates, scores, -jnp.inf),
        groups,
        cpu=sequential_vmap(best),
        default=best,
    )
    return _gather(boxes, scores, labels, valid, index, image_size, config, convention)


def _best(
    boxes: Array,
    ranked: Array,
    labels: Array | None,
    *,
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
    found = among(min(n, _FEW))
    if n <= _FEW:
        return found
    enough = found[0].all() | ((ranked > -jnp.inf).sum() <= _FEW)
    return jax.lax.cond(enough, lambda: found, lambda: among(n))


def _gather(
    boxes: Array,
    scores: Array,
    labels: Array,
    valid: Array,
    index: Array,
    image_size: Array,
    config: DetectionConfig,
    convention: BoxConvention,
) -> Detections:
    boxes = boxes[index]
    if config.drop_empty:
        boxes = clip(boxes, image_size, convention)
        width, height = sides(boxes, convention)
        valid &= (width > 0) & (height > 0)
        order = jnp.argsort(~valid, stable=True)
        boxes, valid, index = boxes[order], valid[order], index[order]
    boxes = jnp.where(valid[:, None], boxes, 0)
    scores, labels = jnp.where(valid, scores[index], 0), jnp.where(valid, labels[index], 0)
    return Detections(boxes, scores, labels, valid, jnp.where(valid, index, 0))
