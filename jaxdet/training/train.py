"""Training from the first step to the last evaluation, resumable at any checkpoint."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdet.checkpoint import read_backbone, read_params
from jaxdet.config import Config
from jaxdet.data.dataset import Dataset
from jaxdet.data.load import load_dataset
from jaxdet.data.sampler import Sampler
from jaxdet.detectors.network import RPN, build_model, init_params, split_params
from jaxdet.devices import data_mesh, replicate
from jaxdet.errors import InputError
from jaxdet.hosts import is_first_host, say
from jaxdet.inference.html.report import write_report
from jaxdet.saving import BestCheckpoint, Checkpoints
from jaxdet.training import optimizer as optim
from jaxdet.training.loop import Loop, Plan
from jaxdet.training.metric_writer import Logbook
from jaxdet.training.step import TrainState, make_train_step


def make_plan(config: Config, dataset: Dataset, num_devices: int) -> Plan:
    """Turns epochs of a data set into steps."""
    batch = optim.global_batch(config, num_devices)
    per_epoch = Sampler(
        dataset,
        image_scale=config.data.image_scale,
        global_batch=batch,
        seed=config.train.seed,
        keep_empty=config.data.keep_empty,
    ).steps_per_epoch
    total = config.train.num_steps or config.train.num_epochs * per_epoch
    return Plan(batch, per_epoch, total, optim.learning_rate(config.optimizer, per_epoch, batch))


def train(config: Config, workdir: Path, checkpoint: str = "") -> dict[str, Any]:
    """Trains, or goes on where `workdir` stopped, and returns the last evaluation.

    Args:
        config: the run.
        workdir: claimed by `workdir.claim_workdir`.
        checkpoint: parameters to start from instead of `config.model.pretrained`.

    Raises:
        InputError: data, checkpoint or work directory cannot be used.
        TrainingError: a loss or gradient is not finite, or SIGTERM came.
    """
    mesh = data_mesh()
    training, validation = (load_dataset(config.data, split) for split in ("train", "val"))
    plan = make_plan(config, training, mesh.size)
    model = build_model(config.model, config.train.precision, config.train.remat)
    optimizer = optim.make_optimizer(config.optimizer, plan.learning_rate)
    with Checkpoints(workdir, config.train.keep_checkpoints) as checkpoints:
        state = replicate(first_state(config, model, optimizer, checkpoint), mesh)
        saved = checkpoints.restore_newest(state, config.model)
        if saved is not None:
            state, meta = saved
            require_same_batch(meta, plan, workdir)
            say(f"going on from step {int(state.step)} of {workdir}")
        say(describe(config, plan, mesh.size))
        start = int(state.step)
        with Logbook(workdir, start, write=is_first_host()) as logbook:
            loop = Loop(
                config=config,
                plan=plan,
                mesh=mesh,
                training=training,
                validation=validation,
                step=make_train_step(model, config, optimizer, mesh),
                checkpoints=checkpoints,
                best=BestCheckpoint(workdir),
                logbook=logbook,
                workdir=workdir,
            )
            result = loop.run(state)
    write_report(workdir, config, trained=start < plan.total_steps)
    return result


def require_same_batch(meta: dict[str, Any], plan: Plan, workdir: Path) -> None:
    """Refuses to go on with other steps than those that were made, on fewer devices perhaps.

    Raises:
        InputError: says how to come to the same number of images in a step.
    """
    before = meta.get("global_batch", plan.global_batch)  # a converted checkpoint has none
    if before != plan.global_batch:
        raise InputError(
            f"{workdir}: trained with {before} images a step, and this would be "
            f"{plan.global_batch}; set --config.train.accumulation so that devices x images per "
            f"device x accumulation is {before}, or choose another --workdir"
        )


def describe(config: Config, plan: Plan, num_devices: int) -> str:
    """The plan in a line: who does how much, and the learning rate that comes of it."""
    optimizer, groups = config.optimizer, config.train.accumulation
    times = f" x {groups} in turn" if groups > 1 else ""
    rate = optim.base_rate(optimizer, plan.global_batch)
    scaled = f" ({optimizer.learning_rate:g} for {optim.REFERENCE_BATCH})"
    return (
        f"{num_devices} device{'s' if num_devices > 1 else ''} x {config.data.images_per_device}"
        f" images{times} = {plan.global_batch} a step; {plan.steps_per_epoch} steps an epoch, "
        f"{plan.total_steps} in all; learning rate {rate:g}{scaled if optimizer.scale_lr else ''}"
    )


def first_state(
    config: Config, model: RPN, optimizer: optax.GradientTransformation, checkpoint: str
) -> TrainState:
    """Step 0: fresh parameters, or those of a checkpoint, or those with a pretrained backbone."""
    # Of jax's generators this one compiles in a third of the time.
    params = init_params(model, jax.random.key(config.train.seed, impl="rbg"))
    if checkpoint:
        params = read_params(checkpoint, params)
    elif config.model.pretrained:
        params = {**params, "backbone": read_backbone(config.model.pretrained, params["backbone"])}
    trainable, frozen = split_params(params, config.model)
    return TrainState(jnp.int32(0), trainable, frozen, optimizer.init(trainable))
