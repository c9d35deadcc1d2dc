"""One step of training, the same program on one device and on many."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxdet.config import Config
from jaxdet.detectors.losses import rpn_losses
from jaxdet.detectors.network import RPN, Params, apply_model, merge_params
from jaxdet.detectors.targets import make_targets
from jaxdet.devices import AXIS, REPLICATED, SPLIT
from jaxdet.types import Batch


class TrainState(NamedTuple):
    """Everything that a step changes, and the parameters that it does not."""

    step: jax.Array  # int32 [], steps taken
    trainable: Params
    frozen: Params
    opt_state: optax.OptState


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


Tree = TypeVar("Tree")
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


def mean_over_groups(function: Callable[[Batch], Tree], batch: Batch, groups: int) -> Tree:
    """The mean of `function` over equal groups of a batch, one after another."""
    if groups == 1:
        return function(batch)
    parts = jax.tree.map(lambda x: x.reshape(groups, -1, *x.shape[1:]), batch)

    def add(total: Tree, part: Batch) -> tuple[Tree, None]:
        return jax.tree.map(jnp.add, total, function(part)), None

    shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], parts))
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add, nothing, parts)
    return jax.tree.map(lambda x: x / groups, total)


def make_train_step(
    model: RPN, config: Config, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainStep:
    """Compiles once per bucket.  The batch is split over the mesh; the state is on every device.

    Every group of `images_per_device` images normalises its own losses, then gradients are
    averaged, clipped and applied, as in the reference, where a group is what a device has.  With
    `accumulation` a device has several groups, so that a step is the same on any number of
    devices that share the groups.  The given state's memory is reused.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        def of_group(group: Batch) -> tuple[Losses, Params]:
            return loss_and_gradient(model, config, state.trainable, state.frozen, group)

        losses, gradient = mean_over_groups(of_group, batch, config.train.accumulation)
        losses, gradient = jax.lax.pmean((losses, gradient), AXIS)
        updates, slots = optimizer.update(gradient, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        metrics = Metrics(losses, optax.tree.norm(gradient), optax.tree.norm(trainable))
        return state._replace(step=state.step + 1, trainable=trainable, opt_state=slots), metrics

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
