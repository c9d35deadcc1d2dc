"""The RPNs of mmdet 2/3, detectron2 and torchvision: our numbers beside their own.

`golden/convention_*` were made by running the systems (mmdet 3.3.0, detectron2 at 02b5c4e,
torchvision 0.29.1) on the weights and images that `convention_weights` and `reference_weights`
rebuild here.  The weights come in the systems' own key layouts, so that their reading is part of
each test.
"""

import dataclasses
import functools

import convention_weights
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_weights
from flax import traverse_util
from zoo_cases import every_map, make_batch

from jaxdet import config as config_lib
from jaxdet.config import Config
from jaxdet.data.buckets import batch_of_one, bucket_sizes
from jaxdet.data.image import padded_size, resize, resize_boxes, resized_size
from jaxdet.detectors.build import build_detector, param_shapes
from jaxdet.detectors.proposals import propose
from jaxdet.detectors.rpn import anchor_grid, apply, build_network, make_targets, rpn_losses
from jaxdet.inference.single import result_of
from jaxdet.models.params import merge_params, split_params
from jaxdet.ops.boxes import CONVENTIONS
from jaxdet.weights import layout
from jaxdet.weights.systems import system_of

C4 = {"input_std": 57.0, "stages": 3, "neck": False, "head_channels": 1024, "num_anchors": 15}
# Golden name -> config, and a function from the seed to the system's state dict.
CASES = {
    "mmdet2_fpn": ("mmdet2_rpn_r50_fpn_1x", reference_weights.seeded_state_dict),
    "mmdet3_fpn": ("mmdet3_rpn_r50_fpn_1x", reference_weights.seeded_state_dict),
    "mmdet3_caffe_c4": (
        "mmdet3_rpn_r50_caffe_c4_1x",
        functools.partial(reference_weights.seeded_state_dict, **C4),
    ),
    "detectron2_fpn": ("detectron2_rpn_r50_fpn_1x", convention_weights.detectron2),
    "detectron2_c4": (
        "detectron2_rpn_r50_c4_1x",
        functools.partial(convention_weights.detectron2, neck="c4"),
    ),
    "torchvision": ("torchvision_rpn_r50_fpn", convention_weights.torchvision),
    "torchvision_v2": (
        "torchvision_rpn_r50_fpn_v2",
        functools.partial(convention_weights.torchvision, version=2),
    ),
}
FAST = ("torchvision",)


def cases(*names: str):
    marks = [pytest.param(x, marks=() if x in FAST else pytest.mark.slow) for x in names]
    return pytest.mark.parametrize("case", marks)


def config_of(case: str, expected) -> Config:
    """The system's config at the golden's image scale."""
    config = config_lib.parse(config_lib.load_file(CASES[case][0]))
    if "scale" in expected:
        scale = tuple(map(int, expected["scale"]))
    else:
        scale = int(expected["max_size"]), int(expected["min_size"])
    return dataclasses.replace(config, data=dataclasses.replace(config.data, image_scale=scale))


def params_of(case: str, config: Config, seed: int):
    return layout.to_params(CASES[case][1](seed), param_shapes(build_detector(config)))


def source(expected, prefix: str, j: int) -> np.ndarray:
    """A golden's image in its own size, RGB."""
    height, width = map(int, expected[f"{prefix}source_hw"])
    image = reference_weights.seeded_image(height, width, int(expected[f"{prefix}image_seed"]))
    return np.ascontiguousarray(image[..., ::-1])


def same(found, expected, prefix: str, tolerance: float) -> None:
    """Compares the golden's picks with a map, in units of the map's standard deviation."""
    found = np.asarray(found)
    assert found.shape == tuple(expected[f"{prefix}_shape"]), prefix
    picked = found.reshape(-1)[expected[f"{prefix}_idx"]]
    error = np.abs(picked - expected[f"{prefix}_val"]).max() / expected[f"{prefix}_std"]
    assert error < tolerance, (prefix, error)


def share_found(found: np.ndarray, wanted: np.ndarray) -> float:
    """How many of the wanted boxes (and scores, where given) are among those found."""
    near = np.abs(found[:, None, :4] - wanted[None, :, :4]).max(-1) < 0.01
    if wanted.shape[1] == 5:
        near &= np.abs(found[:, None, 4] - wanted[None, :, 4]) < 1e-4
    return near.any(axis=0).mean()


@cases("mmdet3_fpn", "mmdet3_caffe_c4", "detectron2_fpn", "detectron2_c4", "torchvision",
       "torchvision_v2")  # fmt: skip
def test_proposals_are_the_systems(case, golden):
    expected = golden(f"convention_forward_{case}")
    config = config_of(case, expected)
    params = params_of(case, config, int(expected["seed"]))
    stages = program(config)
    long = max(config.data.image_scale)
    for j in range(2):
        image = source(expected, f"img{j}_", j)
        # One bucket, and so one program, for both.
        batch = batch_of_one(image, config.data, bucket_sizes((long, long)))
        prefix = f"img{j}_"
        np.testing.assert_array_equal(batch.image_size[0], expected[f"{prefix}img_shape"])
        np.testing.assert_array_equal(batch.pad_size[0], expected[f"{prefix}pad_shape"])
        *maps, predictions = jax.tree.map(np.asarray, stages(params, batch.images))
        check_stages(config, maps, batch, expected, prefix)
        assert predictions.valid.sum() == expected[f"{prefix}num_proposals"]
        original = result_of(predictions, batch, config, image.shape[:2])
        check_proposals(case, predictions, original, expected, prefix)


