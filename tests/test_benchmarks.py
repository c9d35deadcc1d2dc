"""The benchmarks' plain PyTorch network says what jaxdet says, and operations are counted right."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from benchmarks import flops
from benchmarks.setups import on_device, plain_images, plain_model, random_batch, random_params
from benchmarks.timing import HEAP, WARM_UP, compared, paired_medians
from jaxdet.config import Config, ModelConfig, TargetConfig
from jaxdet.detectors.build import build_detector
from jaxdet.detectors.proposals import propose
from jaxdet.detectors.rpn import anchor_grid, apply, build_network
from jaxdet.models.params import split_params
from jaxdet.training.step import loss_and_gradient

torch = pytest.importorskip("torch")
plain_rpn = pytest.importorskip("benchmarks.plain_rpn")

# One worker has them all, so that each network is set up once.
pytestmark = pytest.mark.xdist_group("benchmarks")

SIZE = (96, 128)
MODELS = {
    "fpn": ModelConfig(stem_channels=8, fpn_channels=16, head_channels=16, frozen_stages=3),
    "groups": ModelConfig(
        stem_channels=16,
        fpn_channels=16,
        head_channels=16,
        groups=8,
        base_width=8,
    ),
    "c4": ModelConfig(
        stem_channels=8,
        fpn_channels=0,
        num_stages=3,
        head_channels=16,
        anchor_scales=(2.0, 4.0),
        frozen_stages=2,
        style="caffe",
        channel_order="bgr",
        train_norm=False,
    ),
}


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("groups", "c4")]


@pytest.fixture(scope="module", params=["fpn", *SLOW])
def setup(request):
    """Config, parameters, both networks' outputs on the same two images."""
    # Every anchor takes part in the loss, so that there is nothing to draw.
    config = Config(model=MODELS[request.param], targets=TargetConfig(num_samples=0))
    params, batch = random_params(config), random_batch(SIZE, 2, boxes=4)
    model, images = plain_model(config, params), plain_images(batch.image, config)
    return config, params, batch, model, images


@pytest.fixture(scope="module")
def ours(setup):
    """The network's outputs, compiled once for the tests of a network."""
    config, params, batch, _, _ = setup
    placed = on_device(batch)
    network = build_network(config.model, config.train)
    return jax.jit(lambda params: apply(network, params, placed.images))(params)


def sizes_of(batch):
    return [(int(height), int(width)) for height, width in batch.image_size]


@pytest.mark.slow
def test_same_outputs(setup, ours):
    _, _, _, model, images = setup
    with torch.inference_mode():
        theirs = model(images)
    for mine, other in zip(ours, theirs, strict=True):
        for a, b in zip(mine, other, strict=True):
            np.testing.assert_allclose(
                np.asarray(a).reshape(b.shape), b, atol=2e-5 * float(b.std()), rtol=2e-5
            )


@pytest.mark.slow
def test_same_proposals_from_the_same_outputs(setup, ours):
    """From each network's own outputs near-ties would be resolved differently."""
    config, _, batch, _, _ = setup
    placed = on_device(batch)
    logits = [torch.tensor(np.asarray(x)).flatten(1) for x in ours.logits]
    deltas = [torch.tensor(np.asarray(x)).reshape(2, -1, 4) for x in ours.deltas]
    anchors = plain_rpn.anchors_of(SIZE, config.model, "cpu")
    # The C++ of the benchmark takes half a minute to compile; NumPy knows the same rule.
    find = plain_rpn.Proposer(config.proposals, nms=sequential)
    mine = jax.jit(lambda *args: propose(*args, anchor_grid(config.model), config.proposals))(
        ours, placed.images
    )
    found = find((logits, deltas), anchors, sizes_of(batch))
    for i, (boxes, scores) in enumerate(found):
        valid = np.asarray(mine.valid[i])
        assert valid.sum() == len(boxes) > 50
        np.testing.assert_allclose(mine.scores[i][valid], scores, atol=1e-6)
        # Equal scores may come in another order: every box is among the others'.
        apart = np.abs(np.asarray(mine.boxes[i][valid])[:, None] - boxes.numpy()).max(axis=2)
        assert apart.min(axis=0).max() < 1e-3
        assert apart.min(axis=1).max() < 1e-3


