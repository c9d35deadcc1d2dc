"""The schedule's values by hand, and SGD against PyTorch's form."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdet.config import Config, DataConfig, OptimizerConfig, TrainConfig
from jaxdet.training.optimizer import global_batch, learning_rate, make_optimizer


def test_warm_up_and_steps():
    rate = learning_rate(OptimizerConfig(), steps_per_epoch=1000, global_batch=16)
    for step, expected in [
        (0, 0.02 / 3),
        (250, 0.02 * (1 - 0.5 * 2 / 3)),
        (500, 0.02),
        (7999, 0.02),
        (8000, 0.002),  # the ninth epoch begins
        (10999, 0.002),
        (11000, 0.0002),  # and the twelfth
    ]:
        assert float(rate(step)) == pytest.approx(expected, rel=1e-6), step
        assert float(jax.jit(rate)(jnp.int32(step))) == pytest.approx(expected, rel=1e-6)


def test_an_update_learns_from_all_groups_of_all_devices():
    config = Config(data=DataConfig(images_per_device=3), train=TrainConfig(accumulation=4))
    assert global_batch(config, num_devices=2) == 24


def test_rate_follows_the_global_batch():
    config = OptimizerConfig(warmup_steps=0)
    assert float(learning_rate(config, 1000, 4)(0)) == pytest.approx(0.005)
    fixed = dataclasses.replace(config, scale_lr=False)
    assert float(learning_rate(fixed, 1000, 4)(0)) == pytest.approx(0.02)


def test_three_updates_by_hand():
    config = OptimizerConfig(clip_norm=5.0, weight_decay=0.1, momentum=0.9)
    optimizer = make_optimizer(config, lambda step: 0.01)
    p = {"w": jnp.array([1.0, -2.0])}
    state = optimizer.init(p)
    w, v = np.array([1.0, -2.0]), np.zeros(2)
    for gradient in ([3.0, 4.0], [6.0, 8.0], [0.5, 0.0]):  # norms 5, 10, 0.5
        updates, state = optimizer.update({"w": jnp.array(gradient)}, state, p)
        p = optax.apply_updates(p, updates)
        g = np.array(gradient)
        g = g * min(1, 5 / np.linalg.norm(g)) + 0.1 * w
        v = 0.9 * v + g
        w = w - 0.01 * v
        np.testing.assert_allclose(p["w"], w, rtol=1e-6)
