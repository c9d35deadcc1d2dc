"""Batches for training and for evaluation.

Training looks steps up in a `Sampler`; evaluation goes through the images once, bucket by
bucket.  Either is a source with random access, so starting at step k costs nothing.
"""

import contextlib
import dataclasses

import numpy as np

from jaxdet.config import DataConfig
from jaxdet.data.buckets import Size, bucket_sizes, buckets_of
from jaxdet.data.dataset import Dataset
from jaxdet.data.image import fit, resize_boxes, resized_sizes
from jaxdet.data.loader import Element, Loader
from jaxdet.data.masks import pack, resize_bitmap
from jaxdet.data.sampler import Sampler, flips, picks
from jaxdet.errors import InputError
from jaxdet.types import Batch

MAX_SKIPS = 100  # unreadable images in a row: the folder is wrong rather than a file
BOX_MULTIPLE = 8  # of padded boxes, so that similar data sets share compiled programs
FILLER_SIZE = 32

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
) -> Loader:
    """Returns this host's part of the batches of steps `start_step` to `num_steps - 1`.

    An unreadable image is replaced by another, of its aspect group if one is left, and named in
    `skipped`.  What comes from `start_step` on does not depend on it.  `global_batch` is images per
    step over all hosts, a multiple of their number.

    Raises:
        InputError: no image can be trained on; while iterating, if `MAX_SKIPS` images in a
            row cannot be read.
    """
    sampler = Sampler(dataset, data, global_batch=global_batch, seed=seed)
    rows = _host_rows(global_batch, host)
    source = _TrainSource(dataset, data, rows, max_boxes(dataset), sampler, num_steps)
    return Loader(source, data.num_workers, start_step)


def eval_batches(
    dataset: Dataset,
    data: DataConfig,
    *,
    batch_size: int,
    host: Host = (0, 1),
    skip_unreadable: bool = False,
) -> Loader:
    """Returns this host's part of batches that hold every image once, largest bucket first.

    A bucket's last batch is filled up with black images of 32 x 32 pixels whose `index` is -1.
    With `skip_unreadable`, such a filler is left for an image that cannot be read, and the image
    named in `skipped`.  `batch_size` is over all hosts, a multiple of their number.

    Raises:
        InputError: while iterating, if an image cannot be read and is not to be skipped.
    """
    rows = _host_rows(batch_size, host)
    batches = []
    for bucket, indices in _by_bucket(dataset, data):
        padded = np.pad(indices, (0, -len(indices) % batch_size), constant_values=-1)
        batches += [(bucket, batch) for batch in padded.reshape(-1, batch_size)]
    source = _EvalSource(dataset, data, rows, max_boxes(dataset), batches, skip_unreadable)
    return Loader(source, data.num_workers, warn=not skip_unreadable)


