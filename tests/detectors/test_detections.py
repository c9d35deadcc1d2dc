"""Multiclass NMS against the systems' own, and against itself a class at a time."""

import contextlib
import doctest
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import plain_numpy
import pytest

from jaxdet.config import DetectionConfig
from jaxdet.detectors import detections
from jaxdet.detectors.detections import all_pairs, detect
from jaxdet.ops.boxes import CONVENTIONS
from jaxdet.ops.platforms import plain_operations
from jaxdet.types import Predictions

SIZE, ONE = jnp.array([1000, 1000]), jnp.ones(2)
LABELS = np.arange(1000)  # an output stands for the label of its number
EVERY = {"score_threshold": 0.0, "nms_pixels": "resized"}


def found_of(found) -> tuple[np.ndarray, np.ndarray]:
    """Boxes with scores, and labels, of what is valid."""
    valid = np.asarray(found.valid)
    assert not valid[valid.sum() :].any()
    return np.column_stack([found.boxes, found.scores])[valid], np.asarray(found.labels)[valid]


def by_score(dets, labels):
    """Rows of box, score and label, best first."""
    rows = np.column_stack([dets, labels])
    return rows[np.lexsort((*rows.T[:4], -rows[:, 4]))]


@pytest.mark.parametrize("case", ["cut", "all", "shared", "tie", "none"])
def test_keeps_what_the_2018_toolbox_keeps(golden, case):
    ops = golden("detector_ops")
    boxes = ops["mcnms_boxes"].reshape(150, 6, 4)
    scores, size = ops["mcnms_scores"], int(ops["mcnms_all_max"] if case == "all" else 100)
    if case == "shared":
        boxes = ops["mcnms_boxes"][:, :4]
    if case == "tie":
        boxes, scores = ops["mcnms_tie_boxes"], ops["mcnms_tie_scores"]
    if case == "none":
        scores = np.full_like(scores, 0.05)  # not above the threshold
    boxes = boxes[:, 1:] if boxes.ndim == 3 else boxes
    pairs = all_pairs(jnp.asarray(boxes), jnp.asarray(scores[:, 1:]))
    program = partial(detect, labels=LABELS, config=DetectionConfig(max_num=size))
    found = jax.jit(program)(*pairs, SIZE, ONE)
    dets, labels = found_of(found)
    wanted = ops[f"mcnms_{case}_dets"]
    if case in ("tie", "none"):
        np.testing.assert_array_equal(dets, wanted)
        return
    expected = by_score(wanted, ops[f"mcnms_{case}_labels"])
    np.testing.assert_array_equal(by_score(dets, labels), expected)


@pytest.mark.parametrize(
    ("prefix", "kept", "shift", "few"),
    [
        ("today-small", "kept_shifted", "few", 4096),
        ("today-large", "kept_plain", "never", 4096),
        ("today-large", "kept_plain", "few", 128),
        ("today-large", "kept_shifted", "always", 128),
        ("torchvision", "kept_classwise", "never", 128),
        ("torchvision", "kept_classwise", "never", None),
        ("torchvision", "kept_offset", "few", 4096),
    ],
)
def test_keeps_what_systems_of_today_keep(golden, monkeypatch, prefix, kept, shift, few):
    """`few` candidates are sorted at first: too few, or all of them, or plain operations."""
    monkeypatch.setattr(detections, "_FEW", few)
    operations = plain_operations() if few is None else contextlib.nullcontext()
    system, _, size = prefix.partition("-")
    ops, prefix = golden(f"detector_ops_{system}"), f"nms_{size}_" if size else "nms_"
    labels = ops[f"{prefix}{'classes' if size else 'labels'}"].astype(np.int32)
    boxes, scores, wanted = (ops[f"{prefix}{x}"] for x in ("boxes", "scores", kept))
    most = len(wanted) + 50 if few == 4096 else len(wanted) // 2
    config = DetectionConfig(**EVERY, class_shift=shift, max_num=most)
    program = partial(detect, labels=LABELS, config=config, convention=CONVENTIONS["mmdet3"])
    with operations:
        found = jax.jit(program)(*map(jnp.asarray, (boxes, scores, labels)), SIZE, ONE)
    dets, found_labels = found_of(found)
    index = wanted[:most]
    np.testing.assert_array_equal(dets, np.column_stack([boxes, scores])[index])
    np.testing.assert_array_equal(found_labels, labels[index])


def test_a_batch_in_original_pixels_a_class_at_a_time():
    rng = np.random.default_rng(0)
    boxes = np.stack([plain_numpy.random_boxes(i, 60, 200.0) for i in range(3)])
    scores = rng.uniform(0, 1, (3, 60, 5)).astype(np.float32)
    scale = np.array([[0.5, 0.5], [1, 1], [2, 2]], np.float32)
    config = DetectionConfig(score_threshold=0.3, max_num=400)

    def one_image(boxes, scores, scale):
        return detect(*all_pairs(boxes, scores), SIZE, scale, LABELS, config)

    found = jax.jit(jax.vmap(one_image))(boxes, scores, scale)
    for i, one in enumerate(zip(*found[:4], strict=True)):
        dets, labels = found_of(Predictions(*one))
        for label in range(5):
            order = np.argsort(-scores[i, :, label], kind="stable")
            inner = scores[i, order, label] > 0.3
            kept = order[plain_numpy.nms(boxes[i, order] / scale[i, 0], inner, 0.5)]
            wanted = np.column_stack([boxes[i], scores[i, :, label]])[kept]
            np.testing.assert_array_equal(dets[labels == label], wanted)


def test_what_is_too_small_or_no_number_or_empty():
    boxes = np.array(
        [[0, 0, 9, 9], [20, 20, 20, 30], [50, 50, 60, 60], [-9, 0, -3, 9], [70, 70, 90, 90]],
        np.float32,
    )
    boxes[2, 1] = np.nan
    scores, labels = np.array([0.5, 0.9, 0.8, 0.7, np.nan], np.float32), np.arange(5)
    size = jnp.array([100, 100])

    def indices(**fields):
        config = DetectionConfig(**fields, nms_pixels="resized", max_num=3)
        given = map(jnp.asarray, (boxes, scores, labels))
        found = detect(*given, size, ONE, labels, config, CONVENTIONS["detectron2"])
        return found_of(found)[1].tolist()

    assert indices() == [1, 3, 0]
    assert indices(min_box_size=1e-30) == [3, 0]
    assert indices(drop_empty=True) == [0]


def test_the_example():
    assert doctest.testmod(detections).failed == 0


def test_gradients_pass_to_what_is_chosen_and_not_through_the_choice():
    boxes = jnp.array([[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 29, 29]])
    scores = jnp.array([[0.9], [0.8], [0.7]])

    def total(boxes, scores):
        found = detect(*all_pairs(boxes, scores), SIZE, ONE, LABELS, DetectionConfig(max_num=3))
        return found.boxes.sum() + found.scores.sum()

    of_boxes, of_scores = jax.grad(total, argnums=(0, 1))(boxes, scores)
    np.testing.assert_array_equal(of_boxes, np.array([[1.0], [0], [1]]) * np.ones(4))
    np.testing.assert_array_equal(of_scores, [[1.0], [0], [1]])
