"""Losses of single boxes and scores, and their gradients, against the systems' own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet.ops.boxes import CONVENTIONS
from jaxdet.ops.losses import focal_loss, giou_loss, smooth_l1

# A sigmoid and a logarithm of float32, each within some units in the last place.
CLOSE = {"rtol": 1e-5, "atol": 1e-7}


def value_and_gradient(function, x):
    loss, pull = jax.vjp(function, jnp.asarray(x))
    return loss, pull(jnp.ones_like(loss))[0]


def test_focal_loss_is_the_2018_toolboxs(golden):
    ops = golden("detector_loss_ops")
    right = ops["focal_targets"][:, None] == np.arange(1, 81)
    weight, count = ops["focal_weights"][:, None], ops["focal_avg_factor"]
    loss, gradient = value_and_gradient(
        lambda x: focal_loss(x, jnp.asarray(right)), ops["focal_logits"].astype(np.float32)
    )
    np.testing.assert_allclose((weight * loss).sum() / count, ops["focal_total"], rtol=1e-6)
    np.testing.assert_allclose(loss[:12], ops["focal_elements"], **CLOSE)
    np.testing.assert_allclose((weight * gradient / count)[:12], ops["focal_grad"], **CLOSE)


def test_focal_loss_is_torchvisions(golden):
    ops = golden("detector_ops_torchvision")
    right = jnp.asarray(ops["focal_targets"] > 0)
    found = value_and_gradient(lambda x: focal_loss(x, right), ops["focal_logits"])
    for x, name in zip(found, ("focal_loss", "focal_grad"), strict=True):
        np.testing.assert_allclose(x, ops[name], **CLOSE)


def test_giou_loss_is_torchvisions(golden):
    ops, convention = golden("detector_ops_torchvision"), CONVENTIONS["torchvision"]
    truth = jnp.asarray(ops["giou_b"])
    found = value_and_gradient(lambda x: giou_loss(x, truth, convention), ops["giou_a"])
    for x, name in zip(found, ("giou_loss", "giou_grad"), strict=True):
        np.testing.assert_allclose(x, ops[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("beta", "name"), [(1.0, "1"), (0.11, "011"), (1 / 9, "ninth")])
def test_smooth_l1_is_the_2018_toolboxs(golden, beta, name):
    ops = golden("detector_loss_ops")
    share = ops["smooth_l1_weight"] / ops["smooth_l1_avg_factor"]
    loss, gradient = value_and_gradient(
        lambda x: smooth_l1(x - ops["smooth_l1_target"], beta), ops["smooth_l1_pred"]
    )
    np.testing.assert_allclose((share * loss).sum(), ops[f"smooth_l1_beta_{name}"], rtol=1e-6)
    np.testing.assert_allclose(share * gradient, ops[f"smooth_l1_beta_{name}_grad"], **CLOSE)
