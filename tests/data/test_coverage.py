"""The closed form against all anchors, one by one."""

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdet.config import ModelConfig, TargetConfig
from jaxdet.data.check import best_ious, summarise
from jaxdet.detectors.rpn import anchor_grid
from jaxdet.ops import anchors, boxes
from jaxdet.ops.boxes import MMDET1

FPN = ModelConfig()
C4 = ModelConfig(num_stages=3, fpn_channels=0, anchor_scales=(2.0, 4.0, 8.0, 16.0, 32.0))
SHAPES = ModelConfig(anchor_scales=(4.0, 5.04, 6.35))


def allowed_anchors(size, model):
    """Those inside the image, of all cells of the image padded to multiples of 32."""
    height, width = size
    for stride in model.strides:
        base = anchors.base_anchors(stride, model.anchor_scales, model.anchor_ratios)
        rows, columns = (-(-side // 32) * 32 // stride + 1 for side in size)
        for row, column, (x1, y1, x2, y2) in itertools.product(
            range(rows), range(columns), base.tolist()
        ):
            x, y = column * stride, row * stride
            if x1 + x >= 0 and y1 + y >= 0 and x2 + x < width and y2 + y < height:
                yield x1 + x, y1 + y, x2 + x, y2 + y


def brute_force(corners, size, model):
    """Each box with every allowed anchor."""
    allowed = list(allowed_anchors(size, model))
    best = []
    for x1, y1, x2, y2 in corners.astype(np.float64):
        top = 0.0
        for ax1, ay1, ax2, ay2 in allowed:
            width = max(min(x2, ax2) - max(x1, ax1) + 1, 0)
            height = max(min(y2, ay2) - max(y1, ay1) + 1, 0)
            union = (x2 - x1 + 1) * (y2 - y1 + 1) + (ax2 - ax1 + 1) * (ay2 - ay1 + 1)
            top = max(top, width * height / (union - width * height))
        best.append(top)
    return np.array(best)


sides = st.integers(1, 150)
fractions = st.floats(0, 1, width=32)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([FPN, C4, SHAPES]),
    st.tuples(sides, sides),
    st.lists(st.tuples(fractions, fractions, fractions, fractions), min_size=1, max_size=3),
)
def test_as_good_as_trying_every_anchor(model, size, places):
    last = np.array([size[1] - 1, size[0] - 1], np.float32)
    ends = np.array(places, np.float32).reshape(-1, 2, 2) * last
    corners = np.concatenate([ends.min(axis=1), ends.max(axis=1)], axis=1)
    sizes = np.tile(np.array(size), (len(corners), 1))
    found = best_ious(corners, sizes, model)
    np.testing.assert_allclose(found, brute_force(corners, size, model), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("model", [FPN, C4], ids=["fpn", "c4"])
def test_many_boxes_of_a_large_image_as_in_matching(model):
    """In blocks, against the overlaps that training computes, to float32 rounding."""
    rng = np.random.default_rng(0)
    size, count = (416, 672), 9000
    ends = np.sort(rng.uniform(0, 1, (count, 2, 2)).astype(np.float32), axis=1)
    corners = (ends * np.array([671, 415], np.float32)).reshape(count, 4)
    found = best_ious(corners, np.tile(np.array(size), (count, 1)), model)
    levels = anchors.pyramid_anchors(size, anchor_grid(model))
    every = jnp.concatenate(levels)
    allowed = every[anchors.inside(every, jnp.array(size))]
    some = np.r_[0:60, count - 40 : count]
    expected = np.asarray(boxes.iou(jnp.asarray(corners[some]), allowed)).max(axis=1)
    np.testing.assert_allclose(found[some], expected, rtol=2e-6)


def test_an_anchor_itself_and_an_image_without_anchors():
    anchor = anchors.base_anchors(8, FPN.anchor_scales, FPN.anchor_ratios)[1] + 8 * 9
    corners = np.stack([anchor, np.array([0, 0, 20, 20], np.float32)])
    sizes = np.array([[200, 200], [21, 21]])
    np.testing.assert_array_equal(best_ious(corners, sizes, FPN), [1, 0])
    assert best_ious(corners[:0], sizes[:0], FPN).shape == (0,)


def test_a_corner_that_no_anchor_inside_reaches():
    """C4's smallest square begins at pixel 8: too far both ways is no overlap either."""
    corner = np.zeros((1, 4), np.float32)
    assert best_ious(corner, np.array([[60, 60]]), C4) == 0


def test_bins_by_hand():
    corners = np.array([[0, 0, 15, 15], [0, 0, 99, 9], [0, 0, 9, 99], [0, 0, 599, 599]], np.float32)
    areas = np.array([32.0**2 - 1, 32.0**2, 95.0**2, 96.0**2])
    ious = np.array([0.2, 0.3, 0.5, 0.7])
    result = summarise(corners, areas, ious, TargetConfig(), MMDET1)
    assert result["all"] == {
        "boxes": 4,
        "share": 1.0,
        "mean IoU": pytest.approx(0.425),
        "from 0.7": 0.25,
        "from 0.5": 0.5,
        "under 0.3": 0.25,
    }
    assert {name: bin["boxes"] for name, bin in result.items()} == {
        **{"all": 4, "area 0 to 32": 1, "area 32 to 96": 2, "area 96 to inf": 1},
        **{"side 16 to 32": 3, "side 512 to inf": 1},
        **{"aspect 0 to 0.25": 1, "aspect 1 to 2": 2, "aspect 4 to inf": 1},
    }
    assert result["area 32 to 96"]["mean IoU"] == pytest.approx(0.4)
    assert summarise(corners[:0], areas[:0], ious[:0], TargetConfig(), MMDET1) == {}


def test_thresholds_are_the_configs():
    targets = dataclasses.replace(TargetConfig(), positive_iou=0.4, min_positive_iou=0.6)
    corners = np.array([[0, 0, 15, 15]] * 2, np.float32)
    fit = summarise(corners, np.ones(2), np.array([0.3, 0.5]), targets, MMDET1)["all"]
    assert fit["from 0.4"] == 0.5
    assert fit["under 0.6"] == 1