def program(config):
    """Pixels, stages, levels, outputs and proposals."""
    network = build_network(config.model, config.train)

    def run(params, images):
        pixels = network.normalize(images.image, images.image_size)
        stages, levels, outputs = every_map(network, params, images)
        found = propose(outputs, images, anchor_grid(config.model), config.proposals)
        return pixels, stages, levels, outputs, found

    return jax.jit(run)


def check_stages(config, found, batch, expected, prefix):
    height, width = batch.image_size[0]
    if f"{prefix}resized_idx" in expected:  # bytes, BGR
        resized = batch.image[0, :height, :width, ::-1]
        picked = resized.reshape(-1)[expected[f"{prefix}resized_idx"]]
        np.testing.assert_array_equal(picked, expected[f"{prefix}resized_val"])
    tall, wide = batch.pad_size[0]
    pixels, stages, levels, outputs = found
    # A float32 resize of another library rounds otherwise.
    same(pixels[0, :tall, :wide], expected, f"{prefix}input", 5e-5)
    strides = config.model.strides
    maps = {"cls": outputs.logits, "reg": outputs.deltas}
    maps |= {"neck": levels} if config.model.fpn_channels else {"backbone": levels}
    if config.model.fpn_channels:
        for i, stage in enumerate(stages):
            own = stage[0, : -(-tall // 2 ** (i + 2)), : -(-wide // 2 ** (i + 2))]
            same(own, expected, f"{prefix}backbone{i}", 1e-4)
    for name, level_maps in maps.items():
        for i, (x, stride) in enumerate(zip(level_maps, strides, strict=True)):
            own = in_systems_order(config, name, x[0, : -(-tall // stride), : -(-wide // stride)])
            same(own, expected, f"{prefix}{name}{i}", 1e-4)


def in_systems_order(config, name: str, x):
    """detectron2's C4 head has its anchors size-major, ours ratio-major as the 2018 toolbox."""
    if config.model.convention != "detectron2" or name not in ("cls", "reg"):
        return x
    split = x.reshape(*x.shape[:2], 3, len(config.model.anchor_scales), -1)
    return split.swapaxes(2, 3).reshape(x.shape)


def check_proposals(case, predictions, original, expected, prefix):
    found = np.column_stack([predictions.boxes[0], predictions.scores[0]])[predictions.valid[0]]
    wanted = expected[f"{prefix}proposals"].copy()
    if case.startswith("detectron2"):  # its score is the logit
        wanted[:, 4] = 1 / (1 + np.exp(-wanted[:, 4]))
    # The rest are neighbours that rounding swapped at a cut or at the threshold.
    assert share_found(found[:600], wanted) >= 0.995
    assert (
        share_found(original.boxes[:600], expected[f"{prefix}proposals_original"][:, :4]) >= 0.995
    )
    for level in range(len(expected[f"{prefix}kept_per_level"])):
        kept = expected[f"{prefix}kept{level}"].copy()
        if case.startswith("detectron2") and len(kept):
            kept[:, 4] = 1 / (1 + np.exp(-kept[:, 4]))
        # Those that the final cut leaves out are not in our list either.
        kept = kept[kept[:, 4] > found[:, 4].min() + 1e-4]
        if len(kept):
            assert share_found(found, kept) >= 0.97, level


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_are_the_systems(case, golden):
    expected = golden(f"convention_train_{case}")
    config = config_of(case, expected)
    convention = CONVENTIONS[config.model.convention]
    every = dataclasses.replace(config.targets, num_samples=0)
    config = dataclasses.replace(config, targets=every)
    images, boxes = [], []
    for j in range(2):
        image = source_of_training(expected, j)
        size, scale = resized_size(image.shape[:2], config.data)
        assert size == tuple(expected[f"img_shape{j}"])
        images.append(resize(image, size, config.data.resize))
        given = expected[f"boxes_original{j}"]
        boxes.append(resize_boxes(given, scale, size, convention=convention))
        np.testing.assert_allclose(boxes[j], expected[f"gt{j}"], atol=1e-4)
    pads = [padded_size(x.shape[:2], config.data.pad_multiple) for x in images]
    # A bucket has whole cells, whether or not the system pads.
    stride = config.model.strides[0] if config.data.pad_multiple == 1 else 32
    bucket = padded_size(tuple(np.max(pads, axis=0).tolist()), stride)
    batch = jax.tree.map(jnp.asarray, make_batch(images, bucket, pads, boxes))
    params = params_of(case, config, int(expected["seed"]))
    detector, network = build_detector(config), build_network(config.model, config.train)
    trainable, frozen = split_params(params, detector.trainable)
    # As there: the normaliser is the quota's, though everything takes part.
    counted = dataclasses.replace(config.targets, num_samples=256)

    def loss(trainable, frozen, batch):  # none of them a constant, which XLA would fold slowly
        targets = make_targets(batch, config.model, config.targets)
        outputs = apply(network, merge_params(trainable, frozen), batch.images)
        cls, bbox = rpn_losses(outputs, targets, counted)
        return cls.sum() + bbox.sum(), (cls, bbox, targets)

    gradient, (cls, bbox, targets) = jax.jit(jax.grad(loss, has_aux=True))(trainable, frozen, batch)
    for name, found in (("loss_cls", cls), ("loss_bbox", bbox)):
        if name in expected:
            np.testing.assert_allclose(found.sum(), expected[name], rtol=1e-5)
        else:
            np.testing.assert_allclose(found, expected[f"{name}_levels"], rtol=1e-5, atol=1e-9)
    check_targets(config, targets, expected)
    check_gradient(case, gradient, expected)


def source_of_training(expected, j: int) -> np.ndarray:
    height, width = map(int, expected["source_hw"][j])
    image = reference_weights.seeded_image(height, width, int(expected["seed"]) + j)
    return np.ascontiguousarray(image[..., ::-1])


def check_targets(config, targets, expected):
    for j in range(2):
        prefix = f"target{j}_"
        positive, negative = np.asarray(targets.positive[j]), np.asarray(targets.negative[j])
        assert len(positive) == expected[f"{prefix}num_anchors"]
        assert negative.sum() == expected[f"{prefix}num_negative"]
        order = np.arange(len(positive))
        if config.model.convention == "detectron2":
            scales = len(config.model.anchor_scales)
            order = order.reshape(-1, 3, scales).swapaxes(1, 2).ravel()
        (found,) = np.nonzero(positive[order])
        np.testing.assert_array_equal(found, expected[f"{prefix}positive_idx"])
        (ignored,) = np.nonzero(~(positive | negative)[order])
        assert ignored.sum() == expected[f"{prefix}ignored_idx_sum"]
        deltas = np.asarray(targets.deltas[j])[order][found]
        # Logarithms and quotients of float32 coordinates of hundreds of pixels.
        np.testing.assert_allclose(deltas, expected[f"{prefix}positive_delta"], atol=2e-6)


def check_gradient(case, gradient, expected):
    spell = system_of(CASES[case][1](0)).spell
    flat = traverse_util.flatten_dict(gradient)
    found = {spell(layout.torch_name(path)): np.linalg.norm(x) for path, x in flat.items()}
    wanted = dict(zip(expected["grad_names"], expected["grad_norms"], strict=True))
    # Scopes that reading drops; mmdet 3 calls the head of an RPN alone `bbox_head`.
    short = {"bottom_up.": "", "bbox_head.rpn_": "rpn_head.rpn_"}
    for scope, other in short.items():
        wanted = {name.replace(scope, other): norm for name, norm in wanted.items()}
    if case == "torchvision_v2":  # norms are folded into the pyramid here
        found, wanted = (
            {name: norm for name, norm in norms.items() if ".fpn." not in name}
            for norms in (found, wanted)
        )
    assert set(found) == set(wanted)
    for name, norm in wanted.items():
        np.testing.assert_allclose(found[name], norm, rtol=1e-3, err_msg=name)


# mmdet 2 and detectron2's pyramid have nothing that these and `test_retinanet` do not.
BORDER = ("mmdet3_rpn_r50_caffe_c4_1x", "detectron2_rpn_r50_c4_1x", "torchvision_rpn_r50_fpn_v2")


@pytest.mark.usefixtures("few_blocks", "quick_programs")
@pytest.mark.slow  # `test_border` holds it for the 2018 convention by default
@pytest.mark.parametrize("name", BORDER)
def test_an_image_does_not_depend_on_its_bucket_or_neighbours(name):
    """The second image's fifth level has a measured stride of 48 for 3 cells of 160 pixels."""
    config = config_lib.parse(config_lib.load_file(name))
    pyramid = 8 if config.model.fpn_channels else 0
    model = dataclasses.replace(
        config.model, depth=18, stem_channels=8, fpn_channels=pyramid, head_channels=8
    )
    config = dataclasses.replace(config, model=model)
    detector, rng = build_detector(config), np.random.default_rng(0)
    params = jax.jit(detector.init)(jax.random.key(2, impl="rbg"))
    params = jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape).astype(x.dtype), params)
    images = [
        rng.integers(0, 256, (*size, 3)).astype(config.data.pixel_dtype)
        for size in ((190, 60), (75, 150))
    ]
    pads = [padded_size(x.shape[:2], config.data.pad_multiple) for x in images]
    predict = jax.jit(detector.predict)
    together = predict(params, make_batch(images, (256, 192), pads).images)
    alone = predict(params, make_batch(images[1:], (96, 160), pads[1:]).images)
    assert together.valid[1].sum() == alone.valid[0].sum() > 10
    # Another bucket is another program: sums of float32 in another order.
    np.testing.assert_allclose(together.scores[1], alone.scores[0], atol=1e-5)
    np.testing.assert_allclose(together.boxes[1], alone.boxes[0], atol=1e-2)
