"""Batches for training and for evaluation.

Training looks steps up in a `Sampler`; evaluation goes through the images once, bucket by
bucket.  Either is a source with random access, so starting at step k costs nothing.

Glossary: `B` images of this host's part of a batch; `H, W` the bucket; `M` padded boxes.
"""

import numpy as np

from jaxdet.config import DataConfig
from jaxdet.data.buckets import Size, bucket_sizes, buckets_of
from jaxdet.data.dataset import Dataset
from jaxdet.data.image import padded_size, rescale_size, rescale_sizes, resize, resize_boxes
from jaxdet.data.loader import Element, Loader
from jaxdet.data.sampler import Sampler, Step, flips
from jaxdet.errors import InputError
from jaxdet.types import Batch

# After so many unreadable images in a row the folder is wrong rather than a file.
MAX_SKIPS = 100

# The number of boxes is padded to a multiple, so that similar data sets share compiled programs.
BOX_MULTIPLE = 8

FILLER_SIZE = 32


def train_batches(
    dataset: Dataset,
    data: DataConfig,
    *,
    global_batch: int,
    seed: int,
    num_steps: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Loader:
    """Returns this host's part of the batches of steps `start_step` to `num_steps - 1`.

    An unreadable image is replaced by another of its aspect group, and named in `skipped`.

    Args:
        dataset: The training set.
        data: For the images' scale, flips, images without boxes and the loader's processes.
        global_batch: Images per step over all hosts; a multiple of `process_count`.
        seed: Of the run.
        num_steps: Where the run ends, counted from its beginning.
        start_step: Where to start; a resumed run gets what the first would have got from there.
        process_index: Which host this is.
        process_count: How many hosts there are.

    Raises:
        InputError: No image can be trained on; while iterating, if `MAX_SKIPS` images in a
            row cannot be read.
    """
    sampler = Sampler(dataset, data, global_batch=global_batch, seed=seed)
    rows = _host_rows(global_batch, process_index, process_count)
    source = _TrainSource(dataset, sampler, data, rows, num_steps)
    return Loader(source, data.num_workers, start_step)


def eval_batches(
    dataset: Dataset,
    data: DataConfig,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    skip_unreadable: bool = False,
) -> Loader:
    """Returns this host's part of batches that hold every image once, largest bucket first.

    A bucket's last batch is filled up with black images of 32 x 32 pixels whose `index` is -1.

    Args:
        dataset: Any set; images without boxes are included.
        data: For the images' scale and the loader's processes.
        batch_size: Images per batch over all hosts; a multiple of `process_count`.
        process_index: Which host this is.
        process_count: How many hosts there are.
        skip_unreadable: Whether a filler takes the place of an image that cannot be read.

    Raises:
        InputError: While iterating, if an image cannot be read and is not to be skipped.
    """
    rows = _host_rows(batch_size, process_index, process_count)
    source = _EvalSource(dataset, data.image_scale, batch_size, rows, skip_unreadable)
    return Loader(source, data.num_workers, warn=not skip_unreadable)


def eval_buckets(dataset: Dataset, data: DataConfig) -> list[Size]:
    """Returns the shapes (height, width) of `eval_batches`' images, in the order they come in."""
    return [bucket for bucket, _ in _by_bucket(dataset, data.image_scale)]


def max_boxes(dataset: Dataset) -> int:
    """Returns `M` of a data set's batches: its most boxes, rounded up to a multiple of 8."""
    most = int(dataset.num_boxes.max(initial=0))
    return max(1, -(-most // BOX_MULTIPLE)) * BOX_MULTIPLE


class _TrainSource:
    """This host's part of the steps of a sampler."""

    def __init__(
        self,
        dataset: Dataset,
        sampler: Sampler,
        data: DataConfig,
        rows: slice,
        num_steps: int,
    ):
        self.dataset = dataset
        self.sampler = sampler
        self.data = data
        self.rows = rows
        self.num_steps = num_steps
        self.max_boxes = max_boxes(dataset)

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, step: int) -> Element:
        planned = self.sampler[step]
        epoch = step // self.sampler.steps_per_epoch
        batch = _empty_batch(planned.bucket, self.rows.stop - self.rows.start, self.max_boxes)
        skipped: list[str] = []
        for row, index in enumerate(planned.indices[self.rows].tolist()):
            used, image = self._read(index, planned, skipped)
            seeds = self.sampler.seeds_of(np.array([used]), epoch)
            batch.seed[row] = seeds[0]
            flip = bool(flips(seeds, self.data.flip)[0])
            _fill_row(batch, row, self.dataset, used, image, self.data.image_scale, flip)
        return Element(batch, tuple(skipped))

    def _read(self, index: int, planned: Step, skipped: list[str]) -> tuple[int, np.ndarray]:
        """Reads an image, or else the first readable one that can stand in for it."""
        try:
            return index, self.dataset.read(index)
        except InputError as error:
            skipped.append(str(error))
        for other in self.sampler.replacements(index, planned.bucket)[: MAX_SKIPS - 1].tolist():
            try:
                return other, self.dataset.read(other)
            except InputError:
                continue
        raise InputError(f"no readable image to train on; the first of many: {skipped[-1]}")


class _EvalSource:
    """Every image once, by bucket."""

    def __init__(
        self,
        dataset: Dataset,
        image_scale: tuple[int, ...],
        batch_size: int,
        rows: slice,
        skip_unreadable: bool,
    ):
        self.dataset = dataset
        self.image_scale = image_scale
        self.rows = rows
        self.skip_unreadable = skip_unreadable
        self.max_boxes = max_boxes(dataset)
        self.batches = _eval_plan(dataset, image_scale, batch_size)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: int) -> Element:
        bucket, indices = self.batches[step]
        batch = _empty_batch(bucket, self.rows.stop - self.rows.start, self.max_boxes)
        skipped: list[str] = []
        for row, index in enumerate(indices[self.rows].tolist()):
            if index < 0:
                continue
            try:
                image = self.dataset.read(index)
            except InputError as error:
                if not self.skip_unreadable:
                    raise
                skipped.append(str(error))
                continue
            _fill_row(batch, row, self.dataset, index, image, self.image_scale, flip=False)
        return Element(batch, tuple(skipped))


def _eval_plan(
    dataset: Dataset, image_scale: tuple[int, ...], batch_size: int
) -> list[tuple[Size, np.ndarray]]:
    """Buckets and dataset positions, -1 for a filler; the largest bucket first."""
    plan = []
    for bucket, indices in _by_bucket(dataset, image_scale):
        fillers = -len(indices) % batch_size
        padded = np.concatenate([indices, np.full(fillers, -1, indices.dtype)])
        plan += [(bucket, rows) for rows in padded.reshape(-1, batch_size)]
    return plan


def _by_bucket(dataset: Dataset, image_scale: tuple[int, ...]) -> list[tuple[Size, np.ndarray]]:
    """Buckets that hold images, and the images' positions; the largest bucket first."""
    buckets = bucket_sizes(image_scale)
    original = np.stack([dataset.heights, dataset.widths], axis=1).astype(np.int64)
    held_by = buckets_of(rescale_sizes(original, image_scale), buckets)
    numbers = reversed(range(len(buckets)))
    groups = [(buckets[number], np.flatnonzero(held_by == number)) for number in numbers]
    return [(bucket, indices) for bucket, indices in groups if len(indices)]


def _host_rows(batch_size: int, process_index: int, process_count: int) -> slice:
    if batch_size % process_count:
        raise InputError(f"a batch of {batch_size} cannot be divided among {process_count} hosts")
    share = batch_size // process_count
    return slice(process_index * share, (process_index + 1) * share)


def _empty_batch(bucket: Size, rows: int, boxes: int) -> Batch:
    """Returns filler images in every row."""
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
    """Writes an image and its boxes into a batch, resized and perhaps mirrored."""
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
