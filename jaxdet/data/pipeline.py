"""Batches, made by grain's threads or processes, the same ones in the same order either way.

Training looks steps up in a `Schedule`; evaluation goes through the pictures once, bucket by
bucket.  Either is a source with random access, so starting at step k costs nothing.

Glossary: `B` pictures of this host's part of a batch; `H, W` the bucket; `M` padded boxes.
"""

import gc
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import cv2
import grain
import numpy as np
from absl import flags

from jaxdet.data.buckets import Size, bucket_sizes, buckets_of
from jaxdet.data.dataset import Dataset
from jaxdet.data.schedule import Schedule, Step, flips
from jaxdet.data.transforms import padded_size, rescale_size, rescale_sizes, resize, resize_boxes
from jaxdet.errors import InputError
from jaxdet.types import Batch

_LOG = logging.getLogger(__name__)

# After so many unreadable pictures in a row the folder is wrong rather than a file.
MAX_SKIPS = 100

# The number of boxes is padded to a multiple, so that similar data sets share compiled programs.
BOX_MULTIPLE = 8

FILLER_SIZE = 32


class _Element(NamedTuple):
    """What a source yields."""

    batch: Batch
    skipped: tuple[str, ...]  # why pictures were left out, one line each


class _Source(Protocol):
    def __len__(self) -> int: ...
    def __getitem__(self, position: int) -> _Element: ...


class Loader(Iterator[Batch]):
    """Iterates over batches that are made in the background.

    Attributes:
        step: The step of the batch that comes next.
        skipped: Unreadable pictures that training has gone without so far.
    """

    def __init__(self, source: _Source, num_workers: int, start_step: int = 0):
        """Starts the workers.

        Args:
            source: Batches by position.
            num_workers: Processes; 0 makes batches in two threads of this process.
            start_step: Step of the source's first batch.
        """
        self.step = start_step
        self.skipped = 0
        self._elements = iter(_in_background(source, num_workers))

    def __next__(self) -> Batch:
        try:
            element: _Element = next(self._elements)
        except InputError as error:
            # As raised, less the worker's traceback and grain's notes.
            raise InputError(str(error)) from None
        for message in element.skipped:
            _LOG.warning("step %d: picture skipped: %s", self.step, message)
        self.skipped += len(element.skipped)
        self.step += 1
        # Out of the workers' shared memory, whose blocks outlive a program that is interrupted.
        return Batch(*(np.array(leaf) for leaf in element.batch))

    def close(self) -> None:
        """Stops the workers and frees the memory shared with them."""
        self._elements.close()
        self._elements = iter(())
        # grain's last elements hang in reference cycles; at exit they would be reported as leaked.
        gc.collect()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def train_batches(
    dataset: Dataset,
    *,
    image_scale: tuple[int, ...],
    global_batch: int,
    seed: int,
    num_workers: int,
    num_steps: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    flip: float = 0.5,
    keep_empty: bool = False,
) -> Loader:
    """This host's part of the batches of steps `start_step` to `num_steps - 1`.

    An unreadable picture is replaced by another of its aspect group, and counted.

    Args:
        dataset: The training set.
        image_scale: Bounds of the long and the short side of resized pictures, in pixels.
        global_batch: Pictures per step over all hosts; a multiple of `process_count`.
        seed: Of the run.
        num_workers: Loader processes; 0 for threads.
        num_steps: Where the run ends, counted from its beginning.
        start_step: Where to start; a resumed run gets what the first would have got from there.
        process_index: Which host this is.
        process_count: How many hosts there are.
        flip: Probability of a mirror image.
        keep_empty: Train on pictures without boxes as well.

    Raises:
        InputError: No picture can be trained on; while iterating, if `MAX_SKIPS` pictures in a
            row cannot be read.
    """
    schedule = Schedule(
        dataset,
        image_scale=image_scale,
        global_batch=global_batch,
        seed=seed,
        keep_empty=keep_empty,
    )
    rows = _host_rows(global_batch, process_index, process_count)
    source = _TrainSource(dataset, schedule, image_scale, rows, flip, start_step, num_steps)
    return Loader(source, num_workers, start_step)


