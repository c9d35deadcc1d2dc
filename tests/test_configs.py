"""Every config: what it says, the checkpoints that fit it, and that it runs."""

import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference_weights
from zoo_cases import CASES, CONFIGS, make_batch, params_of

from jaxdet import config as config_lib
from jaxdet.config import Config
from jaxdet.detectors.build import build_detector, param_shapes
from jaxdet.distributed import data_mesh, replicate, split
from jaxdet.training import optimizer as optim
from jaxdet.training.step import init_state, make_train_step
from jaxdet.weights import layout
from jaxdet.zoo.published import PRETRAINED, ROWS, Row

FILES = sorted(CONFIGS.glob("rpn_*.py"))
SHAPES = "rpn_r18_fpn_shapes"
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.config)


def load(name: str) -> Config:
    return config_lib.parse(config_lib.load_file(CONFIGS / f"{name}.py"))


def case_of(row: Row) -> str:
    """The golden name of a row's architecture: the schedule does not matter."""
    return row.config.removeprefix("rpn_").removesuffix(f"_{row.schedule}")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_file_has_the_configs_name_and_says_its_command(path: Path):
    assert load(path.stem).name == path.stem
    document = importlib.import_module(f"jaxdet.configs.{path.stem}").__doc__
    command = document.split("\n\n")[1].replace("\\\n", "").split()
    if path.stem == SHAPES:
        assert command == ["python", "-m", "jaxdet.main"]
        return
    assert command == [
        *["python", "-m", "jaxdet.main"],
        f"--config=configs/{path.name}",
        "--config.data.root=/data/coco",
        f"--workdir=runs/{path.stem}",
    ]


def test_rows_and_configs_are_one_to_one():
    assert sorted([*(row.config for row in ROWS), SHAPES]) == [path.stem for path in FILES]
    assert {case_of(row) for row in ROWS} == set(CASES)


@each_row
def test_the_docstring_gives_the_published_figures(row):
    figures = [f"AR1000 {row.ar1000}"]
    for value, unit in [
        (row.train_time, "s/iter"),
        (row.memory, "GB"),
        (row.fps, "images/s"),
    ]:
        figures += [f"{value} {unit}"] if value is not None else []
    title = f"{row.backbone}, {row.style} style, {row.schedule}: {', '.join(figures)} on 8 V100s."
    module = importlib.import_module(f"jaxdet.configs.{row.config}")
    assert module.__doc__.splitlines()[0] == title


@each_row
def test_the_setting_is_the_references(row):
    """`mmdet`'s schedule, input and test settings, by row."""
    config = load(row.config)
    epochs, decays = {"1x": (12, (8.0, 11.0)), "2x": (24, (16.0, 22.0))}[row.schedule]
    assert config.train.num_epochs == epochs
    assert config.train.num_steps == 0
    optimizer = config.optimizer
    assert optimizer.decay_epochs == decays
    assert (optimizer.learning_rate, optimizer.scale_lr) == (0.02, True)
    assert (optimizer.momentum, optimizer.weight_decay) == (0.9, 1e-4)
    assert (optimizer.clip_norm, optimizer.decay_factor) == (35.0, 0.1)
    assert (optimizer.warmup_steps, optimizer.warmup_ratio) == (500, 1 / 3)
    assert (config.data.name, config.data.image_scale) == ("coco", (1333, 800))
    assert config.data.images_per_device == 2  # times 8 devices: the batch of 16
    assert (config.train.precision, config.train.matmul_precision) == ("float32", "highest")

    model = config.model
    caffe, c4 = row.style == "caffe", row.backbone.endswith("C4")
    assert model.style == row.style
    assert model.train_norm is not caffe
    assert model.channel_order == ("bgr" if caffe else "rgb")
    assert model.pixel_std == ((1.0, 1.0, 1.0) if caffe else (58.395, 57.12, 57.375))
    assert model.frozen_stages == 1
    assert model.strides == ((16,) if c4 else (4, 8, 16, 32, 64))
    assert model.anchor_scales == ((2.0, 4.0, 8.0, 16.0, 32.0) if c4 else (8.0,))
    assert config.proposals.nms_pre == (12000 if c4 else 2000)
    assert (config.proposals.nms_post, config.proposals.max_num) == (2000, 2000)
    assert (config.proposals.nms_threshold, config.proposals.min_box_size) == (0.7, 0.0)


