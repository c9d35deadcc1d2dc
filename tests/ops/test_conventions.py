"""Box conventions against numbers of the systems themselves (golden/ops_conventions)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet.ops.anchors import base_anchors, grid_anchors
from jaxdet.ops.boxes import CONVENTIONS, area, decode, encode, from_xywh, iou, to_xywh
from jaxdet.ops.matching import match
from jaxdet.ops.nms import nms

STRIDES = (4, 8, 16, 32, 64)
SYSTEM = {"mmdet": "mmdet3", "detectron2": "detectron2", "torchvision": "torchvision"}
SYSTEMS = pytest.mark.parametrize("system", SYSTEM)


@pytest.fixture(scope="module")
def ops(golden):
    return golden("ops_conventions")


@SYSTEMS
def test_anchors_are_the_systems_to_the_bit(ops, system):
    convention = CONVENTIONS[SYSTEM[system]]
    found = [base_anchors(s, (8,), (0.5, 1.0, 2.0), convention) for s in STRIDES]
    np.testing.assert_array_equal(found, ops[f"anchors_{system}_fpn"])
    grid = jax.jit(lambda: grid_anchors(found[1], 8, (5, 7)))()
    np.testing.assert_array_equal(grid, ops[f"grid_{system}"])


def test_c4_anchors_are_the_systems_to_the_bit(ops):
    found = base_anchors(16, (2, 4, 8, 16, 32), (0.5, 1.0, 2.0), CONVENTIONS["mmdet3"])
    np.testing.assert_array_equal(found, ops["anchors_mmdet_c4"])
    # detectron2 has the size outside and the ratio inside; its converter transposes the head.
    by_size = found.reshape(3, 5, 4).swapaxes(0, 1).reshape(-1, 4)
    np.testing.assert_array_equal(by_size, ops["anchors_detectron2_c4"])


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_iou_without_offset(ops, kind):
    """On the host and on the device the same, and the systems' own to the bit."""
    boxes, anchors = kind(ops["match_boxes"][:1]), kind(ops["match_anchors"])
    found = iou(boxes, anchors, CONVENTIONS["torchvision"])
    np.testing.assert_array_equal(found[0], ops["iou_first_row"])


@SYSTEMS
def test_decoded_boxes(ops, system):
    anchors, deltas = jnp.asarray(ops["code_anchors"]), jnp.asarray(ops["code_deltas"])
    size = jnp.asarray(ops["code_image_hw"])
    found = jax.jit(decode, static_argnums=3)(anchors, deltas, size, CONVENTIONS[SYSTEM[system]])
    # Boxes of up to a thousand pixels: some units of float32's last place, as exp has.
    np.testing.assert_allclose(found, ops[f"decoded_{system}"], atol=1e-4)


def test_encoded_boxes(ops):
    anchors, boxes = jnp.asarray(ops["code_anchors"]), jnp.asarray(ops["encode_boxes"])
    found = encode(anchors, boxes, CONVENTIONS["detectron2"])
    np.testing.assert_allclose(found, ops["encoded"], atol=2e-6)


def test_matching_as_mmdet(ops):
    anchors, boxes = jnp.asarray(ops["match_anchors"]), jnp.asarray(ops["match_boxes"])
    every, mask = jnp.ones(len(anchors), bool), jnp.ones(len(boxes), bool)
    limits = {"pos_iou": 0.7, "neg_iou": 0.3, "min_pos_iou": 0.3}
    found = match(anchors, every, boxes, mask, **limits, convention=CONVENTIONS["mmdet3"])
    np.testing.assert_array_equal(found, ops["assigned_mmdet"])


def test_nms_level_by_level(ops):
    kept = []
    for level in np.unique(ops["nms_levels"]):
        (own,) = np.nonzero(ops["nms_levels"] == level)
        own = own[np.argsort(-ops["nms_scores"][own])]
        boxes = jnp.asarray(ops["nms_boxes"][own])
        keep = nms(boxes, jnp.ones(len(own), bool), 0.7, CONVENTIONS["mmdet3"])
        kept += own[np.asarray(keep)].tolist()
    assert set(kept) == set(ops["nms_kept_levelwise"].tolist())


@pytest.mark.parametrize("name", CONVENTIONS)
def test_corners_and_sizes_are_inverse(name):
    xywh = np.array([[2.0, 3.0, 5.0, 7.0], [0.0, 0.0, 1.0, 1.0]])
    boxes = from_xywh(xywh, CONVENTIONS[name])
    np.testing.assert_array_equal(to_xywh(boxes, CONVENTIONS[name]), xywh)
    np.testing.assert_array_equal(area(boxes, CONVENTIONS[name]), [35, 1])