def eval_batches(
    dataset: Dataset,
    *,
    image_scale: tuple[int, ...],
    batch_size: int,
    num_workers: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Loader:
    """This host's part of batches that hold every picture once, largest bucket first.

    A bucket's last batch is filled up with black pictures of 32 x 32 pixels whose `index` is -1.

    Args:
        dataset: Any set; pictures without boxes are included.
        image_scale: Bounds of the long and the short side of resized pictures, in pixels.
        batch_size: Pictures per batch over all hosts; a multiple of `process_count`.
        num_workers: Loader processes; 0 for threads.
        process_index: Which host this is.
        process_count: How many hosts there are.

    Raises:
        InputError: While iterating, if a picture cannot be read.
    """
    rows = _host_rows(batch_size, process_index, process_count)
    return Loader(_EvalSource(dataset, image_scale, batch_size, rows), num_workers)


def max_boxes(dataset: Dataset) -> int:
    """`M` of a data set's batches: its largest number of boxes, rounded up to a multiple of 8."""
    most = int(dataset.num_boxes.max(initial=0))
    return max(1, -(-most // BOX_MULTIPLE)) * BOX_MULTIPLE


class _TrainSource:
    """Batches of a schedule from a step on."""

    def __init__(
        self,
        dataset: Dataset,
        schedule: Schedule,
        image_scale: tuple[int, ...],
        rows: slice,
        flip: float,
        start_step: int,
        num_steps: int,
    ):
        self.dataset = dataset
        self.schedule = schedule
        self.image_scale = image_scale
        self.rows = rows
        self.flip = flip
        self.start_step = start_step
        self.num_steps = num_steps
        self.max_boxes = max_boxes(dataset)

    def __len__(self) -> int:
        return max(0, self.num_steps - self.start_step)

    def __getitem__(self, position: int) -> _Element:
        step = self.start_step + position
        planned = self.schedule[step]
        epoch = step // self.schedule.steps_per_epoch
        batch = _empty_batch(planned.bucket, self.rows.stop - self.rows.start, self.max_boxes)
        skipped: list[str] = []
        for row, index in enumerate(planned.indices[self.rows].tolist()):
            used, image = self._read(index, planned, skipped)
            seeds = self.schedule.seeds_of(np.array([used]), epoch)
            batch.seed[row] = seeds[0]
            flip = bool(flips(seeds, self.flip)[0])
            _fill_row(batch, row, self.dataset, used, image, self.image_scale, flip)
        return _Element(batch, tuple(skipped))

    def _read(self, index: int, planned: Step, skipped: list[str]) -> tuple[int, np.ndarray]:
        """Reads a picture, or else the first readable one that can stand in for it."""
        try:
            return index, self.dataset.read(index)
        except InputError as error:
            skipped.append(str(error))
        for other in self.schedule.stand_ins(index, planned.bucket)[: MAX_SKIPS - 1].tolist():
            try:
                return other, self.dataset.read(other)
            except InputError:
                continue
        raise InputError(f"no readable picture to train on; the first of many: {skipped[-1]}")


class _EvalSource:
    """Every picture once, by bucket."""

    def __init__(
        self, dataset: Dataset, image_scale: tuple[int, ...], batch_size: int, rows: slice
    ):
        self.dataset = dataset
        self.image_scale = image_scale
        self.rows = rows
        self.max_boxes = max_boxes(dataset)
        self.batches = _eval_plan(dataset, image_scale, batch_size)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, position: int) -> _Element:
        bucket, indices = self.batches[position]
        batch = _empty_batch(bucket, self.rows.stop - self.rows.start, self.max_boxes)
        for row, index in enumerate(indices[self.rows].tolist()):
            if index >= 0:
                image = self.dataset.read(index)
                _fill_row(batch, row, self.dataset, index, image, self.image_scale, flip=False)
        return _Element(batch, ())


def _eval_plan(
    dataset: Dataset, image_scale: tuple[int, ...], batch_size: int
) -> list[tuple[Size, np.ndarray]]:
    """Buckets and dataset positions, -1 for a filler; the largest bucket first."""
    buckets = bucket_sizes(image_scale)
    original = np.stack([dataset.heights, dataset.widths], axis=1).astype(np.int64)
    held_by = buckets_of(rescale_sizes(original, image_scale), buckets)
    plan = []
    for number in reversed(range(len(buckets))):
        indices = np.flatnonzero(held_by == number)
        fillers = -len(indices) % batch_size
        padded = np.concatenate([indices, np.full(fillers, -1, indices.dtype)])
        plan += [(buckets[number], rows) for rows in padded.reshape(-1, batch_size)]
    return plan


def _host_rows(batch_size: int, process_index: int, process_count: int) -> slice:
    if batch_size % process_count:
        raise InputError(f"a batch of {batch_size} cannot be divided among {process_count} hosts")
    share = batch_size // process_count
    return slice(process_index * share, (process_index + 1) * share)


def _empty_batch(bucket: Size, rows: int, boxes: int) -> Batch:
    """Filler pictures in every row."""
    return Batch(
        image=np.zeros((rows, *bucket, 3), np.uint8),
        image_size=np.full((rows, 2), FILLER_SIZE, np.int32),
        pad_size=np.full((rows, 2), FILLER_SIZE, np.int32),
        scale=np.ones(rows, np.float32),
        boxes=np.zeros((rows, boxes, 4), np.float32),
        box_mask=np.zeros((rows, boxes), bool),
        seed=np.zeros(rows, np.uint32),
        index=np.full(rows, -1, np.int32),
    )


def _fill_row(
    batch: Batch,
    row: int,
    dataset: Dataset,
    index: int,
    image: np.ndarray,
    image_scale: tuple[int, ...],
    flip: bool,
) -> None:
    """Writes a picture and its boxes into a batch, resized and perhaps mirrored."""
    (height, width), f = rescale_size(image.shape[:2], image_scale)
    resized = resize(image, (height, width))
    batch.image[row, :height, :width] = resized[:, ::-1] if flip else resized
    batch.image_size[row] = height, width
    batch.pad_size[row] = padded_size((height, width))
    batch.scale[row] = f
    boxes = resize_boxes(dataset.boxes_of(index), f, (height, width), flip)
    batch.boxes[row, : len(boxes)] = boxes
    batch.box_mask[row, : len(boxes)] = True
    batch.index[row] = index


def _in_background(source: _Source, num_workers: int) -> grain.IterDataset:
    """The source's elements in order, a few made ahead of time."""
    # An element is a whole batch of pictures: tens of megabytes, so buffers are short.
    threads = 1 if num_workers else 2
    read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    elements = grain.MapDataset.source(source).to_iter_dataset(read)
    if not num_workers:
        return elements
    if not flags.FLAGS.is_parsed():  # grain reads flags, which only absl's own programs parse
        flags.FLAGS.mark_as_parsed()
    # Only pictures are worth a block of shared memory each.
    by_size = grain.experimental.DatasetOptions(min_shm_size=1 << 16)
    elements = grain.experimental.WithOptionsIterDataset(elements, by_size)
    options = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=1)
    return elements.mp_prefetch(options, worker_init_fn=_start_worker)


def _start_worker(worker: int, count: int) -> None:
    """Runs first in every loader process."""
    del worker, count
    cv2.setNumThreads(1)  # the processes are the parallelism
    parent = os.getppid()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """Ends this process when its parent is gone: a killed run must not leave its workers."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
