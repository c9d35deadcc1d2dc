"""Training from the first step to the last evaluation, resumable at any checkpoint."""

import signal
import time
import zlib
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

# Its import swaps `builtins.__import__` for a moment, which must not meet orbax's saving threads.
import grain  # noqa: F401
import jax
import numpy as np
from jax.sharding import Mesh

from jaxdet.checkpoint import Checkpoints, save_best
from jaxdet.config import Config
from jaxdet.data.dataset import Dataset
from jaxdet.data.load import has_split
from jaxdet.data.pipeline import train_batches
from jaxdet.detectors.build import build_detector
from jaxdet.distributed import (
    data_mesh,
    gather,
    is_first_host,
    of_all_hosts,
    print_once,
    replicate,
    split,
    stop_signal,
)
from jaxdet.environment import peak_memory
from jaxdet.errors import InputError
from jaxdet.inference import results
from jaxdet.inference.evaluate import evaluate
from jaxdet.inference.given import load_splits
from jaxdet.inference.predictor import Predictor, make_predictor
from jaxdet.inference.report import write_report
from jaxdet.programs import Programs
from jaxdet.training import optimizer as optim
from jaxdet.training.metric_writer import Logbook
from jaxdet.training.plan import Plan, describe, make_plan
from jaxdet.training.start import first_params, resume
from jaxdet.training.step import Metrics, TrainState, init_state, make_train_step


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step and why."""


class Stopped(TrainingError):
    """A signal came; the state is saved.

    Attributes:
        code: what the command ends with.
    """

    def __init__(self, came: int, step: int) -> None:
        name = signal.Signals(came).name
        super().__init__(f"{name}: saved step {step}; the same command goes on from there")
        self.code = 128 + came


class Window:
    """What happened since the last logged line; what `step` spends on compiling is left out."""

    def __init__(self, step: Programs) -> None:
        self.metrics: list[dict[str, float]] = []
        self.waited = 0.0  # seconds, for the loader
        self.start = time.perf_counter() - step.seconds


class Run(NamedTuple):
    """What a run is made of; nothing here changes."""

    config: Config
    plan: Plan
    mesh: Mesh
    training: Dataset
    validation: Dataset | None
    workdir: Path
    step: Programs  # of `step.make_train_step`
    predictor: Predictor
    checkpoints: Checkpoints
    logbook: Logbook


def train(
    config: Config, workdir: Path, checkpoint: str = "", proposals: Sequence[str] = ()
) -> dict[str, Any]:
    """Trains, or goes on where `workdir` stopped, and returns the last evaluation.

    `workdir` is claimed by `claim_workdir`; a checkpoint stands in for `config.model.pretrained`.
    `proposals` are files of the two splits; see `load_splits`.
    Raises `InputError` if data, checkpoint or work directory cannot be used, and `TrainingError` if
    a loss or gradient is not finite, or SIGTERM or SIGINT came.
    """
    mesh = data_mesh()
    splits = ("train", "val") if has_split(config.data, "val") else ("train",)
    training, *rest = load_splits(config, splits, proposals)
    validation = next((dataset for dataset in rest if len(dataset.xywh)), None)
    facts = f"{training.summary} {validation and validation.summary}"
    if len(set(of_all_hosts(zlib.crc32(facts.encode()) & 0x7FFFFFFF))) > 1:
        raise InputError(f"{training.source}: hosts read different data; give all the same files")
    if validation is None:
        what = rest[0].source if rest else "config.data.val_annotations"
        print_once(f"{what}: no annotations to validate with; nothing is measured")
    plan = make_plan(config, training, mesh.size)
    detector = build_detector(config)
    optimizer = optim.make_optimizer(config.optimizer, plan.learning_rate)
    step = Programs(make_train_step(detector, config.train, optimizer, mesh), report=print_once)
    with Checkpoints(workdir, config.train.keep_checkpoints) as checkpoints:
        # What a run began with is not read again, and may be gone.
        goes_on = checkpoints.latest_step() is not None
        if goes_on and checkpoint:
            print_once(f"{workdir}: goes on from its own checkpoints; {checkpoint} is not read")
        first = first_params(config, detector, checkpoint, fresh=goes_on)
        state = init_state(detector, first, optimizer)
        state = replicate(resume(state, checkpoints, detector, plan, workdir, training), mesh)
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
    due = plan.evaluation_due(start) and start not in run.logbook.evaluated
    if due or start == plan.total_steps:
        result = run_evaluation(run, state)
    loader = train_batches(
        run.training,
        run.config.data,
        global_batch=plan.global_batch,
        seed=run.config.train.seed,
        start_step=start,
        num_steps=plan.total_steps,
        host=(jax.process_index(), jax.process_count()),
    )
    skipped, pending, window = 0, list[tuple[int, Metrics, np.ndarray]](), Window(run.step)
    with loader as batches, stop_signal() as stop:
        for number in range(start + 1, plan.total_steps + 1):
            begun = time.perf_counter()
            element = next(batches)
            window.waited += time.perf_counter() - begun
            skipped += len(element.skipped)
            state, metrics = run.step(state, split(element.batch, run.mesh))
            pending.append((number, metrics, element.batch.index))
            stopping = stop(number)
            due = stopping > 0 or plan.logging_due(number)
            # Results are read one step late, so that the device never waits for the host.
            while len(pending) > (0 if due else 1):
                window.metrics.append(read_metrics(run, *pending.pop(0)))
            if not due:
                continue
            log(run, number, window, skipped)
            window = Window(run.step)
            if stopping or plan.saving_due(number):
                facts = {"config": run.config.name, "data": run.training.summary}
                meta = {"step": number, "global_batch": plan.global_batch, **facts}
                run.checkpoints.save(number, state.params, state.opt_state, meta)
            if stopping:
                run.checkpoints.wait()
                raise Stopped(stopping, number)
            if plan.evaluation_due(number):

                def check(number: int = number) -> None:
                    # Several hosts agree on a step only.
                    if jax.process_count() == 1 and (came := stop(number)):
                        run.checkpoints.wait()
                        raise Stopped(came, number)

                result = run_evaluation(run, state, check)
                window = Window(run.step)
    return result


def read_metrics(run: Run, number: int, metrics: Metrics, images: np.ndarray) -> dict[str, float]:
    """Waits for step `number` on `images` (positions in the data set); returns its metrics.

    Raises `TrainingError` if one is not finite.
    """
    # A compiled program gives a dict back in the order of its keys; the losses come first here.
    names = sorted(metrics, key=lambda name: not name.startswith("loss"))
    values = {name: float(metrics[name]) for name in names}
    if not np.isfinite(list(values.values())).all():
        terms = ", ".join(f"{k} {v:g}" for k, v in values.items())
        ids = ", ".join(
            str(run.training.image_ids[i]) for i in gather(split(images, run.mesh), run.mesh)
        )
        raise TrainingError(
            f"step {number}: not finite: {terms}; image ids {ids}; "
            f"the last good checkpoint is of step {run.checkpoints.latest_step()}"
        )
    return values


def log(run: Run, number: int, window: Window, skipped: int) -> None:
    """Writes and prints the line of a window that ends with step `number`.

    `skipped` counts unreadable images since this process began.
    """
    plan, metrics = run.plan, window.metrics
    seconds = time.perf_counter() - run.step.seconds - window.start
    row = {
        "epoch": -(-number // plan.steps_per_epoch),
        **{name: sum(m[name] for m in metrics) / len(metrics) for name in metrics[0]},
        "seconds_per_step": seconds / len(metrics),
        "wait_share": min(window.waited / seconds, 1.0),
        "learning_rate": float(plan.learning_rate(number - 1)),
        "images_per_second": plan.global_batch * len(metrics) / seconds,
        "memory_gb": peak_memory()[0],
    }
    if skipped := sum(of_all_hosts(skipped)):
        row["skipped_images"] = skipped
    run.logbook.write("train", number, row)
    print_once(progress_line(plan, number, row))


def progress_line(plan: Plan, number: int, row: dict[str, Any]) -> str:
    """Returns what a person watches; equal widths from step to step."""
    steps, epochs = plan.total_steps, -(-plan.total_steps // plan.steps_per_epoch)
    remaining = timedelta(seconds=round((steps - number) * row["seconds_per_step"]))
    parts = [
        f"step {number:{len(str(steps))}d}/{steps}",
        f"epoch {row['epoch']:{len(str(epochs))}d}/{epochs}",
        *(f"{name} {value:7.4f}" for name, value in row.items() if name.startswith("loss")),
        f"lr {row['learning_rate']:.2e}",
        f"{row['seconds_per_step']:7.3f} s/it",
        f"{row['images_per_second']:7.1f} img/s",
        f"wait {row['wait_share']:4.0%}",
        f"ETA {remaining!s:>9}",
    ]
    return "  ".join(parts)


def run_evaluation(
    run: Run, state: TrainState, check: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Evaluates the state's parameters, keeps them if they are the best, and writes the result.

    Does nothing without validation images.
    """
    if run.validation is None:
        return {}
    number, params = int(state.step), state.params
    figures, predictions = evaluate(run.predictor.with_params(params), run.validation, check)
    result = {"step": number, **figures}
    save_best(run.workdir, number, params, results.score_of(result)[1] or 0.0)
    image = results.write_evaluation(run.workdir, result, run.validation, predictions)
    if number not in run.logbook.evaluated:  # as when a run that ended is started again
        run.logbook.write("eval", number, result, image)
    return result
