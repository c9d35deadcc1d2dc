"""Suppression against a sequential version, in blocks of several sizes."""

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

from jaxdet.ops import nms as nms_module
from jaxdet.ops.nms import nms

N = 75  # not a multiple of any block
ALL = np.ones(N, bool)

# As on each kind of device, and so small that there are several blocks and chunks of kept boxes.
SIZES = {"cpu": nms_module._CPU, "other": nms_module._OTHER, "small": (32, 16)}
PROGRAMS = {
    name: jax.jit(
        lambda boxes, valid, threshold, sizes=sizes: nms_module._nms(
            boxes, valid, threshold=threshold, sizes=sizes
        )
    )
    for name, sizes in SIZES.items()
}
EACH = pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())


def grid_boxes(corners):
    """Integer boxes with corners in order; few values, so duplicates and ties abound."""
    corners = corners.reshape(-1, 2, 2)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)


def crowded_boxes(seed, count):
    """Clusters of near-duplicates, as a network proposes them."""
    rng = np.random.default_rng(seed)
    centres = plain_numpy.random_boxes(seed, max(count // 10, 1))
    boxes = centres[rng.integers(0, len(centres), count)]
    return (boxes + rng.normal(0, 6, boxes.shape)).astype(np.float32)


@EACH
@settings(max_examples=60, deadline=None)
@given(
    corners=hnp.arrays(np.int8, (N, 4), elements=st.integers(0, 6)),
    valid=hnp.arrays(bool, N) | st.just(ALL),
    # Ratios of small integers are overlaps that occur: "above" must be strict.
    threshold=st.floats(0, 1, width=32) | st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 2 / 3, 0.7, 1.0]),
)
def test_keeps_what_the_sequential_version_keeps(program, corners, valid, threshold):
    boxes = grid_boxes(corners)
    found = program(jnp.asarray(boxes), jnp.asarray(valid), jnp.float32(threshold))
    np.testing.assert_array_equal(found, plain_numpy.nms(boxes, valid, threshold))


@EACH
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
def test_float_boxes(program, threshold):
    boxes = crowded_boxes(1, 700)
    found = program(jnp.asarray(boxes), jnp.ones(700, bool), jnp.float32(threshold))
    np.testing.assert_array_equal(found, plain_numpy.nms(boxes, np.ones(700, bool), threshold))


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize(("threshold", "name"), [(0.7, "nms_keep"), (0.5, "nms_keep_05")])
def test_keeps_what_the_reference_keeps(golden, transform, threshold, name):
    ops = golden("ops")
    order = np.argsort(-ops["nms_dets"][:, 4], kind="stable")
    boxes = jnp.asarray(ops["nms_dets"][order, :4])
    keep = transform(partial(nms, threshold=threshold))(boxes, jnp.ones(len(order), bool))
    # The reference lists the kept boxes in the order of its input, which is not by score.
    np.testing.assert_array_equal(np.sort(order[np.asarray(keep)]), ops[name])


def test_boxes_in_any_order_with_their_scores():
    boxes, scores = jnp.asarray(crowded_boxes(3, N)), jnp.linspace(1, 0, N)
    valid, shuffled = jnp.ones(N, bool), np.random.default_rng(0).permutation(N)
    for labels in (jnp.zeros(N, int), jnp.arange(N) % 2):
        wanted = nms(boxes, valid, 0.5, labels=labels)
        some = [x[shuffled] for x in (boxes, labels, scores)]
        found = nms(some[0], valid, 0.5, labels=some[1], scores=some[2])
        np.testing.assert_array_equal(found, wanted[shuffled])
        assert 0 < wanted.sum() < N


@EACH
def test_all_but_one_suppressed_and_none_suppressed(program):
    same = jnp.tile(jnp.array([[3.0, 4.0, 30.0, 40.0]]), (N, 1))
    apart = jnp.arange(N, dtype=jnp.float32)[:, None] * 100 + jnp.array([[0.0, 0.0, 50.0, 50.0]])
    every = jnp.ones(N, bool)
    assert np.flatnonzero(program(same, every, jnp.float32(0.99))).tolist() == [0]
    assert program(same, every, jnp.float32(1.0)).all()  # 1 is not above 1
    assert program(apart, every, jnp.float32(0.0)).all()
    assert not program(apart, jnp.zeros(N, bool), jnp.float32(0.5)).any()
    # The first one does not count when it is not valid.
    assert np.flatnonzero(program(same, every.at[0].set(False), jnp.float32(0.5))).tolist() == [1]


@EACH
def test_a_chain_takes_as_many_rounds_as_it_is_long(program):
    """Each box overlaps the next by 9/11 > 0.7 and the one after by 8/12 < 0.7."""
    left = jnp.arange(300.0)[:, None]
    boxes = left * jnp.array([[1.0, 0.0, 1.0, 0.0]]) + jnp.array([[0.0, 0.0, 9.0, 9.0]])
    keep = program(boxes, jnp.ones(300, bool), jnp.float32(0.7))
    np.testing.assert_array_equal(keep, np.arange(300) % 2 == 0)


@pytest.mark.parametrize("count", [0, 1, 32, 33, 129])
def test_any_number_of_boxes(count):
    boxes = crowded_boxes(count, count) if count else np.zeros((0, 4), np.float32)
    valid = np.ones(count, bool)
    found = nms(jnp.asarray(boxes), jnp.asarray(valid), 0.5)
    np.testing.assert_array_equal(found, plain_numpy.nms(boxes, valid, 0.5))


@pytest.fixture(scope="module")
def batch():
    boxes = np.stack([crowded_boxes(seed, 300) for seed in range(16)])
    valid = np.arange(300)[None] < np.arange(0, 320, 20)[:, None]
    keep = np.stack([plain_numpy.nms(b, v, 0.6) for b, v in zip(boxes, valid, strict=True)])
    return boxes, valid, keep


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_batched(batch, sizes):
    program = jax.jit(jax.vmap(partial(nms_module._nms, threshold=0.6, sizes=sizes)))
    np.testing.assert_array_equal(program(*map(jnp.asarray, batch[:2])), batch[2])


def test_on_several_devices(batch):
    mesh, spec = Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data")
    program = jax.vmap(partial(nms, threshold=0.6))
    spread = jax.jit(jax.shard_map(program, mesh=mesh, in_specs=spec, out_specs=spec))
    np.testing.assert_array_equal(spread(*map(jnp.asarray, batch[:2])), batch[2])


def test_memory_is_far_below_that_of_all_pairs():
    count = 12_000
    shapes = jax.ShapeDtypeStruct((count, 4), jnp.float32), jax.ShapeDtypeStruct((count,), bool)
    compiled = jax.jit(partial(nms, threshold=0.7)).lower(*shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4_000_000  # all pairs: 144 MB a byte


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_one_program_without_the_host(platform):
    shapes = jax.ShapeDtypeStruct((2000, 4), jnp.float32), jax.ShapeDtypeStruct((2000,), bool)
    traced = jax.jit(partial(nms, threshold=0.7)).trace(*shapes)
    assert "callback" not in traced.lower(lowering_platforms=(platform,)).as_text()
