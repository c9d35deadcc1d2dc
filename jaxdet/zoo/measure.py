"""Measures on this machine what the zoo's table says of a config."""

import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

import jax
from absl import logging
from jax.sharding import Mesh

from jaxdet.checkpoint import read_params
from jaxdet.config import Config
from jaxdet.data.dataset import Dataset
from jaxdet.data.loader import end_with_parent
from jaxdet.data.pipeline import train_batches
from jaxdet.detectors.build import build_detector, param_shapes
from jaxdet.distributed import data_mesh, replicate, split
from jaxdet.environment import environment, peak_memory
from jaxdet.errors import InputError
from jaxdet.inference.evaluate import evaluate
from jaxdet.inference.given import load_splits
from jaxdet.inference.predictor import make_predictor
from jaxdet.programs import Programs, keep_programs
from jaxdet.training import optimizer as optim
from jaxdet.training.plan import make_plan
from jaxdet.training.step import init_state, make_train_step
from jaxdet.types import Detector, Params


def measure_apart(config: Config, *arguments: Any) -> dict[str, Any]:
    """Measures in a process of its own; arguments, results and errors are those of `measure`.

    The largest amount of memory is known per process, and only one may hold the devices' memory.
    """
    pool = ProcessPoolExecutor(1, get_context("spawn"), _start_process)
    try:
        return pool.submit(measure, config, *arguments).result()
    except InputError as error:
        raise InputError(str(error)) from None  # without the other process's traceback
    except BrokenProcessPool:
        raise InputError(
            f"{config.name}: the process that measured it was killed; if memory ran out, "
            "measure a smaller config"
        ) from None
    finally:
        pool.shutdown(wait=False)  # after Ctrl-C there is nothing to wait for


def measure(
    config: Config,
    checkpoint: str = "",
    steps: int = 20,
    num_images: int = 0,
    proposals: Sequence[str] = (),
) -> dict[str, Any]:
    """Trains a few steps, then goes through the validation images; returns a record for JSON.

    Without a checkpoint, parameters are fresh; no `steps` leave training out, and `num_images` 0
    takes all; Fast R-CNN's `proposals` are files: of the images measured, and if it trains
    of the others.  `images_per_step` are over all devices; `AR1000`, `AR1000_fast`, `box_AP` and
    `mask_AP` are percent, None without a checkpoint, on a part of the images, or if of another
    kind of detector.
    """
    mesh = data_mesh()
    detector = build_detector(config)
    if checkpoint:
        params = read_params(checkpoint, param_shapes(detector), config.model.convention)
    else:
        params = jax.jit(detector.init)(jax.random.key(config.train.seed, impl="rbg"))
    params = jax.device_get(params)  # training donates the devices' copies
    everything, *training = load_splits(config, ["val", "train"][: 1 + (steps > 0)], proposals)
    dataset = first_images(everything, num_images or len(everything))
    seconds = memory = memory_of = None
    if steps:
        seconds = _train(config, detector, params, training[0], mesh, steps)
        memory, memory_of = peak_memory()  # before evaluation adds to it
    result, _ = evaluate(make_predictor(config, detector, params, mesh), dataset)
    whole = checkpoint and len(dataset) == len(everything)
    return {
        "config": config.name,
        "detector": config.model.detector,
        "checkpoint": checkpoint or None,
        "images_per_step": optim.global_batch(config, mesh.size),
        "seconds_per_step": seconds,
        "memory_gb": memory,
        "memory_of": memory_of,
        "images_per_second": result["images_per_second"],
        "seconds_per_image": result["seconds_per_image"],
        "num_images": len(dataset),
        **{name: _percent(result, path) if whole else None for name, path in _QUALITY.items()},
        "environment": environment(),
    }


# Where a result of `evaluate` has what the tables publish, by the record's name; an RPN has no AP,
# and what a result has not is None in the record, like recall that was not measured.
_QUALITY = {
    "AR1000": ("AR@1000",),
    "AR1000_fast": ("fast", "AR@1000"),
    "box_AP": ("bbox", "AP"),
    "mask_AP": ("segm", "AP"),
}


def _percent(result: Any, path: tuple[str, ...]) -> float | None:
    for key in path:
        result = result.get(key, {})
    return 100 * result if isinstance(result, float) else None


def seconds_per_step(run: Callable[[], Any], step: Programs, steps: int) -> float:
    """Returns the mean wall time of `steps` steps after a first one, compiling not included.

    `run` loads a batch, makes the step and returns arrays that are ready when it is done; it
    compiles with `step`.
    """
    jax.block_until_ready(run())
    begun, compiled = time.perf_counter(), step.seconds
    for _ in range(steps):
        jax.block_until_ready(run())
    return (time.perf_counter() - begun - (step.seconds - compiled)) / steps


def first_images(dataset: Dataset, count: int) -> Dataset:
    """Returns a data set's first `count` images with their annotations."""
    offsets = dataset.offsets[: count + 1]
    ends = dict.fromkeys(("file_names", "image_ids", "heights", "widths"), count)
    names = ("annotation_ids", "category_ids", "xywh", "area", "iscrowd", "ignore")
    ends |= dict.fromkeys(names, int(offsets[-1]))
    first = {name: getattr(dataset, name)[:end] for name, end in ends.items()}
    labels = None if dataset.labels is None else dataset.labels[: offsets[-1]]
    return replace(dataset, **first, labels=labels, offsets=offsets, file_order=None)


def _start_process() -> None:
    """Makes the settings that commands make."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the one that ends this
    end_with_parent()
    logging.set_verbosity(logging.ERROR)
    keep_programs()


def _train(
    config: Config, detector: Detector, params: Params, dataset: Dataset, mesh: Mesh, steps: int
) -> float:
    """Returns seconds per training step, from the images on disk to the new parameters."""
    plan = make_plan(config, dataset, mesh.size)
    optimizer = optim.make_optimizer(config.optimizer, plan.learning_rate)
    state = replicate(init_state(detector, params, optimizer), mesh)
    step = Programs(make_train_step(detector, config.train, optimizer, mesh))
    batch, seed = plan.global_batch, config.train.seed
    with train_batches(
        dataset, config.data, global_batch=batch, seed=seed, num_steps=steps + 1
    ) as loader:

        def run() -> Any:
            nonlocal state
            state, metrics = step(state, split(next(loader).batch, mesh))
            return metrics

        return seconds_per_step(run, step, steps)
