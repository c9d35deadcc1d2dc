"""RoIAlign and levels against what three systems gave, and against one point at a time."""

from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import plain_numpy
import pytest
from jax.sharding import Mesh, PartitionSpec

from jaxdet.ops.boxes import CONVENTIONS
from jaxdet.ops.platforms import every_platform
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
    # Rounding in the mean of numbers around 1: points lie where they do to the last bit.
    near(out.ravel()[arrays[f"{name}_idx"]], arrays[f"{name}_val"], 4e-7)
    near(np.asarray(out, np.float64).sum((1, 2, 3)), arrays[f"{name}_sums"], 3e-6)
    cotangent = np.cos(np.arange(out.size, dtype=np.float64)).astype(np.float32)
    gradient = pull(jnp.asarray(cotangent).reshape(out.shape))[0].transpose(0, 3, 1, 2)
    # Sums over many bins.
    near(gradient.ravel()[arrays[f"{name}_grad_idx"]], arrays[f"{name}_grad_val"], 5e-6)
    near(np.asarray(gradient).sum(dtype=np.float64), arrays[f"{name}_grad_sum"], 3e-5)


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
    near(out.ravel()[index], value, 4e-7)
    near(np.asarray(out, np.float64).sum((1, 2, 3)), sums, 3e-6)


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


SYSTEMS = {
    "mmdet1": (RoIAlign(), MMDET1),
    "detectron2": (ADAPTIVE, TODAY),
    "torchvision": (FIXED, TORCHVISION),
}
PAD = np.array([[96, 128], [64, 75]])
BUCKET = (96, 128)
COARSE = (4, 32)  # strides of a pyramid of two levels


def odd_boxes():
    """Of all sizes from a hundredth of a pixel to thrice the image, many of them partly outside."""
    rng = np.random.default_rng(0)
    centre, side = rng.uniform(-40, 170, (2, 30, 2)), np.exp(rng.uniform(-5, 6, (2, 30, 2)))
    boxes = np.concatenate([centre - side / 2, centre + side / 2], axis=2)
    boxes[:, :3] = [[3, 5, 3, 5], [50, 8, 51.5, 620], [9, 30, 4, 20]]  # a point, thin, inverted
    return boxes.astype(np.float32)


LEVELS = np.random.default_rng(1).integers(0, 2, (2, 30))


