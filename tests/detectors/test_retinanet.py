"""RetinaNet beside five systems' own, whose weights are rebuilt here in their own layouts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_detectors
import reference_weights
import today_weights
import torchvision_weights
from flax import traverse_util
from zoo_cases import every_map, make_batch

from jaxdet import config as config_lib
from jaxdet.configs import base
from jaxdet.data.buckets import batch_of_one, bucket_sizes
from jaxdet.data.image import padded_size, resize, resize_boxes, resized_size
from jaxdet.detectors.build import build_detector, param_shapes
from jaxdet.detectors.classes import labels_of, outputs_of
from jaxdet.detectors.retinanet import build_network, detections, retinanet_losses
from jaxdet.detectors.rpn import anchor_grid, apply, make_targets
from jaxdet.errors import InputError
from jaxdet.models.params import merge_params, split_params
from jaxdet.ops.anchors import base_anchors, pyramid_anchors
from jaxdet.ops.boxes import CONVENTIONS
from jaxdet.weights import layout
from jaxdet.weights.systems import system_of

# Golden name -> convention, and a function from the seed to the system's state dict.
CASES = {
    "retinanet_r50_fpn": (
        "mmdet1",
        functools.partial(reference_detectors.seeded_detector, kind="retinanet"),
    ),
    "mmdet3_retinanet": ("mmdet3", functools.partial(today_weights.mmdet, kind="retinanet")),
    "detectron2_retinanet": (
        "detectron2",
        functools.partial(today_weights.detectron2, kind="retinanet"),
    ),
    **{
        f"retinanet_resnet50_fpn{version}": (
            f"torchvision{version}",
            functools.partial(
                torchvision_weights.detector, model=f"retinanet_resnet50_fpn{version}"
            ),
        )
        for version in ("", "_v2")
    },
}


def config_of(case: str, expected=None) -> config_lib.Config:
    """The system's config, at the golden's image scale."""
    convention = CASES[case][0]
    style = "caffe" if convention == "detectron2" else "pytorch"
    row = {"depth": 50, "style": style, "pretrained": "", "convention": convention}
    config = config_lib.parse(base.detector("retinanet", case, **row))
    if expected is None:
        return config
    scale = expected["scale"] if "scale" in expected else (
        expected["max_size"], expected["min_size"])  # fmt: skip
    data = dataclasses.replace(config.data, image_scale=tuple(map(int, scale)))
    return dataclasses.replace(config, data=data)


def params_of(case: str, config, expected):
    template = param_shapes(build_detector(config))
    return layout.to_params(CASES[case][1](int(expected["seed"])), template)


def seeded(source_hw, seed) -> np.ndarray:
    image = reference_weights.seeded_image(*map(int, source_hw), int(seed))
    return np.ascontiguousarray(image[..., ::-1])


def grouped(x, case: str):
    """A map's channels in the system's order: detectron2's anchors are size-major."""
    if CASES[case][0] != "detectron2":
        return x
    return x.reshape(*x.shape[:-1], 3, 3, -1).swapaxes(-3, -2).reshape(x.shape)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_detections_are_the_systems(case, golden):
    expected = golden(f"forward_{case}")
    config = config_of(case, expected)
    params, network = params_of(case, config, expected), build_network(config.model, config.train)

    @jax.jit
    def run(params, images):
        stages, levels, outputs = every_map(network, params, images)
        maps = {"backbone": stages, "neck": levels}
        maps |= {"cls": outputs.logits, "reg": outputs.deltas}
        return maps, detections(outputs, images, config.model, config.detections)

    for prefix in ("",) if "source_hw" in expected else ("img0_", "img1_"):
        own = {k.removeprefix(prefix): v for k, v in expected.items() if k.startswith(prefix)}
        image = seeded(own["source_hw"], own.get("image_seed", expected["seed"]))
        batch = batch_of_one(image, config.data, bucket_sizes(config.data.image_scale))
        np.testing.assert_array_equal(batch.pad_size[0], own["pad_shape"])
        maps, found = jax.device_get(run(params, batch.images))
        for name, stage, x in ((n, i, x) for n, xs in maps.items() for i, x in enumerate(xs)):
            if f"{name}{stage}_val" not in own:
                continue
            height, width, _ = own[f"{name}{stage}_shape"]
            x = x[0, :height, :width]
            x = grouped(x, case) if name in ("cls", "reg") else x
            assert x.shape == tuple(own[f"{name}{stage}_shape"])
            error = np.abs(x.ravel()[own[f"{name}{stage}_idx"]] - own[f"{name}{stage}_val"])
            assert error.max() < 1e-4 * own[f"{name}{stage}_std"], (prefix, name, stage)
        rows, labels = valid_of(found, 0)
        rows[:, :4] /= np.tile(batch.scale[0], 2)
        require_same(rows, labels, own["dets"], own.get("labels_contiguous", own["labels"]))


def valid_of(found, row: int):
    """Boxes with scores, and labels, of an image of a batch."""
    valid = np.asarray(found.valid[row])
    rows = np.column_stack([found.boxes[row], found.scores[row]])
    return rows[valid], np.asarray(found.labels[row])[valid]


