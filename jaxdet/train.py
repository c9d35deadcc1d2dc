"""Training from the first step to the last evaluation, resumable at any checkpoint."""

import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxdet import optim, report
from jaxdet.checkpoint import Checkpoints, read_backbone, read_params
from jaxdet.config import Config
from jaxdet.data.dataset import Dataset
from jaxdet.data.load import load_dataset
from jaxdet.data.pipeline import Loader, train_batches
from jaxdet.data.schedule import Schedule
from jaxdet.devices import data_mesh, gather, is_first_host, replicate, split
from jaxdet.evaluate import evaluate
from jaxdet.logbook import Logbook, ProgressLine
from jaxdet.models.build import RPN, build_model, init_params, merge_params, split_params
from jaxdet.proposer import Proposer
from jaxdet.train_step import Metrics, TrainState, TrainStep, make_train_step

LOSSES = ("loss", "loss_cls", "loss_bbox")


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step and why."""


class Stopped(TrainingError):
    """SIGTERM came; the state is saved."""


class Plan(NamedTuple):
    """How long, how many and how fast."""

    global_batch: int
    steps_per_epoch: int
    total_steps: int
    learning_rate: optax.Schedule


def make_plan(config: Config, dataset: Dataset, num_devices: int) -> Plan:
    """Turns epochs of a data set into steps."""
    batch = config.data.images_per_device * num_devices
    per_epoch = Schedule(
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
        workdir: prepared by `report.claim_workdir`.
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
        state = first_state(config, model, optimizer, checkpoint)
        step = checkpoints.latest_step()
        if step is not None:
            report.say(f"going on from step {step} of {workdir}")
            state = checkpoints.restore(step, state, config.model)
        with Logbook(workdir, int(state.step), write=is_first_host()) as logbook:
            loop = Loop(
                config=config,
                plan=plan,
                mesh=mesh,
                training=training,
                validation=validation,
                step=make_train_step(model, config, optimizer, mesh),
                checkpoints=checkpoints,
                logbook=logbook,
                workdir=workdir,
            )
            return loop.run(replicate(state, mesh))


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


class Step(NamedTuple):
    """A step whose result has not been looked at."""

    number: int  # updates made with it
    metrics: Metrics
    pictures: np.ndarray  # their places in the data set


@dataclass
class Window:
    """What happened since the last logged line."""

    metrics: list[dict[str, float]] = field(default_factory=list)
    waited: float = 0.0
    start: float = field(default_factory=time.perf_counter)

    def summary(self) -> dict[str, float]:
        """Means, seconds per step, and the share of the time spent waiting for the loader."""
        count = len(self.metrics)
        seconds = time.perf_counter() - self.start
        means = {k: sum(m[k] for m in self.metrics) / count for k in self.metrics[0]}
        share = min(self.waited / seconds, 1.0)
        return {**means, "seconds_per_step": seconds / count, "wait_share": share}


@dataclass
class Loop:
    """The loop and what it writes to."""

    config: Config
    plan: Plan
    mesh: Mesh
    training: Dataset
    validation: Dataset
    step: TrainStep
    checkpoints: Checkpoints
    logbook: Logbook
    workdir: Path

    def __post_init__(self) -> None:
        self.proposer: Proposer | None = None
        self.result: dict[str, Any] = {}
        self.window = Window()
        self.terminated = False

    def run(self, state: TrainState) -> dict[str, Any]:
        """Steps to the end; returns the last evaluation."""
        signal.signal(signal.SIGTERM, self._on_sigterm)
        start = int(state.step)
        if self._evaluation_due(start) and not self.logbook.evaluated(start):
            self._evaluate(state)
        if start < self.plan.total_steps:
            with self._batches(start) as batches:
                state = self._steps(state, start, batches)
        if not self.result:
            self._evaluate(state)
        return self.result

    def _steps(self, state: TrainState, start: int, batches: Loader) -> TrainState:
        report.say(f"compiling; {self.plan.total_steps - start} steps to go")
        pending: Step | None = None
        for number in range(start + 1, self.plan.total_steps + 1):
            asked = time.perf_counter()
            batch = next(batches)
            self.window.waited += time.perf_counter() - asked
            state, metrics = self.step(state, split(batch, self.mesh))
            # Results are read one step late, so that the device never waits for the host.
            if pending is not None:
                self._settle(pending)
            pending = Step(number, metrics, batch.index)
            if number == start + 1:
                jax.block_until_ready(metrics)
                self.window = Window()  # without the time that compiling took
            if self._anything_due(number):
                self._settle(pending)
                pending = None
                self._report(state, number, batches.skipped)
        return state

    def _batches(self, start: int) -> Loader:
        data = self.config.data
        return train_batches(
            self.training,
            image_scale=data.image_scale,
            global_batch=self.plan.global_batch,
            seed=self.config.train.seed,
            num_workers=data.num_workers,
            start_step=start,
            num_steps=self.plan.total_steps,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            flip=data.flip,
            keep_empty=data.keep_empty,
        )

    def _anything_due(self, number: int) -> bool:
        train = self.config.train
        return (
            number % train.log_every == 0
            or number % train.checkpoint_every == 0
            or self._evaluation_due(number)
            or self.terminated
        )

    def _evaluation_due(self, number: int) -> bool:
        every = self.config.train.eval_every * self.plan.steps_per_epoch
        return number == self.plan.total_steps or (number > 0 and number % every == 0)

    def _settle(self, step: Step) -> None:
        """Reads a step's result; stops the run if it is not finite."""
        values = step.metrics.numbers()
        if not np.isfinite(list(values.values())).all():
            terms = ", ".join(f"{k} {v:g}" for k, v in values.items())
            (index,) = gather((split(step.pictures, self.mesh),))
            ids = ", ".join(str(self.training.image_ids[i]) for i in index)
            last = self.checkpoints.latest_step()
            raise TrainingError(
                f"step {step.number}: not finite: {terms}; image ids {ids}; "
                f"the last good checkpoint is of step {last}"
            )
        self.window.metrics.append(values)

    def _report(self, state: TrainState, number: int, skipped: int) -> None:
        """Whatever is due after a step: a line, a checkpoint, an evaluation, the end."""
        train = self.config.train
        last = number == self.plan.total_steps
        if number % train.log_every == 0 or last:
            self._log(number, skipped)
        due = self._evaluation_due(number)
        if number % train.checkpoint_every == 0 or due or self.terminated:
            self.checkpoints.save(state, {"step": number, "config": self.config.name})
        if self.terminated:
            self.checkpoints.wait()
            raise Stopped(f"SIGTERM: saved step {number}; the same command goes on from there")
        if due:
            self._evaluate(state)
            self.window = Window()

    def _log(self, number: int, skipped: int) -> None:
        summary = self.window.summary()
        self.window = Window()
        rate = float(self.plan.learning_rate(number - 1))
        images = self.plan.global_batch / summary["seconds_per_step"]
        epoch = (number - 1) // self.plan.steps_per_epoch + 1
        row = {"epoch": epoch, **summary, "learning_rate": rate, "images_per_second": images}
        if skipped:  # unreadable pictures since this process began
            row["skipped_images"] = skipped
        self.logbook.scalars(number, row)
        epochs = -(-self.plan.total_steps // self.plan.steps_per_epoch)
        line = ProgressLine(self.plan.total_steps, epochs).format(
            step=number,
            epoch=epoch,
            losses={k: summary[k] for k in LOSSES},
            learning_rate=rate,
            seconds_per_step=summary["seconds_per_step"],
            images_per_second=images,
            wait_share=summary["wait_share"],
        )
        report.say(line)

    def _evaluate(self, state: TrainState) -> None:
        number = int(state.step)
        params = merge_params(state.trainable, state.frozen)
        if self.proposer is None:
            self.proposer = Proposer(self.config, params, self.mesh)
        self.proposer.params = params
        result, proposals = evaluate(self.proposer, self.validation, self.config)
        self.result = {"step": number, **result}
        self.logbook.evaluation(number, self.result)
        picture = report.write_evaluation(self.workdir, self.result, self.validation, proposals)
        self.logbook.image(number, "proposals", picture)

    def _on_sigterm(self, *_: Any) -> None:
        self.terminated = True
