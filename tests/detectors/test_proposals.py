"""Proposals at the edges; `test_network` has the reference's."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet.config import ModelConfig, ProposalConfig
from jaxdet.detectors.proposals import propose
from jaxdet.detectors.rpn import anchor_grid
from jaxdet.models.rpn_head import Outputs
from jaxdet.types import Images

MODEL = ModelConfig()
SIZE = jnp.array([[64, 96]], jnp.int32)


def random_outputs(seed: int, spread: float = 1.0) -> Outputs:
    rng = np.random.default_rng(seed)
    sizes = [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    logits = [jnp.asarray(rng.normal(0, spread, (1, *s, 3)), jnp.float32) for s in sizes]
    deltas = [jnp.asarray(rng.normal(0, 0.3, (1, *s, 12)), jnp.float32) for s in sizes]
    return Outputs(logits, deltas)


@partial(jax.jit, static_argnums=(1, 2))
def program(outputs: Outputs, model: ModelConfig, config: ProposalConfig):
    images = Images(jnp.zeros((1, 64, 96, 3)), SIZE, SIZE, jnp.ones((1, 2)))
    return propose(outputs, images, anchor_grid(model), config)


def run(outputs: Outputs, **changes):
    config = dataclasses.replace(ProposalConfig(), **changes)
    found = program(outputs, MODEL, config)
    return jax.tree.map(lambda x: np.asarray(x[0]), found)


def test_boxes_lie_in_the_image_and_valid_ones_come_first():
    found = run(random_outputs(0))
    count = found.valid.sum()
    assert 0 < count < 2000
    assert found.valid[:count].all()
    assert (found.scores[count:] == 0).all()
    assert (found.boxes >= 0).all()
    assert (found.boxes[:, 2] <= 95).all()
    assert (found.boxes[:, 3] <= 63).all()


def test_equal_scores_keep_the_grids_order_and_are_all_there():
    outputs = random_outputs(1)
    flat = Outputs([jnp.zeros_like(x) for x in outputs.logits], outputs.deltas)
    found = run(flat, nms_threshold=1.0, max_num=4000)
    assert found.valid.sum() == sum(x.size for x in outputs.logits)
    assert (found.scores[found.valid] == 0.5).all()


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinite_logits_are_ordinary_scores(value):
    outputs = random_outputs(2)
    logits = [x.at[0, 0, 0, 0].set(value) for x in outputs.logits]
    found = run(Outputs(logits, outputs.deltas), nms_threshold=1.0, max_num=4000)
    assert found.valid.all() == False  # noqa: E712 - filler remains
    extreme = 1.0 if value > 0 else 0.0
    assert (found.scores[found.valid] == extreme).sum() >= 5


def test_small_boxes_are_dropped():
    found = run(random_outputs(3), min_box_size=20.0)
    sides = (found.boxes[:, 2:] - found.boxes[:, :2] + 1)[found.valid]
    assert len(sides)
    assert (sides >= 20).all()


def test_nms_post_cuts_by_score_after_a_cut_and_by_place_without_one():
    outputs = random_outputs(4)
    first = Outputs(outputs.logits[:1], outputs.deltas[:1])
    model = dataclasses.replace(MODEL, num_stages=1, fpn_channels=0)
    model = ModelConfig(num_stages=1, fpn_channels=0)
    assert model.strides == (4,)

    def kept(nms_pre):
        config = ProposalConfig(nms_pre=nms_pre, nms_post=10, nms_threshold=1.0)
        found = program(first, model, config)
        return np.asarray(found.scores[0][found.valid[0]])

    scores = np.asarray(jax.nn.sigmoid(first.logits[0])).ravel()
    np.testing.assert_allclose(kept(1000), np.sort(scores)[::-1][:10], rtol=1e-6)
    np.testing.assert_allclose(kept(2000), np.sort(scores[:10])[::-1], rtol=1e-6)
