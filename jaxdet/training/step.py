"""One step of training, the same program on one device and on many."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxdet.config import TrainConfig
from jaxdet.distributed import AXIS, REPLICATED, SPLIT
from jaxdet.models.params import merge_params, split_params
from jaxdet.types import Batch, Detector, Params

Tree = TypeVar("Tree")
Metrics = dict[str, jax.Array]  # float32 scalars by name


class TrainState(NamedTuple):
    """Everything that a step changes, and the parameters that it does not."""

    step: jax.Array  # int32 [], steps taken
    trainable: Params
    frozen: Params
    opt_state: optax.OptState

    @property
    def params(self) -> Params:
        """Returns the whole parameter tree."""
        return merge_params(self.trainable, self.frozen)


def init_state(
    detector: Detector, params: Params, optimizer: optax.GradientTransformation
) -> TrainState:
    """Returns step 0 of training `params`."""
    trainable, frozen = split_params(params, detector.trainable)
    return TrainState(jnp.int32(0), trainable, frozen, optimizer.init(trainable))


def loss_and_gradient(
    detector: Detector, config: TrainConfig, trainable: Params, frozen: Params, batch: Batch
) -> tuple[Metrics, Params]:
    """Returns losses of one device's images, and their gradient, shaped as `trainable` is.

    The losses are their sum, `loss`, the detector's named terms and its further numbers.
    """

    def loss_of(trainable: Params) -> tuple[jax.Array, Metrics]:
        terms, numbers = detector.loss(merge_params(trainable, frozen), batch)
        total = sum(terms.values(), jnp.float32(0))
        return total, {"loss": total, **terms, **numbers}

    with jax.default_matmul_precision(config.matmul_precision):
        (_, metrics), gradient = jax.value_and_grad(loss_of, has_aux=True)(trainable)
    return metrics, gradient


def mean_over_groups(function: Callable[[Batch], Tree], batch: Batch, groups: int) -> Tree:
    """Returns the mean of `function` over equal groups of a batch, one after another."""
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
    detector: Detector, config: TrainConfig, optimizer: optax.GradientTransformation, mesh: Mesh
) -> jax.stages.Wrapped:
    """Returns the step, jitted: the batch is split over the mesh, the state is on every device.

    Every group of `images_per_device` images normalises its own losses, then gradients are
    averaged, clipped and applied, as in the reference, where a group is what a device has.  With
    `accumulation` a device has several groups, so that a step is the same on any number of
    devices that share the groups.  The given state's memory is reused.

    The step's metrics are means over devices of `loss_and_gradient`'s, `grad_norm` (of the
    averaged gradient, before clipping) and `param_norm` (of what trains, after the update).
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        of_group = partial(loss_and_gradient, detector, config, state.trainable, state.frozen)
        metrics, gradient = mean_over_groups(of_group, batch, config.accumulation)
        metrics, gradient = jax.lax.pmean((metrics, gradient), AXIS)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        metrics["grad_norm"] = optax.tree.norm(gradient)
        metrics["param_norm"] = optax.tree.norm(trainable)
        return TrainState(state.step + 1, trainable, state.frozen, opt_state), metrics

    # Replication is by construction (everything but the batch is averaged), which the checker
    # cannot follow through custom derivatives.
    sharded = jax.shard_map(
        step, mesh=mesh, in_specs=(REPLICATED, SPLIT), out_specs=REPLICATED, check_vma=False
    )
    return jax.jit(sharded, donate_argnums=0)