def sequential(boxes):
    keep = []
    corners = boxes.numpy()
    for i, box in enumerate(corners):
        kept = corners[keep]
        low, high = np.maximum(kept[:, :2], box[:2]), np.minimum(kept[:, 2:], box[2:])
        shared = np.maximum(high - low + 1, 0).prod(axis=1)
        areas = (kept[:, 2:] - kept[:, :2] + 1).prod(axis=1) + (box[2:] - box[:2] + 1).prod()
        if not (shared / (areas - shared) > 0.7).any():
            keep.append(i)
    return torch.tensor(keep)


@pytest.mark.slow
def test_same_loss_and_gradient(setup):
    config, params, batch, model, images = setup
    detector = build_detector(config)
    trainable, frozen = split_params(params, detector.trainable)
    losses, gradient = jax.jit(lambda *args: loss_and_gradient(detector, config.train, *args))(
        trainable, frozen, on_device(batch)
    )
    anchors = plain_rpn.anchors_of(SIZE, config.model, "cpu")
    boxes = [torch.from_numpy(x) for x in batch.boxes]
    loss = plain_rpn.loss(model(images), anchors, boxes, sizes_of(batch), config)
    np.testing.assert_allclose(float(losses["loss"]), loss.item(), rtol=1e-5)
    model.zero_grad()
    loss.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    norm = torch.stack([p.grad.norm() for p in trained]).norm().item()
    ours = jax.tree.leaves(gradient)
    assert len(ours) == len(trained)
    assert sum(x.size for x in ours) == sum(p.numel() for p in trained)
    total = float(jnp.sqrt(sum(jnp.vdot(x, x) for x in ours)))
    np.testing.assert_allclose(total, norm, rtol=1e-4)


@pytest.mark.slow
def test_samples_are_drawn(setup):
    """At most half are positive, and no more than asked for."""
    config, _, batch, _, _ = setup
    config = replace(config, targets=TargetConfig(num_samples=16))
    anchors = torch.cat(plain_rpn.anchors_of(SIZE, config.model, "cpu"))
    boxes = torch.from_numpy(batch.boxes[0])
    positive, negative, deltas = plain_rpn.targets(anchors, boxes, SIZE, config)
    assert 0 < len(positive) <= 8
    assert len(positive) + len(negative) == 16
    assert len(deltas) == len(positive)


@pytest.mark.slow
def test_operations_equal_those_of_pytorch(setup):
    """PyTorch's own counter, on the same network; it knows what has no gradient."""
    from torch.utils.flop_counter import FlopCounterMode

    config, _, _, model, images = setup
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model(images)
    count = len(images)
    assert forward.get_total_flops() == count * flops.forward_operations(config.model, SIZE)
    if config.model.groups > 1:
        return  # PyTorch's formula for a kernel's gradient leaves groups out
    with FlopCounterMode(display=False) as both:
        logits, deltas = model(images)
        (sum(x.sum() for x in logits) + sum(x.sum() for x in deltas)).backward()
    assert both.get_total_flops() == count * flops.step_operations(config.model, SIZE)


def test_operations_next_to_xla():
    """XLA's count of a direct convolution is ours, but for sums over the zeros around it."""
    x, kernel = jnp.ones((1, 64, 64, 16)), jnp.ones((3, 3, 16, 8))
    direct = jax.jit(
        lambda x, k: lax.conv_general_dilated(
            x, k, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    )
    counted = flops.xla_operations(direct.lower(x, kernel).compile())
    np.testing.assert_allclose(counted, flops._operations((64, 64), 3, 16, 8), rtol=0.03)


def test_the_docs_name_the_heap_of_the_benchmarks():
    page = Path(__file__).parents[1] / "docs" / "training.md"
    assert f"export GLIBC_TUNABLES={HEAP}\n" in page.read_text()


def test_medians_are_of_interleaved_runs():
    order = []
    seconds = paired_medians({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order[-4:] == ["a", "b", "b", "a"]
    assert order[:-4] == ["a", "b"] * WARM_UP
    assert set(seconds) == {"a", "b"}
    assert compared({"torch": 3.0, "jaxdet": 2.0})["ratio"] == 1.5
    assert "ratio" not in compared({"jaxdet": 2.0})
