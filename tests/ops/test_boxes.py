"""Boxes against numbers worked out by hand, NumPy and the reference."""

import jax
import jax.numpy as jnp
import numpy as np
import plain_numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdet.ops.anchors import AnchorGrid, pyramid_anchors
from jaxdet.ops.boxes import MAX_LOG_RATIO, area, columns, decode, encode, iou, iou_of_columns

BOTH = pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])


@pytest.fixture(scope="module")
def ops(golden):
    return golden("ops")


@pytest.fixture(scope="module")
def anchors():
    """The 200 anchors, first of the stride-16 level, that the golden numbers were made with."""
    levels = pyramid_anchors((320, 448), AnchorGrid((4, 8, 16, 32, 64), (8,), (0.5, 1.0, 2.0)))
    return levels[2][:200]


def test_a_pixel_has_area_one():
    assert area(jnp.array([[3.0, 4.0, 3.0, 4.0]])).tolist() == [1.0]
    assert area(jnp.array([[[0.0, 0.0, 9.0, 4.0]]])).tolist() == [[50.0]]


def test_overlap_by_hand():
    # 10x10 boxes that share 5x10 pixels; touching at one column; one pixel apart; the same.
    a = jnp.array([[0.0, 0.0, 9.0, 9.0]])
    b = jnp.array([[5.0, 0, 14, 9], [9.0, 0, 18, 9], [10.0, 0, 19, 9], [0.0, 0, 9, 9]])
    np.testing.assert_array_equal(
        iou(a, b)[0], np.array([50 / 150, 10 / 190, 0, 1], dtype=np.float32)
    )


@BOTH
def test_overlap_is_the_references_to_the_bit(ops, anchors, transform):
    found = transform(iou)(jnp.asarray(ops["gt"]), anchors)
    np.testing.assert_array_equal(found, ops["iou"])


@BOTH
@pytest.mark.parametrize("count", [1, 100])
def test_overlap_is_numpys_to_the_bit(transform, count):
    a, b = plain_numpy.random_boxes(0, count), plain_numpy.random_boxes(1, 3000)
    found = transform(iou)(jnp.asarray(a), jnp.asarray(b))
    np.testing.assert_array_equal(found, plain_numpy.iou(a, b))


@pytest.mark.parametrize("count", [1, 7, 100])
def test_areas_round_the_same_when_fused_into_a_sum(count):
    """Without its guard against multiply-add, `area` fails this in every tenth element."""
    a, b = plain_numpy.random_boxes(0, count), plain_numpy.random_boxes(1, 3000)
    found = jax.jit(lambda a, b: area(a)[:, None] + area(b)[None])(jnp.asarray(a), jnp.asarray(b))
    np.testing.assert_array_equal(found, plain_numpy.area(a)[:, None] + plain_numpy.area(b)[None])


@BOTH
def test_overlap_by_column_broadcasts(transform):
    a, b = jnp.asarray(plain_numpy.random_boxes(2, 5)), jnp.asarray(plain_numpy.random_boxes(3, 6))
    function = lambda a, b: iou_of_columns(columns(a)[:, None], columns(b)[:, :, None])  # noqa: E731
    found = transform(function)(a, b)
    np.testing.assert_array_equal(found, iou(a, b).T)


@BOTH
def test_encode_is_the_references(ops, anchors, transform):
    found = transform(encode)(anchors[:7], jnp.asarray(ops["gt"]))
    np.testing.assert_array_equal(found[:, :2], ops["encoded"][:, :2])
    # The logarithm of two libraries may differ in the last place.
    np.testing.assert_array_max_ulp(np.asarray(found[:, 2:]), ops["encoded"][:, 2:], maxulp=2)


@BOTH
def test_decode_is_the_references(ops, anchors, transform):
    found = transform(decode)(anchors, jnp.asarray(ops["deltas"]), jnp.array([300, 440]))
    # Sums and differences of numbers up to 512 whose last place is 2**-15 to 2**-14: two of
    # the latter allow for the exponential's last place.
    np.testing.assert_allclose(found, ops["decoded"], rtol=0, atol=2 * 2.0**-14)


def test_decode_clips_sides_and_corners():
    anchor = jnp.array([[40.0, 40.0, 49.0, 49.0]])  # 10 x 10, centre 44.5
    image = jnp.array([2000, 3000])
    huge = decode(anchor, jnp.array([[0.0, 0.0, 99.0, -99.0]]), image)[0]
    # 10 * 1000/16 = 625 wide: 44.5 - 312.5 + 0.5 -> 0, 44.5 + 312.5 - 0.5; 0.16 high.
    np.testing.assert_allclose(huge, [0, 44.92, 356.5, 44.08], rtol=1e-6)
    assert pytest.approx(np.log(1000 / 16)) == MAX_LOG_RATIO
    far = decode(anchor, jnp.array([[999.0, -999.0, 0.0, 0.0]]), image)[0]
    assert far.tolist() == [2999, 0, 2999, 0]
    small = decode(anchor, jnp.array([[0.0, 0.0, 2.0, 2.0]]), jnp.array([60.0, 50.0]))[0]
    np.testing.assert_allclose(small[2:], [49, 59], rtol=0)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_decode_undoes_encode(seed):
    rng = np.random.default_rng(seed)
    low, high = np.sort(rng.integers(0, 1000, (2, 64, 2)), axis=0).astype(np.float32)
    boxes = jnp.asarray(np.concatenate([low, high], axis=1))
    anchors = boxes + jnp.asarray(rng.uniform(-4, 4, (64, 1)), jnp.float32)
    ratio = jnp.asarray(rng.uniform(0, 60, (64, 2)), jnp.float32)
    anchors = anchors.at[:, 2:].add(ratio)
    found = decode(anchors, encode(anchors, boxes), jnp.array([1000, 1000]))
    # Sides pass through log and exp: a few units in the last place (6e-5 at 1000 pixels).
    np.testing.assert_allclose(found, boxes, rtol=0, atol=5e-4)
