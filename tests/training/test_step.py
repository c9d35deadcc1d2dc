"""Losses, gradients and the first steps against the reference's; devices against one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from zoo_cases import (
    SMALL,
    config_of,
    fresh_params,
    golden_config,
    make_batch,
    params_of,
    train_batch,
)

from jaxdet.config import Config
from jaxdet.detectors.build import build_detector, param_shapes
from jaxdet.detectors.rpn import apply, build_network, make_targets, rpn_losses
from jaxdet.distributed import data_mesh, replicate, split
from jaxdet.models.params import merge_params, split_params
from jaxdet.training import optimizer as optim
from jaxdet.training.step import init_state, make_train_step
from jaxdet.weights import layout

SLOW = [pytest.param(case, marks=pytest.mark.slow) for case in ("r50_caffe_fpn", "r50_c4")]


@pytest.mark.parametrize("case", ["r50_fpn", *SLOW])
def test_losses_and_gradients_match_reference(case, golden):
    expected = golden(f"train_{case}")
    config = golden_config(case)
    detector, network = build_detector(config), build_network(config.model, config.train)
    batch = jax.tree.map(jnp.asarray, train_batch(expected))
    trainable, frozen = split_params(params_of(case), detector.trainable)

    def loss(trainable, frozen, batch):
        outputs = apply(network, merge_params(trainable, frozen), batch.images)
        targets = make_targets(batch, config.model, config.targets)
        levels = rpn_losses(outputs, targets, config.targets)
        return sum(x.sum() for x in levels), levels

    gradient, levels = jax.jit(jax.grad(loss, has_aux=True))(trainable, frozen, batch)
    for got, name in zip(levels, ("loss_cls_levels", "loss_bbox_levels"), strict=True):
        # Sums of some 10,000 float32 terms; levels without a positive are exactly zero.
        np.testing.assert_allclose(got, expected[name], rtol=1e-5, atol=1e-9)

    flat = {
        layout.torch_name(path): np.asarray(value)
        for path, value in traverse_util.flatten_dict(gradient).items()
    }
    assert set(flat) == set(expected["trainable"])
    for name, value in flat.items():
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
        norm = expected[f"grad_norm/{name}"]
        np.testing.assert_allclose(np.linalg.norm(value), norm, rtol=1e-3, err_msg=name)
        places = expected[f"grad_idx/{name}"]
        # A single value may be a sum that cancels: judged against the tensor's own size.
        np.testing.assert_allclose(
            value.ravel()[places], expected[f"grad_val/{name}"], rtol=1e-3, atol=1e-4 * norm
        )


@pytest.mark.slow  # those of r50_fpn are `test_convergence.test_four_steps_from_files`
@pytest.mark.parametrize("case", ["r50_caffe_fpn", "r50_c4"])
def test_first_steps_match_reference(case, golden):
    expected = golden(f"train_{case}")
    config = golden_config(case)
    detector = build_detector(config)
    rate = optim.learning_rate(config.optimizer, 10**6, 2)
    optimizer = optim.make_optimizer(config.optimizer, rate)
    mesh = data_mesh(jax.devices()[:1])
    state = init_state(detector, params_of(case), optimizer)
    state = replicate(jax.tree.map(jnp.copy, state), mesh)
    step = make_train_step(detector, config.train, optimizer, mesh)
    batch = split(train_batch(expected), mesh)
    rows = []
    for _ in range(4):
        state, metrics = step(state, batch)
        rows.append([float(metrics[x]) for x in ("loss", "loss_cls", "loss_bbox", "grad_norm")])
    expected_rows = expected["trajectory_loss_cls_bbox_gradnorm"].copy()
    # PyTorch's float32 norm of C4's 9.4 million head weights is 5e-4 too small (28.8097 for
    # 28.8242), and so is the golden's total; its norms per tensor, summed by NumPy, are not.
    norms = [norm for name, norm in expected.items() if name.startswith("grad_norm/")]
    expected_rows[0, 3] = np.linalg.norm(norms)
    # Rounding grows from step to step; the first is tight, the fourth loose.
    for row, want, rtol in zip(rows, expected_rows, (1e-4, 2e-3, 1e-2, 2e-2), strict=True):
        np.testing.assert_allclose(row, want, rtol=rtol)
    assert int(state.step) == 4


def small_config() -> Config:
    """A network that compiles in seconds; every image fills its 16 samples."""
    config = Config()
    targets = dataclasses.replace(config.targets, num_samples=16)
    return dataclasses.replace(config, model=SMALL, targets=targets)


def random_batch(count: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 255, (60 - i, 64, 3), np.uint8) for i in range(count)]
    corner = rng.uniform(0, 20, (count, 3, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(10, 35, (count, 3, 2))], -1)
    sizes = [(64, 64)] * count
    return make_batch(images, (64, 64), sizes, list(boxes.astype(np.float32)))


def run_steps(config: Config, batch, num_devices: int, steps: int):
    detector = build_detector(config)
    mesh = data_mesh(jax.devices()[:num_devices])
    optimizer = optim.make_optimizer(config.optimizer, lambda step: 0.01)
    state = replicate(init_state(detector, fresh_params(config.model), optimizer), mesh)
    step = make_train_step(detector, config.train, optimizer, mesh)
    rows = []
    for _ in range(steps):
        state, metrics = step(state, split(batch, mesh))
        rows.append([float(value) for value in metrics.values()])
    return np.array(rows), jax.device_get(state.trainable)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_programs")
def test_eight_devices_give_what_one_gives():
    config, batch = small_config(), random_batch(16)
    targets = make_targets(jax.tree.map(jnp.asarray, batch), config.model, config.targets)
    # Every device divides by 16 samples per image, so its normaliser is that of the whole / 8.
    counts = (targets.positive.sum(1), targets.negative.sum(1))
    assert (counts[0] >= 1).all()
    assert (counts[0] + counts[1] == 16).all()
    one, params_one = run_steps(config, batch, 1, 3)
    eight, params_eight = run_steps(config, batch, 8, 3)
    np.testing.assert_allclose(eight, one, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), params_eight, params_one)


def test_frozen_tensors_have_no_gradient_and_no_slot():
    detector = build_detector(config_of("r50_caffe_fpn"))
    trainable, _ = split_params(param_shapes(detector), detector.trainable)
    paths = traverse_util.flatten_dict(trainable)
    assert not any(path[-1] in ("scale", "mean", "var") for path in paths)
    slots = jax.eval_shape(optim.make_optimizer(Config().optimizer, lambda s: 0.1).init, trainable)
    trace = optax.tree_utils.tree_get(slots, "trace")
    assert jax.tree.structure(trace) == jax.tree.structure(trainable)
    assert not detector.trainable(("backbone", "layer1_0", "conv1", "kernel"))


def test_sampling_does_not_depend_on_bucket_or_neighbours():
    config = small_config()
    batch = random_batch(4)
    targets_of = jax.jit(lambda batch: make_targets(batch, config.model, config.targets))
    small = targets_of(batch)
    image = np.zeros((1, 96, 128, 3), np.uint8)
    image[:, :64, :64] = batch.image[2]
    alone = jax.tree.map(lambda x: jnp.asarray(x[2:3]), batch)._replace(image=jnp.asarray(image))
    large = targets_of(alone)
    assert large.positive.sum() == small.positive[2].sum()
    # The same anchors; logarithms differ in the last bit with their place in a vector register.
    np.testing.assert_allclose(
        large.deltas[0][large.positive[0]], small.deltas[2][small.positive[2]], atol=1e-6
    )
    assert large.negative.sum() == small.negative[2].sum()