def require_same(found, labels, wanted, wanted_labels):
    """Every detection with its own, but for a few that rounding swaps at the cut."""
    assert len(found) == len(wanted) > 10
    same = labels[:, None] == wanted_labels[None]
    same &= np.abs(found[:, None, :4] - wanted[None, :, :4]).max(-1) < 0.02
    same &= np.abs(found[:, None, 4] - wanted[None, :, 4]) < 1e-4
    assert same.any(axis=0).mean() >= 0.99
    assert same.any(axis=1).mean() >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_are_the_systems(case, golden):
    expected = golden(f"train_{case}")
    config = config_of(case, expected)
    batch, own_pads = train_batch(config, expected)
    params = params_of(case, config, expected)
    network, detector = build_network(config.model, config.train), build_detector(config)
    trainable, frozen = split_params(params, detector.trainable)

    def loss(trainable, frozen, batch, own_pads):  # none a constant, which XLA would fold slowly
        # mmdet's anchors stand on each image's own cells, in a batch that all images fill.
        targets = make_targets(batch._replace(pad_size=own_pads), config.model, config.targets)
        outputs = apply(network, merge_params(trainable, frozen), batch.images)
        cls, bbox = retinanet_losses(outputs, targets, batch, config.model, config.targets)
        return cls.sum() + bbox.sum(), (cls, bbox, targets)

    run = jax.jit(jax.grad(loss, has_aux=True))
    gradient, (cls, bbox, targets) = run(trainable, frozen, batch, own_pads)
    for names, found in (
        (("loss_cls", "loss_classification"), cls),
        (("loss_bbox", "loss_box_reg", "loss_bbox_regression"), bbox),
    ):
        wanted = next(expected[name] for name in names if name in expected)
        per_level = expected.get(f"{names[0]}_levels", wanted)
        np.testing.assert_allclose(found if per_level.ndim else found.sum(), per_level, rtol=1e-5)
    check_targets(case, targets, expected)
    check_gradient(case, gradient, expected)


def train_batch(config, expected):
    """A golden's two images, as padded as the network sees them, and their own padding."""
    convention, images, boxes, labels = CONVENTIONS[config.model.convention], [], [], []
    # The goldens of torchvision have category ids, ours are labels.
    ids = labels_of(config.model)
    for j in range(2):
        image = seeded(expected["source_hw"][j], expected["seed"] + j)
        size, scale = resized_size(image.shape[:2], config.data)
        assert size == tuple(expected[f"img_shape{j}"])
        images.append(resize(image, size, config.data.resize))
        gt, own = expected[f"gt{j}"], expected[f"labels{j}"]
        if f"boxes_original{j}" in expected:
            own_gt = resize_boxes(
                expected[f"boxes_original{j}"], scale, size, convention=convention
            )
            np.testing.assert_allclose(own_gt, gt, atol=1e-4)
            gt = own_gt
        else:
            own = own - 1  # 1..80
        boxes.append(gt)
        labels.append(ids[own])
    whole = expected["batch_hw"].astype(np.int32)
    batch = make_batch(images, whole, [whole] * 2, boxes)
    padded = np.zeros(batch.boxes.shape[:2], np.int32)
    for row, own in zip(padded, labels, strict=True):
        row[: len(own)] = own
    batch = jax.tree.map(jnp.asarray, batch._replace(labels=padded))
    if config.model.convention.startswith("mmdet"):
        return batch, jnp.array([padded_size(x.shape[:2]) for x in images], jnp.int32)
    return batch, batch.pad_size


def check_targets(case, targets, expected):
    for j in range(2):
        positive, negative = np.asarray(targets.positive[j]), np.asarray(targets.negative[j])
        prefix = f"target{j}_" if f"target{j}_positive_idx" in expected else ""
        number = "" if prefix else str(j)
        if f"{prefix}positive_idx{number}" not in expected:
            continue
        order = np.arange(len(positive))
        if CASES[case][0] == "detectron2":
            order = order.reshape(-1, 3, 3).swapaxes(1, 2).ravel()
        (found,) = np.nonzero(positive[order])
        np.testing.assert_array_equal(found, expected[f"{prefix}positive_idx{number}"])
        ignored = (~(positive | negative)).sum()
        assert ignored == expected[f"{prefix}num_ignored{number}"]


