"""Box conventions against numbers of the systems themselves (golden/ops_conventions)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_weights import seeded_image

from jaxdet import config as config_lib
from jaxdet.data.image import resize, resized_sizes
from jaxdet.ops.anchors import base_anchors, grid_anchors
from jaxdet.ops.boxes import CONVENTIONS, area, decode, encode, from_xywh, iou, to_xywh
from jaxdet.ops.matching import match
from jaxdet.ops.nms import nms

STRIDES = (4, 8, 16, 32, 64)
SYSTEM = {"mmdet": "mmdet3", "detectron2": "detectron2", "torchvision": "torchvision"}
CONFIGS = {
    "mmdet": "mmdet3_rpn_r50_fpn_1x",
    "detectron2": "detectron2_rpn_r50_fpn_1x",
    "torchvision": "torchvision_rpn_r50_fpn",
}
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


@SYSTEMS
def test_matching(ops, system):
    """Crowded boxes with ties and twins, and padding behind them."""
    anchors, boxes = jnp.asarray(ops["match_anchors"]), jnp.asarray(ops["match_boxes"])
    every, mask = jnp.ones(len(anchors), bool), jnp.arange(len(boxes) + 5) < len(boxes)
    boxes = jnp.pad(boxes, ((0, 5), (0, 0)))
    targets = config_lib.parse(config_lib.load_file(CONFIGS[system])).targets
    found = match(
        anchors,
        every,
        boxes,
        mask,
        pos_iou=targets.positive_iou,
        neg_iou=targets.negative_iou,
        min_pos_iou=targets.min_positive_iou,
        low_quality_takes=targets.low_quality_takes,
        convention=CONVENTIONS[SYSTEM[system]],
    )
    np.testing.assert_array_equal(found, ops[f"assigned_{system}"])


def test_a_box_that_meets_no_anchor_makes_all_positive_or_none(ops):
    """detectron2's and torchvision's quirk, which mmdet's least IoU prevents."""
    anchors = jnp.asarray([[0.0, 0, 9, 9], [20, 20, 29, 29]])
    boxes, every = jnp.asarray([[100.0, 100, 109, 109]]), jnp.ones(2, bool)
    limits = {"pos_iou": 0.7, "neg_iou": 0.3, "convention": CONVENTIONS["detectron2"]}
    all_of_them = match(
        anchors, every, boxes, every[:1], min_pos_iou=0.0, low_quality_takes=False, **limits
    )
    none = match(anchors, every, boxes, every[:1], min_pos_iou=0.3, **limits)
    assert (all_of_them.tolist(), none.tolist()) == ([1, 1], [0, 0])
    nothing = match(
        anchors, every, boxes, ~every[:1], min_pos_iou=0.0, low_quality_takes=False, **limits
    )
    assert nothing.tolist() == [0, 0]


@pytest.mark.parametrize("kind", ["levelwise", "offset"])
def test_nms_level_by_level(ops, kind):
    """A third of the pairs is within 3e-6 of the threshold; `offset` moves the levels apart."""
    kept = []
    apart = ops["nms_boxes"].max() + np.float32(1) if kind == "offset" else np.float32(0)
    for level in np.unique(ops["nms_levels"]):
        (own,) = np.nonzero(ops["nms_levels"] == level)
        own = own[np.argsort(-ops["nms_scores"][own])]
        boxes = jnp.asarray(ops["nms_boxes"][own] + np.float32(level) * apart)
        keep = nms(boxes, jnp.ones(len(own), bool), 0.7, CONVENTIONS["mmdet3"])
        kept += own[np.asarray(keep)].tolist()
    assert set(kept) == set(ops[f"nms_kept_{kind}"].tolist())


@SYSTEMS
def test_sizes_of_resized_images(ops, system):
    data = config_lib.parse(config_lib.load_file(CONFIGS[system])).data
    sizes, scales = resized_sizes(ops["size_source"].astype(np.int64), data)
    np.testing.assert_array_equal(sizes, ops[f"size_{system}"])
    np.testing.assert_allclose(scales[:, ::-1], sizes / ops["size_source"], rtol=1e-7)


@SYSTEMS
@pytest.mark.parametrize("way", ["down", "up"])
def test_pixels_of_resized_images(ops, system, way):
    height, width, *size = (int(x) for x in ops[f"resize_{way}_hw"])
    image = seeded_image(height, width, int(ops["seed"]))
    kind = config_lib.parse(config_lib.load_file(CONFIGS[system])).data.resize
    found = resize(image, (size[0], size[1]), kind)
    wanted = ops[f"resize_{way}_{system}"]
    # Bytes are equal; float32 of another library is within 7e-4 of 255.
    np.testing.assert_allclose(found, wanted, atol=1e-3 if kind == "float" else 0, rtol=0)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_corners_and_sizes_are_inverse(name):
    xywh = np.array([[2.0, 3.0, 5.0, 7.0], [0.0, 0.0, 1.0, 1.0]])
    boxes = from_xywh(xywh, CONVENTIONS[name])
    np.testing.assert_array_equal(to_xywh(boxes, CONVENTIONS[name]), xywh)
    np.testing.assert_array_equal(area(boxes, CONVENTIONS[name]), [35, 1])
