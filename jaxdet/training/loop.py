"""Training from the first step to the last evaluation, resumable at any checkpoint."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdet.checkpoint import Checkpoints, read_backbone, read_params, save_best
from jaxdet.config import Config
from jaxdet.console import ProgressLine
from jaxdet.data.dataset import Dataset
from jaxdet.data.load import load_dataset
from jaxdet.data.loader import Loader
from jaxdet.data.pipeline import train_batches
from jaxdet.detectors.build import build_detector
from jaxdet.distributed import (
    StopSignal,
    data_mesh,
    gather,
    is_first_host,
    of_all_hosts,
    print_once,
    replicate,
    split,
)
from jaxdet.environment import peak_memory
from jaxdet.errors import InputError
from jaxdet.inference import results
from jaxdet.inference.evaluate import evaluate
from jaxdet.inference.predictor import Predictor, make_predictor
from jaxdet.inference.report import write_report
from jaxdet.models.params import split_params
from jaxdet.programs import Programs
from jaxdet.training import optimizer as optim
from jaxdet.training.metric_writer import Logbook
from jaxdet.training.plan import Plan, describe, make_plan
from jaxdet.training.step import Metrics, TrainState, init_state, make_train_step
from jaxdet.types import Detector, Params


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step and why."""


class Stopped(TrainingError):
    """SIGTERM came; the state is saved."""


class Step(NamedTuple):
    """A step whose result has not been looked at."""

    number: int  # updates made with it
    metrics: Metrics
    images: np.ndarray  # their positions in the data set


class Window:
    """What happened since the last logged line."""

    def __init__(self, step: Programs) -> None:
        """Starts the clock; what `step` spends on compiling is not counted."""
        self.metrics: list[dict[str, float]] = []
        self.waited = 0.0  # seconds, for the loader
        self._step, self._compiled = step, step.seconds
        self._start = time.perf_counter()

    def summary(self) -> dict[str, float]:
        """Returns means, seconds per step, and the share of them spent waiting for the loader."""
        count = len(self.metrics)
        seconds = time.perf_counter() - self._start - (self._step.seconds - self._compiled)
        means = {k: sum(m[k] for m in self.metrics) / count for k in self.metrics[0]}
        share = min(self.waited / seconds, 1.0)
        return {**means, "seconds_per_step": seconds / count, "wait_share": share}


class Run(NamedTuple):
    """What a run is made of; nothing here changes."""

    config: Config
    plan: Plan
    mesh: Mesh
    training: Dataset
    validation: Dataset
    workdir: Path
    step: Programs  # of `step.make_train_step`
    predictor: Predictor
    checkpoints: Checkpoints
    logbook: Logbook


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
    training, validation = (load_dataset(config, split) for split in ("train", "val"))
    plan = make_plan(config, training, mesh.size)
    detector = build_detector(config)
    optimizer = optim.make_optimizer(config.optimizer, plan.learning_rate)
    step = Programs(make_train_step(detector, config.train, optimizer, mesh), report=print_once)
    with Checkpoints(workdir, config.train.keep_checkpoints) as checkpoints:
        params = first_params(config, detector, checkpoint)
        state = replicate(init_state(detector, params, optimizer), mesh)
        state = resume(state, checkpoints, detector, plan, workdir)
        start = int(state.step)
        print_once(describe(config, plan, mesh.size))
        predictor = make_predictor(config, detector, state.params, mesh)
        data = training, validation, workdir
        with Logbook(workdir, start, write=is_first_host()) as logbook:
            run = Run(config, plan, mesh, *data, step, predictor, checkpoints, logbook)
            result = run_steps(run, state)
    write_report(workdir, config, trained=start < plan.total_steps)
    return result


def run_steps(run: Run, state: TrainState) -> dict[str, Any]:
    """Steps from `state` to the end of the plan; returns the last evaluation."""
    plan, start = run.plan, int(state.step)
    result: dict[str, Any] = {}
    if plan.evaluation_due(start) and not run.logbook.evaluated(start):
        result = run_evaluation(run, state)
    if start == plan.total_steps:
        return result or run_evaluation(run, state)
    skipped, pending, window = 0, None, Window(run.step)
    with load_batches(run, start) as loader, StopSignal() as stop:
        for number in range(start + 1, plan.total_steps + 1):
            begun = time.perf_counter()
            element = next(loader)
            window.waited += time.perf_counter() - begun
            skipped += len(element.skipped)
            state, metrics = run.step(state, split(element.batch, run.mesh))
            # Results are read one step late, so that the device never waits for the host.
            if pending is not None:
                window.metrics.append(read_metrics(run, pending))
            pending = Step(number, metrics, element.batch.index)
            stopping = stop.asked(number)
            if not (stopping or plan.logging_due(number)):
                continue
            window.metrics.append(read_metrics(run, pending))
            log(run, number, window.summary(), skipped)
            pending, window = None, Window(run.step)
            if stopping or plan.saving_due(number):
                facts = {"config": run.config.name, "global_batch": plan.global_batch}
                meta = {"step": number, **facts}
                run.checkpoints.save(number, state.params, state.opt_state, meta)
            if stopping:
                run.checkpoints.wait()
                raise Stopped(f"SIGTERM: saved step {number}; the same command goes on from there")
            if plan.evaluation_due(number):
                result = run_evaluation(run, state)
                window = Window(run.step)
    return result