def check_gradient(case, gradient, expected):
    spell = system_of(CASES[case][1](0)).spell
    flat = traverse_util.flatten_dict(gradient)
    found = {spell(layout.torch_name(path), True): np.linalg.norm(x) for path, x in flat.items()}
    names = expected["trainable"] if "trainable" in expected else expected["grad_names"]
    assert len(set(found)) == len(flat)
    wanted = dict(zip(names, expected["grad_norms"], strict=True))
    wanted = {name.replace("bottom_up.", ""): norm for name, norm in wanted.items()}
    # The bias of a group norm is written where its convolution has none.
    found = {k if k in wanted else k.replace(".0.bias", ".1.bias"): v for k, v in found.items()}
    assert set(found) == set(wanted)
    for name, norm in wanted.items():
        np.testing.assert_allclose(found[name], norm, rtol=1e-3, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_anchors_are_the_systems(case, golden):
    grid = anchor_grid(config_of(case).model)
    if case == "retinanet_r50_fpn":
        wanted = [golden("detector_ops")[f"retina_base_anchors_{x}"] for x in grid.strides]
    elif "resnet50" in case:
        wanted = golden("detector_ops_torchvision")["retina_base_anchors"]
    else:
        areas = [(s * 4 * 2 ** (k / 3)) ** 2 for s in grid.strides for k in range(3)]
        sides = [(np.sqrt(a / r), np.sqrt(a * r)) for a in areas for r in (0.5, 1, 2)]
        wanted = [[(-w / 2, -h / 2, w / 2, h / 2) for w, h in sides]]
        wanted = np.reshape(wanted, (5, 3, 3, 4)).swapaxes(1, 2).reshape(5, 9, 4)
    for stride, level in zip(grid.strides, wanted, strict=True):
        found = base_anchors(stride, grid.scales, grid.ratios, grid.convention)
        np.testing.assert_allclose(found, level, rtol=1e-6)
    if "resnet50" not in case:
        return
    expected = golden(f"forward_{case}")
    for prefix in ("img0_", "img1_"):
        pad = jnp.array(expected[f"{prefix}pad_shape"])
        levels = pyramid_anchors(tuple(pad.tolist()), grid, pad)
        for anchors, stride, wide in zip(
            levels, expected[f"{prefix}strides"], -(-pad[1] // np.array(grid.strides)), strict=True
        ):
            step = np.asarray(anchors[9 * (wide + 1)] - anchors[0])
            np.testing.assert_array_equal(step, [*stride[::-1]] * 2)


def small_config(case: str) -> config_lib.Config:
    config = config_of(case)
    narrow = {
        "depth": 18,
        "stem_channels": 8,
        "fpn_channels": 8,
        "head_channels": 8,
        "head_convs": 2,
    }
    if case == "mmdet3_retinanet":
        narrow["class_names"] = ("cat", "dog", "owl")
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **narrow))


@pytest.mark.slow
@pytest.mark.usefixtures("few_blocks", "quick_programs")
@pytest.mark.parametrize(
    "case", ["mmdet3_retinanet", "detectron2_retinanet", "retinanet_resnet50_fpn_v2"]
)
def test_an_image_does_not_depend_on_its_bucket_or_neighbours(case):
    """The second image's fourth level has 2 by 3 cells of its own: 96 and 160 are odd in 32."""
    config, rng = small_config(case), np.random.default_rng(0)
    detector = build_detector(config)
    params = jax.jit(detector.init)(jax.random.key(3, impl="rbg"))
    params = jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape).astype(x.dtype), params)
    params["bbox_head"]["retina_cls"]["bias"] *= 0.5
    images = [
        rng.integers(0, 256, (*size, 3)).astype(config.data.pixel_dtype)
        for size in ((190, 60), (75, 150))
    ]
    pads = [padded_size(x.shape[:2]) for x in images]
    boxes = np.array([[5, 7, 70, 60], [100, 20, 140, 70.0]], np.float32)
    count = len(config.model.class_names)

    def batch_of(images, bucket, pads):
        batch = make_batch(images, bucket, pads, [boxes] * len(images))
        labels = np.tile(np.array([0, count - 1], np.int32), (len(images), 1))
        return jax.tree.map(jnp.asarray, batch._replace(labels=labels))

    predict, loss = jax.jit(detector.predict), jax.jit(detector.loss)
    alone = batch_of(images[1:], (96, 160), pads[1:])
    together = predict(params, batch_of(images, (256, 192), pads).images)
    found = predict(params, alone.images)
    assert len(np.unique(found.labels[0])) > 2
    assert found.labels.max() < count
    # Another bucket is another program: sums of float32 in another order.
    require_same(*valid_of(together, 1), *valid_of(found, 0))
    terms, numbers = loss(params, alone)
    assert numbers["num_positive"] > 1
    wider, _ = loss(params, batch_of(images[1:], (128, 192), pads[1:]))
    for name, term in terms.items():
        np.testing.assert_allclose(wider[name], term, rtol=1e-5)


def test_classes_that_do_not_fit_are_named():
    model = config_of("retinanet_resnet50_fpn").model
    for names, message in (((), "is empty"), (("cat",), "80 classes, not 1")):
        with pytest.raises(InputError, match=message):
            outputs_of(dataclasses.replace(model, class_names=names))


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("retinanet_r50_fpn_1x", "targets.loss_count", "quota"),
        ("rpn_r50_fpn_1x", "targets.loss_count", "positives"),
        ("rpn_r50_fpn_1x", "targets.box_loss", "giou"),
    ],
)
def test_losses_of_another_detector_are_refused(name, field, value):
    config = config_lib.load_file(name)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=f"config.{field}: must be .*, not '{value}'"):
        config_lib.parse(config)
