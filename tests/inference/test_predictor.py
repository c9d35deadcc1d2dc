"""The predictor as a library has it: what it takes, features, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet import Predictor, Result
from jaxdet import config as config_lib
from jaxdet.detectors.build import build_detector, param_shapes
from jaxdet.inference.predictor import make_predictor
from jaxdet.models.layers import ConvNorm, fold_norms

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def tiny(fpn_channels: int) -> Predictor:
    config = config_lib.load_file("rpn_r18_fpn_shapes")
    config.data.image_scale = (96, 64)
    model = config.model
    model.stem_channels = model.head_channels = 8
    model.fpn_channels = fpn_channels
    model.num_stages, model.anchor_scales = 2, (4.0,)
    config.proposals.max_num = 20
    parsed = config_lib.parse(config)
    detector = build_detector(parsed)
    rng = np.random.default_rng(0)  # noise, so that there is something to see

    def draw(path, x):
        noise = 0.05 * rng.standard_normal(x.shape, np.float32)
        return 1 + abs(noise) if path[-1].key in ("scale", "var") else noise

    params = jax.tree_util.tree_map_with_path(draw, param_shapes(detector))
    return make_predictor(parsed, detector, params)


@pytest.fixture(scope="module")
def rpn() -> Predictor:
    return tiny(fpn_channels=0)  # one level, whose NMS compiles in a second


def test_lists_and_batches_give_a_list(rpn):
    alone = rpn(IMAGE)
    assert isinstance(alone, Result)
    assert len(alone.boxes) == len(alone.scores) > 0
    for several in ([IMAGE, IMAGE], (IMAGE,), np.stack([IMAGE, IMAGE]), jnp.asarray(IMAGE[None])):
        found = rpn(several)
        assert len(found) == len(several)
        for one in found:
            np.testing.assert_array_equal(one.boxes, alone.boxes)
    assert rpn([]) == rpn(IMAGE[:0, None]) == []


def test_features_are_those_of_the_image_s_own_cells():
    rpn = tiny(fpn_channels=8)
    maps = rpn.features(IMAGE)  # 64 x 96 when resized
    assert {s: x.shape for s, x in maps.stages.items()} == {4: (16, 24, 8), 8: (8, 12, 16)}
    shapes = {4: (16, 24, 8), 8: (8, 12, 8), 16: (4, 6, 8)}
    assert {s: x.shape for s, x in maps.levels.items()} == shapes
    np.testing.assert_allclose(maps.scale, 1.6)
    images = rpn.images(IMAGE[:33])  # 53 x 96 in the same bucket
    cut = rpn.features(IMAGE[:33])
    assert cut.levels[8].shape == (-(-images.image_size[0, 0] // 8), 12, 8)
    assert all(np.isfinite(x).all() and x.any() for x in cut.levels.values())


def test_a_score_s_gradient_in_pixels_agrees_with_finite_differences(rpn):
    images = rpn.images(IMAGE)

    @jax.jit
    def score(pixels):
        found = rpn.apply(rpn.params, images._replace(image=pixels))
        return 100 * found.scores[0, 0] + found.boxes[0, 0].sum()

    pixels = images.image.astype(jnp.float32)
    gradient = np.asarray(jax.grad(score)(pixels))
    assert np.isfinite(gradient).all()
    direction = np.sign(gradient) * (abs(gradient) > np.quantile(abs(gradient), 0.99))
    step = 0.05
    difference = (score(pixels + step * direction) - score(pixels - step * direction)) / (2 * step)
    expected = (gradient * direction).sum()
    assert expected > 0.01
    np.testing.assert_allclose(difference, expected, rtol=0.02)


def test_folded_norms_say_what_the_norms_say():
    rng = np.random.default_rng(0)
    layer = ConvNorm(8, 3, dtype=jnp.dtype("float32"))
    x = jnp.asarray(rng.standard_normal((2, 6, 7, 4), np.float32))
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)["params"]
    params = {name: rng.uniform(0.5, 2, s.shape).astype(np.float32) for name, s in shapes.items()}
    folded = fold_norms({"backbone": {"conv1": params}, "other": {"scale": x}})
    assert folded["other"]["scale"] is x
    kept = folded["backbone"]["conv1"]
    assert kept.keys() == {"kernel", "bias"}
    found, wanted = (layer.apply({"params": p}, x) for p in (kept, params))
    # Kernels that differ by a rounding of float32 or two.
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * float(np.std(wanted)))