def pyramid(bucket=BUCKET, fill=np.nan):
    """Maps whose cells are the same in every bucket, and `fill` beyond an image's own."""
    maps = []
    for stride in COARSE:
        whole = np.random.default_rng(stride).standard_normal((2, 64, 64, 5), np.float32)
        for image, (height, width) in enumerate(-(-PAD // stride)):
            whole[image, height:], whole[image, :, width:] = fill, fill
        maps.append(jnp.asarray(whole[:, : bucket[0] // stride, : bucket[1] // stride]))
    return maps


def bins_and_gradient(name, maps):
    """Bins of the odd boxes, and the gradient for a cotangent of cosines."""
    roi, convention = SYSTEMS[name]
    rest = jnp.asarray(odd_boxes()), jnp.asarray(LEVELS), jnp.asarray(PAD), COARSE, 3
    align = jax.jit(lambda maps: roi_align(maps, *rest, roi, convention))
    bins, pull = jax.vjp(align, maps)
    cotangent = jnp.cos(jnp.arange(bins.size, dtype=jnp.float32)).reshape(bins.shape)
    return bins, pull(cotangent.astype(bins.dtype))[0]


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_same_as_point_after_point(name, monkeypatch):
    maps = pyramid()
    roi, convention = SYSTEMS[name]
    expected = np.empty((2, 30, 3, 3, 5), np.float32)
    for image, i in np.ndindex(2, 30):
        stride = COARSE[LEVELS[image, i]]
        height, width = -(-PAD[image] // stride)
        own = np.asarray(maps[LEVELS[image, i]][image, :height, :width])
        box = odd_boxes()[image, i]
        expected[image, i] = plain_numpy.roi_align(own, box, stride, 3, roi, convention.offset)
    gradients = []
    for program in ("cpu", "default"):
        monkeypatch.setattr(jax.lax, "platform_dependent", lambda *a, p=program, **k: k[p](*a))
        with every_platform():
            bins, gradient = bins_and_gradient(name, maps)
        near(bins, expected, 1e-6)
        gradients.append(gradient)
    for one, other in zip(*gradients, strict=True):
        near(one, np.asarray(other), 2e-6)


@pytest.mark.parametrize("name", ["mmdet1", "detectron2"])
def test_buckets_and_what_they_hold_do_not_matter(name):
    """To the last bit, though windows of taps that reach over a bucket's border are moved."""
    bins, gradient = bins_and_gradient(name, pyramid())
    others, other_gradient = bins_and_gradient(name, pyramid((256, 224), np.inf))
    np.testing.assert_array_equal(bins, others)
    for a, b in zip(gradient, other_gradient, strict=True):
        np.testing.assert_array_equal(a, b[:, : a.shape[1], : a.shape[2]])
        assert np.isfinite(b).all()


@pytest.mark.slow
def test_bfloat16_features():
    maps = [m.astype(jnp.bfloat16) for m in pyramid()]
    bins, gradient = bins_and_gradient("detectron2", maps)
    exact, exact_gradient = bins_and_gradient("detectron2", [m.astype(np.float32) for m in maps])
    # Rounded once, at the end.
    np.testing.assert_array_equal(bins, exact.astype(jnp.bfloat16))
    for a, b in zip(gradient, exact_gradient, strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(np.float32), b, atol=0.02, rtol=0.02)


def test_on_several_devices_and_no_gradient_to_boxes():
    roi, convention = SYSTEMS["mmdet1"]

    def gradient(maps, boxes, *rest):
        def loss(maps, boxes):
            return (roi_align(maps, boxes, *rest, COARSE, 3, roi, convention) ** 2).sum()

        return jax.grad(loss, argnums=(0, 1))(maps, boxes)

    arguments = pyramid(), *map(jnp.asarray, (odd_boxes(), LEVELS, PAD))
    mesh, spec = Mesh(np.array(jax.devices()[:2]), ("data",)), PartitionSpec("data")
    spread = jax.jit(jax.shard_map(gradient, mesh=mesh, in_specs=spec, out_specs=spec))(*arguments)
    together = jax.jit(gradient)(*arguments)
    jax.tree.map(np.testing.assert_array_equal, spread, together)
    np.testing.assert_array_equal(together[1], 0)


ROI, CONVENTION = SYSTEMS["detectron2"]


def align_pyramid(maps, boxes, levels, pad):
    return roi_align(maps, boxes, levels, pad, STRIDES, 7, ROI, CONVENTION)


def full_size(batch):
    """1000 RoIs on each image of 800 x 1344 pixels."""
    maps = [jax.ShapeDtypeStruct((batch, 800 // s, 1344 // s, 256), jnp.float32) for s in STRIDES]
    levels, pad = (jax.ShapeDtypeStruct((batch, n), jnp.int32) for n in (1000, 2))
    return maps, jax.ShapeDtypeStruct((batch, 1000, 4), jnp.float32), levels, pad


@pytest.mark.slow
def test_no_memory_beside_the_bins_and_the_maps():
    def step(maps, *rest):
        bins, pull = jax.vjp(lambda maps: align_pyramid(maps, *rest), maps)
        return pull(bins)

    memory = jax.jit(step).lower(*full_size(1)).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 51_000_000  # the bins are 50,176,000


def test_one_program_for_any_number_of_images_without_the_host():
    (batch,) = jax.export.symbolic_shape("batch")
    export = jax.export.export(jax.jit(align_pyramid), platforms=["cpu", "cuda", "tpu"])
    assert "callback" not in export(*full_size(batch)).mlir_module()
