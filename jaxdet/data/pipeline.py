"""Batches for training and for evaluation.

Training looks steps up in a `Sampler`; evaluation goes through the images once, bucket by
bucket.  Either is a source with random access, so starting at step k costs nothing.
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdet.config import DataConfig
from jaxdet.data.augment import augmented, load_augment
from jaxdet.data.buckets import (
    FILLER_SIZE,
    Size,
    batch_of_one,
    bucket_sizes,
    buckets_of,
    empty_batch,
    put_image,
)
from jaxdet.data.dataset import Dataset
from jaxdet.data.image import resize_boxes, resized_size, resized_sizes
from jaxdet.data.images import Stored
from jaxdet.data.loader import Batches, Element, batches_from
from jaxdet.data.masks import pack, resize_bitmap
from jaxdet.data.sampler import Sampler, draw_scale, flips, image_seeds
from jaxdet.errors import InputError
from jaxdet.types import Batch

MAX_SKIPS = 100  # unreadable images in a row: the folder is wrong rather than a file
IMAGES_PER_WORKER = 32  # or a process takes longer to start than to load them
BOX_MULTIPLE = 8  # of padded boxes, so that similar data sets share compiled programs

Host = tuple[int, int]  # its number from 0, and how many there are


def train_batches(
    dataset: Dataset,
    data: DataConfig,
    *,
    global_batch: int,
    seed: int,
    num_steps: int,
    start_step: int = 0,
    host: Host = (0, 1),
) -> Batches:
    """Returns this host's part of the batches of steps `start_step` to `num_steps - 1`.

    An unreadable image is replaced by another, of its aspect group if one is left, and named in
    `skipped`.  What comes from `start_step` on does not depend on it.  `global_batch` is images per
    step over all hosts, a multiple of their number.  Raises `InputError` if no image can be trained
    on, or there is no `data.augment`; while iterating, if `MAX_SKIPS` images in a row cannot be
    read, or that function fails.
    """
    if data.augment:
        load_augment(data.augment)
    sampler = Sampler(dataset, data, global_batch=global_batch, seed=seed)
    rows = _host_rows(global_batch, host)
    source = _TrainSource(dataset, data, rows, max_boxes(dataset), sampler, num_steps)
    return batches_from(source, data.num_workers, start_step)


def eval_batches(
    dataset: Dataset, data: DataConfig, *, batch_size: int, host: Host = (0, 1)
) -> Batches:
    """Returns this host's part of batches that hold every image once, largest bucket first.

    A bucket's last batch is filled up with black images of 32 x 32 pixels whose `index` is -1.
    `batch_size` is over all hosts, a multiple of their number.  While iterating, an image that
    cannot be read raises `InputError`.
    """
    rows = _host_rows(batch_size, host)
    batches = []
    for bucket, indices in _by_bucket(dataset, data):
        padded = np.pad(indices, (0, -len(indices) % batch_size), constant_values=-1)
        batches += [(bucket, batch) for batch in padded.reshape(-1, batch_size)]
    source = _EvalSource(dataset, data, rows, max_boxes(dataset), batches)
    return batches_from(source, data.num_workers)


def image_batches(images: Sequence[Stored], data: DataConfig, ahead: int) -> Any:
    """Returns a context of a `LoadedImage` of each image, in order; see `batches_from`.

    One that cannot be read is a filler, and named in `skipped`.
    """
    workers = min(data.num_workers, len(images) // IMAGES_PER_WORKER)
    return batches_from(_ImageSource(images, data), workers, warn=False, ahead=ahead)


def max_boxes(dataset: Dataset) -> int:
    """Returns the largest number of boxes of an image, rounded up to a multiple of 8."""
    most = int(dataset.num_boxes.max(initial=0))
    return max(1, -(-most // BOX_MULTIPLE)) * BOX_MULTIPLE


@dataclasses.dataclass(frozen=True)
class _Source:
    """What both kinds of batches are made of."""

    dataset: Dataset
    data: DataConfig
    rows: slice  # of this host in a batch over all hosts
    max_boxes: int

    def empty_batch(self, bucket: Size) -> Batch:
        rows, has_classes = self.rows.stop - self.rows.start, self.dataset.labels is not None
        given = self.dataset.given.limit if self.dataset.given else 0
        return empty_batch(bucket, rows, self.data.pixel_dtype, self.max_boxes, has_classes, given)

    def fill_row(
        self,
        batch: Batch,
        row: int,
        index: int,
        flip: bool = False,
        image_scale: Size | None = None,
        seed: int | None = None,
    ) -> None:
        """Writes an image and its objects into a batch, resized and perhaps mirrored.

        `image_scale` takes the place of the config's; with a `seed`, `data.augment` comes before.
        Raises `InputError` if the image cannot be read, or has a mask that is none; nothing is
        written then.
        """
        data, dataset = self.data, self.dataset
        if image_scale:
            data = dataclasses.replace(data, image_scale=image_scale)
        image = dataset.read(index)
        bitmaps: Iterable[np.ndarray] = ()
        truth, labels = dataset.boxes_of(index), dataset.labels_of(index)
        if data.augment and seed is not None:
            made, truth = augmented(data.augment, dataset, index, image, seed, self.max_boxes)
            image, labels = made.image, made.labels
            bitmaps = () if made.masks is None else made.masks
            bucket = batch.image.shape[1:3]
            if (
                np.array(resized_size(image.shape[:2], data)[0]) > bucket
            ).any():  # of another shape
                data = dataclasses.replace(data, image_scale=(min(bucket), min(bucket)))
        elif batch.masks is not None:
            bitmaps = dataset.masks_of(index)
        size, scale = resized_size(image.shape[:2], data)
        if batch.masks is not None:
            masks = [pack(resize_bitmap(bitmap, size, data.resize), flip) for bitmap in bitmaps]
            for place, mask in enumerate(masks):
                batch.masks[row, place, : size[0], : mask.shape[1]] = mask
        put_image(batch, row, image, data, index, flip)
        padded = [(truth, batch.boxes, batch.box_mask)]
        if dataset.given is not None:
            padded.append((dataset.given.of(index), batch.proposals, batch.proposal_mask))
        for own, boxes, mask in padded:
            boxes[row, : len(own)] = resize_boxes(own, scale, size, flip, dataset.convention)
            mask[row, : len(own)] = True
        if batch.labels is not None:
            batch.labels[row, : len(labels)] = labels


@dataclasses.dataclass(frozen=True)
class _TrainSource(_Source):
    sampler: Sampler
    num_steps: int

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, step: int) -> Element:
        indices, bucket = self.sampler[step]
        batch = self.empty_batch(bucket)
        if self.dataset.segmentations is not None:
            shape = (*batch.box_mask.shape, bucket[0], bucket[1] // 8)
            batch = batch._replace(masks=np.zeros(shape, np.uint8))
        epoch = step // self.sampler.steps_per_epoch
        skipped = []
        for row, planned in enumerate(indices[self.rows].tolist()):
            try:
                self._augmented(batch, row, planned, epoch)
            except InputError as error:
                skipped.append(str(error))
                others = self.sampler.replacements(planned, bucket)[: MAX_SKIPS - 1].tolist()
                for other in others:
                    with contextlib.suppress(InputError):
                        self._augmented(batch, row, other, epoch)
                        break
                else:
                    tried = len(others) + 1
                    what = f"none of the {tried} images tried can be trained on; the first: {error}"
                    raise InputError(what) from None
        return Element(batch, tuple(skipped))

    def _augmented(self, batch: Batch, row: int, index: int, epoch: int) -> None:
        """Fills a row by an image's seed in an epoch; raises as `fill_row`."""
        seeds = image_seeds(self.sampler.seed, epoch, self.dataset.image_ids[[index]])
        flip, scale = bool(flips(seeds, self.data.flip)[0]), draw_scale(self.data, seeds)
        bucket = batch.image.shape[1:3]
        if (self.sampler.sizes[index] > np.array(bucket)).any():  # a stand-in of another shape
            scale = min(bucket), min(bucket)
        self.fill_row(batch, row, index, flip, scale, int(seeds[0]))
        batch.seed[row] = seeds[0]


