"""Anchors against the reference's arrays and a plain NumPy grid."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet.ops.anchors import (
    AnchorGrid,
    base_anchors,
    feature_size,
    grid_anchors,
    in_grid,
    inside,
    pyramid_anchors,
)

RATIOS = (0.5, 1.0, 2.0)
STRIDES = (4, 8, 16, 32, 64)
GRID = AnchorGrid(STRIDES, (8,), RATIOS)


@pytest.fixture(scope="module")
def ops(golden):
    return golden("ops")


@cache
def levels_of(image_hw):
    return jax.jit(lambda: pyramid_anchors(image_hw, GRID))()


def numpy_grid(base, stride, size):
    return np.array(
        [
            anchor + np.float32(stride) * np.array([x, y, x, y], np.float32)
            for y in range(size[0])
            for x in range(size[1])
            for anchor in base
        ]
    )


@pytest.mark.parametrize("stride", STRIDES)
def test_fpn_shapes_are_the_references(ops, stride):
    found = base_anchors(stride, (8,), RATIOS)
    np.testing.assert_array_equal(found, ops[f"base_anchors_fpn_{stride}"])


def test_c4_shapes_are_the_references(ops):
    found = base_anchors(16, (2, 4, 8, 16, 32), RATIOS)
    np.testing.assert_array_equal(found, ops["base_anchors_c4"])


def test_corners_are_rounded_half_to_even():
    # Centre 0.5, sides 4: corners -1 and 2.  Centre 0.5, sides 1: 0.5 -> 0.
    np.testing.assert_array_equal(base_anchors(2, (2,), (1.0,)), [[-1, -1, 2, 2]])
    np.testing.assert_array_equal(base_anchors(2, (0.5,), (1.0,)), [[0, 0, 0, 0]])


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_grid_is_the_references(ops, transform):
    base = base_anchors(16, (8,), RATIOS)
    found = transform(lambda: grid_anchors(base, 16, (20, 28)))()
    np.testing.assert_array_equal(found, ops["grid_anchors_16_20x28"])


@pytest.mark.parametrize("stride", [4, 64])
@pytest.mark.parametrize("size", [(1, 1), (3, 7), (23, 2)])
def test_grid_is_numpys(stride, size):
    base = base_anchors(stride, (2, 4), RATIOS)
    found = jax.jit(lambda: grid_anchors(base, stride, size))()
    np.testing.assert_array_equal(found, numpy_grid(base, stride, size))


def test_levels_cover_the_bucket_rounded_up():
    assert feature_size((96, 160), 64) == (2, 3)
    levels = levels_of((96, 160))
    cells = [24 * 40, 12 * 20, 6 * 10, 3 * 5, 2 * 3]
    assert [level.shape for level in levels] == [(3 * n, 4) for n in cells]
    for level, stride in zip(levels, STRIDES, strict=True):
        np.testing.assert_array_equal(level[:3], base_anchors(stride, (8,), RATIOS))


def test_a_program_carries_the_shapes_and_not_the_grid():
    lowered = jax.jit(lambda: pyramid_anchors((800, 1344), GRID)).lower()
    # 268,569 anchors would take megabytes, in the program as handed over and as compiled.
    assert len(lowered.as_text()) < 50_000
    compiled = lowered.compile()
    assert len(compiled.as_text()) < 50_000
    assert compiled.memory_analysis().output_size_in_bytes > 268_000 * 16


@pytest.mark.parametrize("pad", [(32, 32), (64, 96), (96, 32), (96, 160)])
def test_own_cells_are_those_of_the_image_padded_alone(pad):
    """Picking them out of the bucket gives the anchors of a bucket of the image's own size."""
    levels, alone = levels_of((96, 160)), levels_of(pad)
    masks = jax.jit(lambda pad: in_grid(pad, (96, 160), GRID))(jnp.array(pad))
    for level, mask, expected in zip(levels, masks, alone, strict=True):
        np.testing.assert_array_equal(np.asarray(level)[np.asarray(mask)], expected)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_inside_is_strict_on_the_far_side(transform):
    anchors = jnp.array(
        [
            [0.0, 0, 99, 49],  # the whole image
            [0.0, 0, 100, 49],  # one column too far
            [0.0, 0, 99, 50],
            [-1.0, 0, 9, 9],
            [0.0, -1, 9, 9],
            [99.0, 49, 99, 49],
        ]
    )
    expected = [True, False, False, False, False, True]
    assert transform(inside)(anchors, jnp.array([50, 100])).tolist() == expected


def test_an_anchor_inside_the_image_stands_on_its_own_cells():
    """So training need not ask both questions."""
    size, pad = jnp.array([70, 90]), jnp.array([96, 96])

    @jax.jit
    def both(size, pad):
        grid = GRID._replace(scales=(2, 8))
        levels = pyramid_anchors((160, 160), grid)
        return [inside(level, size) for level in levels], in_grid(pad, (160, 160), grid)

    within, masks = jax.device_get(both(size, pad))
    assert sum(w.sum() for w in within) > 1000
    for w, mask in zip(within, masks, strict=True):
        assert not (w & ~mask).any()