@each_row
def test_the_backbone_to_begin_with_is_of_the_same_kind(row):
    name = load(row.config).model.pretrained
    assert name in PRETRAINED
    depth = int(row.backbone.split("-")[1])
    group = row.backbone.split("-")[2] if row.backbone.startswith("X") else ""
    caffe = "_caffe" if row.style == "caffe" else ""
    wanted = f"resnext{depth}_{group}" if group else f"resnet{depth}{caffe}"
    assert name.split("://")[1] == wanted
    # torchvision's weights are for pytorch style; caffe's and ResNeXt's come from the zoo's host.
    assert name.startswith("torchvision://") == (not caffe and not group)


@each_row
def test_the_parameters_are_the_checkpoints(row):
    """The same names and shapes, none missing and none too many."""
    arch = {k: v for k, v in CASES[case_of(row)][1].items() if k != "input_std"}
    wanted = {
        name: shape
        for name, shape in reference_weights.checkpoint_shapes(**arch).items()
        if not name.endswith("num_batches_tracked")
    }
    shapes = param_shapes(build_detector(load(row.config)))
    found = {}
    for path, leaf in layout.leaves(shapes):
        assert leaf.dtype == jnp.float32
        shape = leaf.shape
        found[layout.torch_name(path)] = (
            tuple(shape[i] for i in (3, 2, 0, 1)) if len(shape) == 4 else shape
        )
    assert found == wanted
    assert len(found) == len(jax.tree.leaves(shapes))


@each_row
def test_a_longer_schedule_is_the_same_network(row):
    other = row.config.replace("_2x", "_1x")
    assert load(row.config).model == load(other).model


def image_and_boxes():
    """An image of 64 x 64 pixels with two boxes."""
    boxes = np.array([[4, 6, 40, 44], [20, 10, 60, 30]], np.float32)
    image = reference_weights.seeded_image(64, 64)
    return make_batch([image], (64, 64), [(64, 64)], [boxes])


def stepper(config: Config):
    """A training step on one device, and the state that it begins with, of parameters."""
    mesh, detector = data_mesh(jax.devices()[:1]), build_detector(config)
    optimizer = optim.make_optimizer(config.optimizer, optax.constant_schedule(0.001))
    step = make_train_step(detector, config.train, optimizer, mesh)
    return step, lambda params: init_state(detector, params, optimizer), mesh


def assert_trains(config: Config, params) -> None:
    step, begin, mesh = stepper(config)
    after, metrics = step(replicate(begin(params), mesh), split(image_and_boxes(), mesh))
    assert np.isfinite([float(x) for x in jax.tree.leaves(metrics)]).all()
    assert int(after.step) == 1
    head = after.trainable["rpn_head"]["rpn_conv"]["kernel"]
    assert not np.array_equal(head, params["rpn_head"]["rpn_conv"]["kernel"])
    assert jax.tree.all(jax.tree.map(lambda x: bool(jnp.isfinite(x).all()), after.trainable))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_architecture_trains(case):
    """The eight networks of the fourteen configs; `test_network` has their proposals.

    Of those that no golden number trains, the two that are of another kind are run.
    """
    config = load(CASES[case][0])
    if case in ("r50_caffe_c4", "x101_32x4d_fpn"):
        assert_trains(config, params_of(case))
        return
    step, begin, _ = stepper(config)
    state = jax.eval_shape(begin, param_shapes(build_detector(config)))
    after, metrics = jax.eval_shape(step, state, image_and_boxes())
    assert {"loss", "grad_norm"} <= set(metrics)
    kept = jax.tree.map(lambda x, y: (x.shape, x.dtype) == (y.shape, y.dtype), after, state)
    assert jax.tree.all(kept)