@dataclasses.dataclass(frozen=True)
class _EvalSource(_Source):
    batches: list[tuple[Size, np.ndarray]]  # buckets, and positions in the data set; -1: a filler

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: int) -> Element:
        bucket, indices = self.batches[step]
        batch = self.empty_batch(bucket)
        for row, index in enumerate(indices[self.rows].tolist()):
            if index >= 0:
                self.fill_row(batch, row, index)
        return Element(batch, ())


class LoadedImage(NamedTuple):
    """An `Element` of one image, and its own size."""

    batch: Batch
    skipped: tuple[str, ...]
    size: Size


@dataclasses.dataclass(frozen=True)
class _ImageSource:
    images: Sequence[Stored]
    data: DataConfig

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> LoadedImage:
        try:
            image = self.images[index].read()
        except InputError as error:
            filler = empty_batch((FILLER_SIZE, FILLER_SIZE), 1, self.data.pixel_dtype)
            return LoadedImage(filler, (str(error),), (0, 0))
        buckets = bucket_sizes(self.data.image_scale)
        batch = batch_of_one(image, self.data, buckets, index)
        return LoadedImage(batch, (), image.shape[:2])


def _by_bucket(dataset: Dataset, data: DataConfig) -> list[tuple[Size, np.ndarray]]:
    """Returns buckets that hold images, and the images' positions; the largest bucket first."""
    buckets = bucket_sizes(data.image_scale)
    held_by = buckets_of(resized_sizes(dataset.sizes, data)[0], buckets)
    return [(buckets[i], np.flatnonzero(held_by == i)) for i in np.unique(held_by)[::-1]]


def _host_rows(batch_size: int, host: Host) -> slice:
    index, count = host
    if batch_size % count:
        raise InputError(f"a batch of {batch_size} cannot be divided among {count} hosts")
    share = batch_size // count
    return slice(index * share, (index + 1) * share)