def eval_buckets(dataset: Dataset, data: DataConfig) -> list[Size]:
    """Returns the shapes (height, width) of `eval_batches`' images, in the order they come in."""
    return [bucket for bucket, _ in _by_bucket(dataset, data)]


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
        """Returns a batch with a filler image in every row."""
        rows = self.rows.stop - self.rows.start
        has_classes, given = len(self.dataset.class_names) > 0, self.dataset.given
        return Batch(
            image=np.zeros((rows, *bucket, 3), self.data.pixel_dtype),
            image_size=np.full((rows, 2), FILLER_SIZE, np.int32),
            pad_size=np.full((rows, 2), FILLER_SIZE, np.int32),
            scale=np.ones((rows, 2), np.float32),
            boxes=np.zeros((rows, self.max_boxes, 4), np.float32),
            box_mask=np.zeros((rows, self.max_boxes), bool),
            seed=np.zeros(rows, np.uint32),
            index=np.full(rows, -1, np.int32),
            labels=np.zeros((rows, self.max_boxes), np.int32) if has_classes else None,
            proposals=np.zeros((rows, given.limit, 4), np.float32) if given else None,
            proposal_mask=np.zeros((rows, given.limit), bool) if given else None,
        )

    def fill_row(
        self,
        batch: Batch,
        row: int,
        index: int,
        flip: bool = False,
        image_scale: Size | None = None,
    ) -> None:
        """Writes an image and its objects into a batch, resized and perhaps mirrored.

        `image_scale` takes the place of the config's.

        Raises:
            InputError: the image cannot be read, or has a mask that is none; nothing is written.
        """
        data = self.data
        if image_scale:
            data = dataclasses.replace(data, image_scale=image_scale)
        resized, pad_size, scale = fit(self.dataset.read(index), data)
        height, width = resized.shape[:2]
        if batch.masks is not None:
            masks = [
                pack(resize_bitmap(mask, (height, width), data.resize), flip)
                for mask in self.dataset.masks_of(index)
            ]
            for place, mask in enumerate(masks):
                batch.masks[row, place, :height, : mask.shape[1]] = mask
        batch.image[row, :height, :width] = resized[:, ::-1] if flip else resized
        batch.image_size[row] = height, width
        batch.pad_size[row] = pad_size
        batch.scale[row] = scale
        transform = scale, (height, width), flip, self.dataset.convention
        boxes = resize_boxes(self.dataset.boxes_of(index), *transform)
        batch.boxes[row, : len(boxes)] = boxes
        batch.box_mask[row, : len(boxes)] = True
        if self.dataset.given is not None:
            assert batch.proposals is not None
            assert batch.proposal_mask is not None
            proposals = resize_boxes(self.dataset.given.of(index), *transform)
            batch.proposals[row, : len(proposals)] = proposals
            batch.proposal_mask[row, : len(proposals)] = True
        if batch.labels is not None:
            batch.labels[row, : len(boxes)] = self.dataset.labels_of(index)
        batch.index[row] = index


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
                others = self.sampler.replacements(planned, bucket)
                self._first_of(batch, row, others[: MAX_SKIPS - 1].tolist(), epoch, skipped[-1])
        return Element(batch, tuple(skipped))

    def _augmented(self, batch: Batch, row: int, index: int, epoch: int) -> None:
        """Fills a row by an image's seed in an epoch; raises as `fill_row`."""
        seeds = self.sampler.seeds_of(np.array([index]), epoch)
        flip, shorts = bool(flips(seeds, self.data.flip)[0]), self.data.train_short_sides
        scale = None
        if shorts:
            scale = max(self.data.image_scale), shorts[picks(seeds, len(shorts))[0]]
        bucket = batch.image.shape[1:3]
        if (self.sampler.sizes[index] > np.array(bucket)).any():  # a stand-in of another shape
            scale = min(bucket), min(bucket)
        self.fill_row(batch, row, index, flip, scale)
        batch.seed[row] = seeds[0]

    def _first_of(
        self, batch: Batch, row: int, indices: list[int], epoch: int, reason: str
    ) -> None:
        """Fills a row with the first image that can be used; `reason` says why it is empty."""
        for index in indices:
            with contextlib.suppress(InputError):
                return self._augmented(batch, row, index, epoch)
        tried = len(indices) + 1
        raise InputError(f"none of the {tried} images tried can be trained on; the first: {reason}")


@dataclasses.dataclass(frozen=True)
class _EvalSource(_Source):
    batches: list[tuple[Size, np.ndarray]]  # buckets, and positions in the data set; -1: a filler
    skip_unreadable: bool

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: int) -> Element:
        bucket, indices = self.batches[step]
        batch = self.empty_batch(bucket)
        skipped = []
        for row, index in enumerate(indices[self.rows].tolist()):
            try:
                if index >= 0:
                    self.fill_row(batch, row, index)
            except InputError as error:
                if not self.skip_unreadable:
                    raise
                skipped.append(str(error))
        return Element(batch, tuple(skipped))


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