def load_batches(run: Run, start: int) -> Loader:
    """Returns this host's part of the batches from step `start` on."""
    return train_batches(
        run.training,
        run.config.data,
        global_batch=run.plan.global_batch,
        seed=run.config.train.seed,
        start_step=start,
        num_steps=run.plan.total_steps,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def read_metrics(run: Run, step: Step) -> dict[str, float]:
    """Waits for a step to end and returns its metrics.

    Raises:
        TrainingError: one is not finite.
    """
    # A compiled program gives a dict back in the order of its keys; the losses come first here.
    names = sorted(step.metrics, key=lambda name: not name.startswith("loss"))
    values = {name: float(step.metrics[name]) for name in names}
    if not np.isfinite(list(values.values())).all():
        terms = ", ".join(f"{k} {v:g}" for k, v in values.items())
        (index,) = gather((split(step.images, run.mesh),))
        ids = ", ".join(str(run.training.image_ids[i]) for i in index)
        raise TrainingError(
            f"step {step.number}: not finite: {terms}; image ids {ids}; "
            f"the last good checkpoint is of step {run.checkpoints.latest_step()}"
        )
    return values


def log(run: Run, number: int, summary: dict[str, float], skipped: int) -> None:
    """Writes and prints the line of a window that ends with step `number`."""
    plan = run.plan
    rate = float(plan.learning_rate(number - 1))
    images = plan.global_batch / summary["seconds_per_step"]
    epoch = (number - 1) // plan.steps_per_epoch + 1
    row = {"epoch": epoch, **summary, "learning_rate": rate, "images_per_second": images}
    if (memory := peak_memory()[0]) is not None:
        row["memory_gb"] = memory
    # Unreadable images since these processes began.
    if skipped := sum(of_all_hosts(skipped)):
        row["skipped_images"] = skipped
    run.logbook.scalars(number, row)
    epochs = -(-plan.total_steps // plan.steps_per_epoch)
    line = ProgressLine(plan.total_steps, epochs).format(
        step=number,
        epoch=epoch,
        losses={k: v for k, v in summary.items() if k.startswith("loss")},
        learning_rate=rate,
        seconds_per_step=summary["seconds_per_step"],
        images_per_second=images,
        wait_share=summary["wait_share"],
    )
    print_once(line)


def run_evaluation(run: Run, state: TrainState) -> dict[str, Any]:
    """Evaluates the state's parameters, keeps them if they are the best, and writes the result."""
    number, params = int(state.step), state.params
    figures, predictions = evaluate(run.predictor.with_params(params), run.validation)
    result = {"step": number, **figures}
    save_best(run.workdir, number, params, result["AR@1000"] or 0.0)
    image = results.write_evaluation(run.workdir, result, run.validation, predictions)
    if not run.logbook.evaluated(number):  # as when a run that ended is started again
        run.logbook.image(number, "proposals", image)
        run.logbook.evaluation(number, result)
    return result


def first_params(config: Config, detector: Detector, checkpoint: str) -> Params:
    """Returns fresh parameters, or those of a checkpoint, or those with a pretrained backbone."""
    # Of jax's generators this one compiles in a third of the time.
    params = jax.jit(detector.init)(jax.random.key(config.train.seed, impl="rbg"))
    if checkpoint:
        return read_params(checkpoint, params, config.model.convention)
    if config.model.pretrained:
        return {**params, "backbone": read_backbone(config.model.pretrained, params["backbone"])}
    return params


def resume(
    state: TrainState, checkpoints: Checkpoints, detector: Detector, plan: Plan, workdir: Path
) -> TrainState:
    """Returns the newest saved state, placed as `state` is, or `state` if none is saved.

    Raises:
        InputError: it was made with other steps, on fewer devices perhaps; the line says how to
            come to the same number of images in a step.
    """
    saved = checkpoints.restore_newest(state.params, state.opt_state)
    if saved is None:
        return state
    before = saved.meta.get("global_batch", plan.global_batch)  # a converted checkpoint has none
    if before != plan.global_batch:
        raise InputError(
            f"{workdir}: trained with {before} images a step, and this would be "
            f"{plan.global_batch}; set --config.train.accumulation so that devices x images per "
            f"device x accumulation is {before}, or choose another --workdir"
        )
    print_once(f"going on from step {saved.step} of {workdir}")
    step = jax.device_put(np.int32(saved.step), state.step.sharding)
    return TrainState(step, *split_params(saved.params, detector.trainable), saved.opt_state)
