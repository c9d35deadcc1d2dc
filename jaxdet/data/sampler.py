"""Which images make up which training step: a pure function of the data set and the seed.

Nothing here depends on devices, hosts, loader processes or what was trained before, which is
what makes exact resume and equal results on any number of devices possible: step k is looked
up, not reached.

Glossary: `G` images in a global batch (over all devices and hosts).
"""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt32, UInt64

from jaxdet.config import DataConfig
from jaxdet.data.buckets import Size, bucket_of, bucket_sizes
from jaxdet.data.dataset import Dataset
from jaxdet.data.image import rescale_sizes
from jaxdet.errors import InputError

# The reference trains on no image with a shorter side (original pixels).
MIN_SIDE = 32


class Step(NamedTuple):
    """A global batch."""

    indices: Int64[np.ndarray, " G"]  # positions in the data set
    seeds: UInt32[np.ndarray, " G"]
    bucket: Size


class Sampler:
    """The steps of all epochs, by random access.

    As in the reference, a batch holds images of one aspect group (wider than high, or not),
    every image of a group comes once an epoch, and a group is filled up to whole batches by
    repeating its first images.  An image whose annotations are all unusable gives its place
    to another one of its group.
    """

    def __init__(self, dataset: Dataset, data: DataConfig, *, global_batch: int, seed: int):
        """Groups the images.

        Args:
            dataset: The training set.
            data: For the images' scale, and whether those without boxes are trained on.
            global_batch: Images per step, over all devices.
            seed: Of the run; any integer.

        Raises:
            InputError: No image can be trained on.
        """
        self.global_batch = global_batch
        self.seed = seed
        self.image_ids = dataset.image_ids
        self.buckets = bucket_sizes(data.image_scale)
        original = np.stack([dataset.heights, dataset.widths], axis=1).astype(np.int64)
        self.sizes = rescale_sizes(original, data.image_scale)
        self.has_use = (dataset.num_boxes > 0) | data.keep_empty
        self.is_wide = dataset.widths > dataset.heights
        self.groups = aspect_groups(dataset, data.keep_empty)
        self.trainable = np.zeros(len(dataset), bool)
        self.trainable[np.concatenate(self.groups)] = True
        self.steps_per_epoch = steps_per_epoch(dataset, data, global_batch)

    def __getitem__(self, step: int) -> Step:
        """Returns the global batch of a step, counted from the beginning of the first epoch."""
        epoch, place = divmod(step, self.steps_per_epoch)
        indices = self._epoch(epoch)[place]
        height, width = self.sizes[indices].max(axis=0)
        bucket = bucket_of((int(height), int(width)), self.buckets)
        return Step(indices, self.seeds_of(indices, epoch), bucket)

    def seeds_of(self, indices: Int64[np.ndarray, " n"], epoch: int) -> UInt32[np.ndarray, " n"]:
        """Returns the seeds of images in an epoch."""
        return image_seeds(self.seed, epoch, self.image_ids[indices])

    def replacements(self, index: int, bucket: Size) -> Int64[np.ndarray, " others"]:
        """Returns images of the same group that fit the bucket, in the order to try them in."""
        fits = (self.sizes <= np.array(bucket)).all(axis=1)
        same = self.trainable & self.has_use & (self.is_wide == self.is_wide[index]) & fits
        others = np.flatnonzero(same)
        first = np.searchsorted(others, index, side="right")
        others = np.roll(others, -int(first))
        return others[others != index]

    @functools.lru_cache(maxsize=2)  # noqa: B019 - a run has one sampler
    def _epoch(self, epoch: int) -> Int64[np.ndarray, "steps G"]:
        rng = np.random.default_rng([_word(self.seed), epoch])
        batches = []
        for group in self.groups:
            order = rng.permutation(group)
            whole = -(-len(order) // self.global_batch) * self.global_batch
            order = self._with_use(np.resize(order, whole), group, epoch)
            batches.append(order.reshape(-1, self.global_batch))
        return rng.permutation(np.concatenate(batches))

    def _with_use(
        self, order: Int64[np.ndarray, " n"], group: Int64[np.ndarray, " m"], epoch: int
    ) -> Int64[np.ndarray, " n"]:
        """Exchanges images without a usable box for others of their group."""
        pool = group[self.has_use[group]]
        other = pool[self.seeds_of(order, epoch) % np.uint32(len(pool))]
        return np.where(self.has_use[order], order, other)


def steps_per_epoch(dataset: Dataset, data: DataConfig, global_batch: int) -> int:
    """Returns the global batches in an epoch; each aspect group is filled up to whole ones.

    Raises:
        InputError: No image can be trained on.
    """
    groups = aspect_groups(dataset, data.keep_empty)
    return sum(-(-len(group) // global_batch) for group in groups)


def aspect_groups(dataset: Dataset, keep_empty: bool = False) -> list[Int64[np.ndarray, " group"]]:
    """Returns positions of the images to train on: not wider than high, and the others.

    They have an annotation (or `keep_empty`), and no side under 32 pixels.  A crowd or an ignored
    box is an annotation too; see `Sampler` for what becomes of an image with nothing else.

    Raises:
        InputError: There are none.
    """
    large = np.minimum(dataset.heights, dataset.widths) >= MIN_SIDE
    trainable = large & ((dataset.num_annotations > 0) | keep_empty)
    has_use = (dataset.num_boxes > 0) | keep_empty
    is_wide = dataset.widths > dataset.heights
    groups = [np.flatnonzero(trainable & (is_wide == wide)) for wide in (False, True)]
    # A group in which no image could stand in for another has nothing to train on.
    groups = [group for group in groups if has_use[group].any()]
    if not groups:
        raise InputError(
            f"{dataset.source}: no image to train on; each one lacks a usable box "
            f"or has a side under {MIN_SIDE} pixels"
        )
    return groups


def image_seeds(
    seed: int, epoch: int, image_ids: Int64[np.ndarray, " n"]
) -> UInt32[np.ndarray, " n"]:
    """Returns an image's seed: a hash of (seed, epoch, image id) and of nothing else."""
    state = np.array([_word(seed)], np.uint64)
    for word in (np.array([_word(epoch)], np.uint64), image_ids.astype(np.uint64)):
        state = _scramble(state) ^ word
    return (_scramble(state) >> np.uint64(32)).astype(np.uint32)


def flips(seeds: UInt32[np.ndarray, " n"], probability: float) -> Bool[np.ndarray, " n"]:
    """Returns whether images are mirrored: each decided by its own seed."""
    # Scrambled once more, so that other uses of the seed are independent of the flip.
    uniform = (_scramble(seeds.astype(np.uint64)) >> np.uint64(40)) / 2.0**24
    return uniform < probability


def _word(number: int) -> int:
    return number % 2**64


def _scramble(words: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """Takes a step of SplitMix64 (Steele, Lea and Flood, 2014), modulo 2^64."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
