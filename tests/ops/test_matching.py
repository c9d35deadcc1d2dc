"""Matching against the reference and a plain NumPy version, with as many ties as can be had."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import plain_numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.sharding import Mesh, PartitionSpec

from jaxdet.errors import InputError
from jaxdet.ops import matching
from jaxdet.ops.anchors import AnchorGrid, pyramid_anchors
from jaxdet.ops.boxes import MMDET1
from jaxdet.ops.matching import match

RULE = {"pos_iou": 0.7, "neg_iou": 0.3, "min_pos_iou": 0.3}
M = 9  # not a multiple of any block
BOTH = pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])


def grid(image_hw=(64, 96), strides=(8, 16), scales=(1, 2)):
    return np.concatenate(
        [np.asarray(a) for a in pyramid_anchors(image_hw, AnchorGrid(strides, scales, (1.0,)))]
    )


def some_boxes(seed, count, image_hw):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 0.8, (count, 2)) * image_hw[::-1]
    sides = np.exp(rng.uniform(np.log(8), np.log(0.5 * min(image_hw)), (count, 2)))
    return np.concatenate([corner, corner + sides], axis=1).astype(np.float32)


def check(program, anchors, allowed, boxes, mask, **rule):
    found = program(*map(jnp.asarray, (anchors, allowed, boxes, mask)))
    assert found.dtype == jnp.int32
    expected = plain_numpy.match(anchors, allowed, boxes, mask, **(rule or RULE))
    np.testing.assert_array_equal(found, expected)


@BOTH
def test_assigns_as_the_reference(golden, transform):
    ops = golden("ops")
    levels = pyramid_anchors((320, 448), AnchorGrid((4, 8, 16, 32, 64), (8,), (0.5, 1.0, 2.0)))
    anchors = jnp.concatenate(levels)
    every = jnp.ones(len(anchors), bool)
    boxes = jnp.asarray(ops["gt"])
    found = transform(partial(match, **RULE))(anchors, every, boxes, jnp.ones(len(boxes), bool))
    np.testing.assert_array_equal(found, ops["assigned_gt_inds"])


# Anchors on the boxes' own lattice: most overlaps occur many times over.
CORNERS = hnp.arrays(np.int8, (M, 4), elements=st.integers(0, 12))
RULES = [
    RULE,
    {"pos_iou": 0.5, "neg_iou": 0.5, "min_pos_iou": 0.0},
    {"pos_iou": 1.0, "neg_iou": 0.0, "min_pos_iou": 1.0},
]


@pytest.mark.parametrize("block", [matching._CPU_BLOCK, matching._OTHER_BLOCK])
@pytest.mark.parametrize("rule", RULES, ids=["reference", "all forced", "extremes"])
def test_assigns_as_numpy_does_with_many_ties(monkeypatch, block, rule):
    monkeypatch.setattr(matching, "_CPU_BLOCK", block)
    anchors = grid()
    program = jax.jit(partial(match, **rule))

    @settings(max_examples=60, deadline=None)
    @given(
        corners=CORNERS,
        mask=hnp.arrays(bool, M) | st.just(np.ones(M, bool)),
        allowed=hnp.arrays(bool, len(anchors)) | st.just(np.ones(len(anchors), bool)),
    )
    def run(corners, mask, allowed):
        corners = 4 * corners.reshape(-1, 2, 2).astype(np.float32)
        boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1) + 7], axis=1)
        check(program, anchors, allowed, boxes, mask, **rule)

    run()


@BOTH
def test_ties_by_hand(transform):
    """Two boxes on one spot, an anchor between two boxes, and a box with two best anchors."""
    anchors = np.array(
        [
            [0, 0, 9, 9],  # equals boxes 1 and 2: forced for both, the later one wins
            [100, 0, 109, 9],  # 9/11 with boxes 3 and 4, both of which have a better anchor
            [101, 0, 110, 9],  # equals box 4
            [99, 0, 108, 9],  # equals box 3
            [200, 0, 209, 9],  # the best of box 5, as the next: 5/15 each
            [210, 0, 219, 9],
            [300, 0, 309, 9],  # negative
            [102, 0, 111, 9],  # 9/11 with box 4, not its best: an ordinary positive
            [202, 0, 209, 9],  # 5/13 with box 5: its best, were it allowed
            [98, 3, 107, 12],  # 63/137 with box 3: neither
        ],
        np.float32,
    )
    boxes = np.array(
        [[0, 0, 9, 9], [0, 0, 9, 9], [99, 0, 108, 9], [101, 0, 110, 9], [205, 0, 214, 9]],
        np.float32,
    )
    allowed = np.arange(10) != 8
    program = transform(partial(match, **RULE))
    found = program(*map(jnp.asarray, (anchors, allowed, boxes, np.ones(5, bool))))
    assert found.tolist() == [2, 3, 4, 3, 5, 5, 0, 4, -1, -1]


@BOTH
def test_without_boxes_every_allowed_anchor_is_negative(transform):
    anchors = grid()
    allowed = np.arange(len(anchors)) % 3 > 0
    expected = np.where(allowed, 0, -1)
    program = transform(partial(match, **RULE))
    for boxes in (np.zeros((0, 4), np.float32), anchors[:5]):
        mask = jnp.zeros(len(boxes), bool)
        found = program(jnp.asarray(anchors), jnp.asarray(allowed), jnp.asarray(boxes), mask)
        np.testing.assert_array_equal(found, expected)


@BOTH
def test_an_image_without_allowed_anchors_has_no_target(transform):
    anchors = jnp.asarray(grid())
    nobody = jnp.zeros(len(anchors), bool)
    found = transform(partial(match, **RULE))(anchors, nobody, anchors[:3], jnp.ones(3, bool))
    assert (found == -1).all()
    none = transform(partial(match, **RULE))(
        anchors[:0], nobody[:0], anchors[:3], jnp.ones(3, bool)
    )
    assert none.shape == (0,)


def test_a_thousand_boxes():
    anchors = grid((320, 320), (4, 8, 16), (8,))
    boxes = some_boxes(0, 1000, (320, 320))
    allowed = (anchors[:, :2] >= 0).all(axis=1)
    program = jax.jit(partial(match, **RULE))
    check(program, anchors, allowed, boxes, np.ones(1000, bool))
    # Masked ones anywhere, and no more than 700 to look at.
    check(program, anchors, allowed, boxes, (np.arange(1000) % 3 > 0) & (np.arange(1000) < 700))


@pytest.fixture(scope="module")
def batch():
    anchors = grid((128, 160), (8, 16), (2, 4))
    boxes = np.stack([some_boxes(seed, M, (128, 160)) for seed in range(16)])
    mask = np.arange(M)[None] < np.arange(16)[:, None]
    allowed = np.stack([anchors[:, 2] < 100 + 4 * seed for seed in range(16)])
    expected = [
        plain_numpy.match(anchors, a, b, m, **RULE)
        for a, b, m in zip(allowed, boxes, mask, strict=True)
    ]
    return [jnp.asarray(x) for x in (anchors, allowed, boxes, mask)], np.stack(expected)


@pytest.mark.parametrize("block", [matching._CPU_BLOCK, matching._OTHER_BLOCK])
def test_batched_one_by_one_and_in_one_loop(batch, block):
    """On CPU the images follow one another; elsewhere they share one loop."""
    (anchors, allowed, boxes, mask), expected = batch
    program = jax.jit(jax.vmap(partial(match, **RULE), in_axes=(None, 0, 0, 0)))
    np.testing.assert_array_equal(program(anchors, allowed, boxes, mask), expected)

    def one(allowed, boxes, mask):
        far = jnp.where(allowed[:, None], anchors, matching.FAR)
        options = {"min_pos_iou": 0.3, "takes": True, "convention": MMDET1}
        return matching._scan(far, boxes, mask, block=block, **options)

    best, owner = jax.jit(jax.vmap(one))(allowed, boxes, mask)
    np.testing.assert_array_equal(-owner[owner < 0], expected[np.asarray(owner) < 0])
    likes = (owner > 0) & (best >= 0.7) & allowed
    np.testing.assert_array_equal(owner[likes], expected[np.asarray(likes)])


def test_on_several_devices(batch):
    (anchors, *rest), expected = batch
    mesh, data = Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data")
    program = jax.vmap(partial(match, **RULE), in_axes=(None, 0, 0, 0))
    specs = (PartitionSpec(), data, data, data)
    spread = jax.jit(jax.shard_map(program, mesh=mesh, in_specs=specs, out_specs=data))
    np.testing.assert_array_equal(spread(anchors, *rest), expected)


def test_memory_does_not_grow_with_the_boxes():
    def used(boxes):
        shapes = [((100_000, 4), "f4"), ((100_000,), "?"), ((boxes, 4), "f4"), ((boxes,), "?")]
        structs = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]
        compiled = jax.jit(partial(match, **RULE)).lower(*structs).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    few, many = used(10), used(1000)
    assert many < few + 100_000  # all pairs: 400 MB
    assert many < 100 * 100_000  # bytes per anchor


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_one_program_without_the_host(platform):
    arguments = [jnp.zeros((500, 4)), jnp.ones(500, bool), jnp.zeros((20, 4)), jnp.ones(20, bool)]
    traced = jax.jit(partial(match, **RULE)).trace(*arguments)
    assert "callback" not in traced.lower(lowering_platforms=(platform,)).as_text()


def test_a_threshold_that_no_overlap_fails_is_refused():
    anchors = jnp.asarray(grid())
    every = jnp.ones(len(anchors), bool)
    with pytest.raises(InputError, match="pos_iou is 0"):
        match(anchors, every, anchors[:2], every[:2], pos_iou=0.0, neg_iou=0.0, min_pos_iou=0.0)
