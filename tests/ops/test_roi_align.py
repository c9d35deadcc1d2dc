"""RoIAlign and levels against what three systems gave, and against one point at a time."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet.ops.boxes import CONVENTIONS
from jaxdet.ops.roi_align import LEVEL_BORDERS, RoIAlign, roi_align, roi_levels

MMDET1, TODAY, TORCHVISION = (CONVENTIONS[x] for x in ("mmdet1", "detectron2", "torchvision"))
ADAPTIVE = RoIAlign(aligned=True, points=0, level_rule="detectron2")
FIXED = RoIAlign(min_side=1.0, level_rule="torchvision")
STRIDES = (4, 8, 16, 32)


def seeded(shape, seed=0):
    """Features (B, c, h, w) as the golden files' README defines them, here (B, h, w, c)."""
    rng = np.random.Generator(np.random.PCG64([int(seed), *map(int, shape)]))
    return jnp.asarray(rng.standard_normal(shape).astype(np.float32).transpose(0, 2, 3, 1))


def near(found, golden, atol):
    """Compares but for NaN: the 2018 kernel divides by the points of a RoI that has none."""
    known = ~np.isnan(golden)
    np.testing.assert_allclose(np.asarray(found)[known], golden[known], atol=atol, rtol=1e-6)


CASES = [
    ("mmdet1_s4_o7_n2", RoIAlign(), MMDET1),
    ("mmdet1_s8_o7_n2", RoIAlign(), MMDET1),
    ("mmdet1_s16_o14_n2", RoIAlign(), MMDET1),
    ("mmdet1_s32_o7_n2", RoIAlign(), MMDET1),
    ("mmdet1_s16_o7_n0", RoIAlign(points=0), MMDET1),
    ("today_s4_o7_n0", ADAPTIVE, TODAY),
    ("today_s8_o7_n0", ADAPTIVE, TODAY),
    ("today_s16_o14_n0", ADAPTIVE, TODAY),
    ("today_s32_o7_n0", ADAPTIVE, TODAY),
]


@pytest.mark.parametrize(("name", "roi", "convention"), CASES, ids=[case[0] for case in CASES])
def test_one_level_and_its_gradient(golden, name, roi, convention):
    arrays = golden("roi_align")
    system, *numbers = name.split("_")
    stride, size = (int(x[1:]) for x in numbers[:2])
    features = seeded(arrays[f"{name}_shape"], arrays[f"{system}_seed"])
    rois = arrays[f"{system}_rois"]
    image, boxes = rois[:, 0].astype(int), jnp.asarray(rois[None, :, 1:])
    pad = jnp.tile(jnp.array(features.shape[1:3]) * stride, (2, 1))

    def align(features):  # of both images all RoIs, then each RoI of its own
        both, level = jnp.repeat(boxes, 2, axis=0), jnp.zeros((2, len(rois)), jnp.int32)
        out = roi_align([features], both, level, pad, (stride,), size, roi, convention)
        return out[image, jnp.arange(len(rois))].transpose(0, 3, 1, 2)

    out, pull = jax.vjp(jax.jit(align), features)
    # Means of up to 17 x 17 points, which the systems add one by one in float32.
    near(out.ravel()[arrays[f"{name}_idx"]], arrays[f"{name}_val"], 3e-6)
    near(out.sum((1, 2, 3), dtype=np.float32), arrays[f"{name}_sums"], 2e-4)
    cotangent = np.cos(np.arange(out.size, dtype=np.float64)).astype(np.float32)
    gradient = pull(jnp.asarray(cotangent).reshape(out.shape))[0].transpose(0, 3, 1, 2)
    near(gradient.ravel()[arrays[f"{name}_grad_idx"]], arrays[f"{name}_grad_val"], 5e-6)
    near(np.asarray(gradient).sum(dtype=np.float64), arrays[f"{name}_grad_sum"], 5e-5)


@pytest.mark.parametrize("size", [7, 14])
def test_levels_of_a_pyramid(golden, size):
    arrays = golden("roi_align")
    height, width = arrays["torchvision_roi_image_hw"]
    maps = [seeded((1, 4, height // s, width // s), arrays["torchvision_seed"]) for s in STRIDES]
    boxes = jnp.asarray(arrays["torchvision_roi_boxes"])[None]
    levels = roi_levels(boxes, 4, FIXED, TORCHVISION)
    np.testing.assert_array_equal(levels[0], arrays["torchvision_roi_level"])
    pad = jnp.array([[height, width]])
    options = {"strides": STRIDES, "size": size, "roi": FIXED, "convention": TORCHVISION}
    out = jax.jit(partial(roi_align, **options))(maps, boxes, levels, pad)[0].transpose(0, 3, 1, 2)
    index, value, sums = (arrays[f"torchvision_roi{size}_{x}"] for x in ("idx", "val", "sums"))
    near(out.ravel()[index], value, 1e-6)
    near(out.sum((1, 2, 3)), sums, 2e-5)


def test_levels_at_their_borders(golden):
    arrays = golden("roi_align")
    found = roi_levels(jnp.asarray(arrays["mmdet1_level_rois"][:, 1:]), 4, RoIAlign(), MMDET1)
    np.testing.assert_array_equal(found, arrays["mmdet1_level"])
    for rule in ("mmdet", "detectron2"):
        boxes = jnp.asarray(arrays["today_level_boxes"])
        found = roi_levels(boxes, 4, RoIAlign(level_rule=rule), TODAY)
        np.testing.assert_array_equal(found, arrays[f"today_level_{rule}"])


FORMULAS = {
    "mmdet": lambda a: np.log2(a / np.float32(56) + np.float32(1e-6)),
    "detectron2": lambda a: np.float32(4) + np.log2(a / np.float32(224) + np.float32(1e-8)) - 2,
    "torchvision": lambda a: np.float32(4) + np.log2(a / np.float32(224)) + np.float32(1e-6) - 2,
}


@pytest.mark.parametrize("rule", LEVEL_BORDERS)
def test_borders_are_where_the_formula_says(rule):
    for level, border in enumerate(np.array(LEVEL_BORDERS[rule], np.float32), 1):
        below = np.nextafter(border, np.float32(0))
        assert FORMULAS[rule](border) >= level > FORMULAS[rule](below)
