"""One step of training, the same program on one device and on many."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxdet.config import Config
from jaxdet.devices import AXIS, REPLICATED, SPLIT
from jaxdet.losses import rpn_losses
from jaxdet.models.build import RPN, Params, apply_model, merge_params
from jaxdet.targets import make_targets
from jaxdet.types import Batch


class TrainState(NamedTuple):
    """Everything that a step changes, and the parameters that it does not."""

    step: jax.Array  # int32 [], steps taken
    trainable: Params
    frozen: Params
    optimizer: Any


class Losses(NamedTuple):
    """Float32 scalars of one device's images, or their means over devices."""

    loss: jax.Array
    loss_cls: jax.Array
    loss_bbox: jax.Array
    num_positive: jax.Array  # sampled anchors per image


class Metrics(NamedTuple):
    """What a step reports."""

    losses: Losses
    grad_norm: jax.Array  # of the averaged gradient, before clipping
    param_norm: jax.Array  # of what trains, after the update

    def numbers(self) -> dict[str, float]:
        """All of them by name, on the host; waits for the step to end."""
        norms = {"grad_norm": self.grad_norm, "param_norm": self.param_norm}
        return {k: float(v) for k, v in {**self.losses._asdict(), **norms}.items()}


TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def loss_and_gradient(
    model: RPN, config: Config, trainable: Params, frozen: Params, batch: Batch
) -> tuple[Losses, Params]:
    """Losses of one device's images and their gradient, shaped as `trainable` is."""
    targets = make_targets(batch, config.model, config.targets)

    def loss_of(trainable: Params) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        params = merge_params(trainable, frozen)
        outputs = apply_model(model, params, batch.image, batch.image_size, batch.pad_size)
        levels_cls, levels_bbox = rpn_losses(outputs, targets, config.targets.smooth_l1_beta)
        cls, bbox = levels_cls.sum(), levels_bbox.sum()
        return cls + bbox, (cls, bbox)

    with jax.default_matmul_precision(config.train.matmul_precision):
        (loss, (cls, bbox)), gradient = jax.value_and_grad(loss_of, has_aux=True)(trainable)
    positives = targets.positive.sum(axis=1).astype(jnp.float32).mean()
    return Losses(loss, cls, bbox, positives), gradient


def make_train_step(
    model: RPN, config: Config, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainStep:
    """Compiles once per bucket.  The batch is split over the mesh; the state is on every device.

    Every device normalises its own losses, then gradients are averaged, clipped and applied, as
    in the reference.  The given state's memory is reused.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        losses, gradient = loss_and_gradient(model, config, state.trainable, state.frozen, batch)
        losses, gradient = jax.lax.pmean((losses, gradient), AXIS)
        updates, slots = optimizer.update(gradient, state.optimizer, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        metrics = Metrics(losses, optax.tree.norm(gradient), optax.tree.norm(trainable))
        return state._replace(step=state.step + 1, trainable=trainable, optimizer=slots), metrics

    # Replication is by construction (everything but the batch is averaged), which the checker
    # cannot follow through custom derivatives.
    sharded = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(REPLICATED, SPLIT),
        out_specs=(REPLICATED, REPLICATED),
        check_vma=False,
    )
    return jax.jit(sharded, donate_argnums=0)
