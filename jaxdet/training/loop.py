"""The training loop: steps, and what is due between them."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from jaxdet.config import Config
from jaxdet.console import ProgressLine
from jaxdet.data.dataset import Dataset
from jaxdet.data.pipeline import Loader, train_batches
from jaxdet.detectors.network import merge_params
from jaxdet.devices import gather, split
from jaxdet.environment import peak_memory
from jaxdet.hosts import StopSignal, say, sum_over_hosts
from jaxdet.inference import results as report
from jaxdet.inference.evaluate import evaluate
from jaxdet.inference.proposer import Proposer
from jaxdet.saving import BestCheckpoint, Checkpoints
from jaxdet.training.metric_writer import Logbook
from jaxdet.training.step import Metrics, TrainState, TrainStep
from jaxdet.types import Batch

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


class Step(NamedTuple):
    """A step whose result has not been looked at."""

    number: int  # updates made with it
    metrics: Metrics
    images: np.ndarray  # their places in the data set


@dataclass
class Window:
    """What happened since the last logged line."""

    metrics: list[dict[str, float]] = field(default_factory=list)
    waited: float = 0.0  # seconds, for the loader
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
    best: BestCheckpoint
    logbook: Logbook
    workdir: Path

    def __post_init__(self) -> None:
        self.proposer: Proposer | None = None
        self.result: dict[str, Any] = {}
        self.window = Window()
        self.shapes: set[tuple[int, ...]] = set()

    def run(self, state: TrainState) -> dict[str, Any]:
        """Steps to the end; returns the last evaluation."""
        start = int(state.step)
        if self._evaluation_due(start) and not self.logbook.evaluated(start):
            self._evaluate(state)
        if start < self.plan.total_steps:
            with self._batches(start) as batches, StopSignal() as stop:
                state = self._steps(state, start, batches, stop)
        if not self.result:
            self._evaluate(state)
        return self.result

    def _steps(
        self, state: TrainState, start: int, batches: Loader, stop: StopSignal
    ) -> TrainState:
        pending: Step | None = None
        self.window = Window()
        for number in range(start + 1, self.plan.total_steps + 1):
            asked = time.perf_counter()
            batch = next(batches)
            self.window.waited += time.perf_counter() - asked
            state, metrics = self._step(state, batch)
            # Results are read one step late, so that the device never waits for the host.
            if pending is not None:
                self._settle(pending)
            pending = Step(number, metrics, batch.index)
            stopping = stop.asked(number)
            if stopping or self._anything_due(number):
                self._settle(pending)
                pending = None
                self._report(state, number, batches.skipped, stopping)
        return state

    def _step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """One step; the first of each shape compiles, which is not counted as its time."""
        begun = time.perf_counter()
        new = batch.image.shape not in self.shapes
        if new:
            self.shapes.add(batch.image.shape)
            say(f"compiling for images of {batch.image.shape[1]} x {batch.image.shape[2]}")
        state, metrics = self.step(state, split(batch, self.mesh))
        if new:
            self.window.start += time.perf_counter() - begun
        return state, metrics

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
        return number % self.config.train.log_every == 0 or self._saving_due(number)

    def _saving_due(self, number: int) -> bool:
        return number % self.config.train.checkpoint_every == 0 or self._evaluation_due(number)

    def _evaluation_due(self, number: int) -> bool:
        every = self.config.train.eval_every * self.plan.steps_per_epoch
        return number == self.plan.total_steps or (number > 0 and number % every == 0)

    def _settle(self, step: Step) -> None:
        """Reads a step's result; stops the run if it is not finite."""
        values = step.metrics.numbers()
        if not np.isfinite(list(values.values())).all():
            terms = ", ".join(f"{k} {v:g}" for k, v in values.items())
            (index,) = gather((split(step.images, self.mesh),))
            ids = ", ".join(str(self.training.image_ids[i]) for i in index)
            last = self.checkpoints.latest_step()
            raise TrainingError(
                f"step {step.number}: not finite: {terms}; image ids {ids}; "
                f"the last good checkpoint is of step {last}"
            )
        self.window.metrics.append(values)

    def _report(self, state: TrainState, number: int, skipped: int, stopping: bool) -> None:
        """Whatever is due after a step: a line, a checkpoint, the end, an evaluation."""
        # Every checkpoint follows a line, so that a resumed run begins a line of its own.
        self._log(number, skipped)
        if stopping or self._saving_due(number):
            meta = {"config": self.config.name, "global_batch": self.plan.global_batch}
            self.checkpoints.save(state, {"step": number, **meta})
        if stopping:
            self.checkpoints.wait()
            raise Stopped(f"SIGTERM: saved step {number}; the same command goes on from there")
        if self._evaluation_due(number):
            self._evaluate(state)
            self.window = Window()

    def _log(self, number: int, skipped: int) -> None:
        summary = self.window.summary()
        self.window = Window()
        rate = float(self.plan.learning_rate(number - 1))
        images = self.plan.global_batch / summary["seconds_per_step"]
        epoch = (number - 1) // self.plan.steps_per_epoch + 1
        row = {"epoch": epoch, **summary, "learning_rate": rate, "images_per_second": images}
        if (memory := peak_memory()[0]) is not None:
            row["memory_gb"] = memory
        # Unreadable images since these processes began.
        if skipped := sum_over_hosts(skipped):
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
        say(line)

    def _evaluate(self, state: TrainState) -> None:
        number = int(state.step)
        params = merge_params(state.trainable, state.frozen)
        if self.proposer is None:
            self.proposer = Proposer(self.config, params, self.mesh)
        self.proposer.params = params
        result, proposals = evaluate(self.proposer, self.validation, self.config)
        self.result = {"step": number, **result}
        self.best.offer(number, params, result["AR@1000"] or 0.0)
        image = report.write_evaluation(self.workdir, self.result, self.validation, proposals)
        if not self.logbook.evaluated(number):  # as when a run that ended is started again
            self.logbook.image(number, "proposals", image)
            self.logbook.evaluation(number, self.result)
