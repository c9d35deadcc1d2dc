"""Plans which images make up which training step, from the data set and the seed alone.

Step k is looked up, not reached, so a run goes on exactly, and on any number of devices.
`G` is images in a global batch, over all devices and hosts.
"""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int64, UInt32, UInt64

from jaxdet.config import DataConfig
from jaxdet.data.buckets import Size, bucket_of, bucket_sizes
from jaxdet.data.dataset import Dataset
from jaxdet.data.image import resized_sizes
from jaxdet.errors import InputError

# The reference trains on no image with a shorter side (original pixels).
MIN_SIDE = 32


class Sampler:
    """The steps of all epochs, by random access.

    As in the reference, a batch holds images of one aspect group (wider than high, or not),
    every image of a group comes once an epoch, and a group is filled up to whole batches by
    repeating its first images.  An image whose annotations are all unusable, or that a file gives
    no proposals, leaves its place to another one of its group.
    """

    def __init__(self, dataset: Dataset, data: DataConfig, *, global_batch: int, seed: int):
        """Groups the images; `seed` is any integer.  Raises as `aspect_groups`."""
        self.global_batch, self.seed = global_batch, seed
        self.image_ids = dataset.image_ids
        self.buckets = bucket_sizes(data.image_scale)
        self.sizes = resized_sizes(dataset.sizes, data)[0]
        self.has_use = _has_use(dataset, data.keep_empty)
        self.groups = aspect_groups(dataset, data.keep_empty)
        self.steps_per_epoch = steps_per_epoch(dataset, data, global_batch)

    def __getitem__(self, step: int) -> tuple[Int64[np.ndarray, " G"], Size]:
        """Returns the positions of a step's images in the data set, and their bucket."""
        epoch, position = divmod(step, self.steps_per_epoch)
        indices = self._epoch(epoch)[position]
        height, width = self.sizes[indices].max(axis=0).tolist()
        return indices, bucket_of((height, width), self.buckets)

    def replacements(self, index: int, bucket: Size) -> Int64[np.ndarray, " others"]:
        """Returns all other images in the order to try them in.

        Those of the same group that fit the bucket come first; the rest must be made smaller.
        """
        everything = np.sort(np.concatenate(self.groups))
        others = everything[self.has_use[everything] & (everything != index)]
        others = np.roll(others, -int(np.searchsorted(others, index)))
        group = next(group for group in self.groups if index in group)
        fits = np.isin(others, group) & (self.sizes[others] <= np.array(bucket)).all(axis=1)
        return np.concatenate([others[fits], others[~fits]])

    @functools.lru_cache(maxsize=2)  # noqa: B019 - a run has one sampler
    def _epoch(self, epoch: int) -> Int64[np.ndarray, "steps G"]:
        rng = np.random.default_rng([self.seed % 2**64, epoch])
        batches = []
        for group in self.groups:
            shape = -(-len(group) // self.global_batch), self.global_batch
            order = np.resize(rng.permutation(group), shape)
            # Images without a usable box are exchanged for others of their group.
            pool = group[self.has_use[group]]
            seeds = image_seeds(self.seed, epoch, self.image_ids[order])
            other = pool[seeds % np.uint32(len(pool))]
            batches.append(np.where(self.has_use[order], order, other))
        return rng.permutation(np.concatenate(batches))


def steps_per_epoch(dataset: Dataset, data: DataConfig, global_batch: int) -> int:
    """Returns the global batches in an epoch; raises as `aspect_groups`."""
    groups = aspect_groups(dataset, data.keep_empty)
    return sum(-(-len(group) // global_batch) for group in groups)


def aspect_groups(dataset: Dataset, keep_empty: bool = False) -> list[Int64[np.ndarray, " group"]]:
    """Returns the images that training visits: those not wider than high, and the others.

    They have an annotation (or `keep_empty`), and no side under 32 pixels.  A crowd or an ignored
    box is an annotation too; see `Sampler` for what becomes of an image with nothing else.  Raises
    `InputError` if there are none.
    """
    large = np.minimum(dataset.heights, dataset.widths) >= MIN_SIDE
    trainable = large & ((dataset.num_annotations > 0) | keep_empty)
    has_use = _has_use(dataset, keep_empty)
    is_wide = dataset.widths > dataset.heights
    groups = [np.flatnonzero(trainable & (is_wide == wide)) for wide in (False, True)]
    # A group in which no image could replace another has nothing to train on.
    groups = [group for group in groups if has_use[group].any()]
    if not groups:
        rest = ~(dataset.usable | dataset.iscrowd | dataset.ignore)
        raise InputError(
            f"{dataset.source}: no image to train on: of {len(rest)} annotations "
            f"{dataset.iscrowd.sum()} are crowds, {dataset.ignore.sum()} to be ignored and "
            f"{rest.sum()} under a pixel; of {len(large)} images {(~large).sum()} have a side "
            f"under {MIN_SIDE} pixels"
        )
    return groups


def _has_use(dataset: Dataset, keep_empty: bool) -> Bool[np.ndarray, " images"]:
    """Returns whether training an image teaches anything: it has boxes, and any proposals."""
    has_use = (dataset.num_boxes > 0) | keep_empty
    return has_use if dataset.given is None else has_use & (np.diff(dataset.given.offsets) > 0)


def image_seeds(
    seed: int, epoch: int, image_ids: Int64[np.ndarray, "*n"]
) -> UInt32[np.ndarray, "*n"]:
    """Returns images' seeds: hashes of (seed, epoch, image id) and of nothing else."""
    state = np.full(image_ids.shape, seed % 2**64, np.uint64)
    for word in (np.uint64(epoch), image_ids.astype(np.uint64)):
        state = _scramble(state) ^ word
    return (_scramble(state) >> np.uint64(32)).astype(np.uint32)


def flips(seeds: UInt32[np.ndarray, " n"], probability: float) -> Bool[np.ndarray, " n"]:
    """Decides by each image's own seed whether it is mirrored."""
    # Scrambled once more, so that other uses of the seed are independent of the flip.
    uniform = (_scramble(seeds.astype(np.uint64)) >> np.uint64(40)) / 2.0**24
    return uniform < probability


def draw_scale(data: DataConfig, seeds: UInt32[np.ndarray, "1"]) -> Size | None:
    """Returns the (long, short) bounds an image draws by its seed; None if there is one scale.

    Independent of the flip.  As the reference's `multiscale_mode` and detectron2's
    `MIN_SIZE_TRAIN_SAMPLING` do, in `range` the long and the short side are drawn apart.
    """
    shorts = data.train_short_sides
    if not shorts:
        return None
    longs = data.train_long_sides or (max(data.image_scale),) * len(shorts)
    word = int(_scramble(~seeds.astype(np.uint64))[0])
    if data.multiscale_mode == "value":
        place = word % len(shorts)
        return longs[place], shorts[place]

    def between(sides: Sequence[int], word: int) -> int:
        return min(sides) + word % (max(sides) - min(sides) + 1)

    return between(longs, word >> 32), between(shorts, word)


def _scramble(words: UInt64[np.ndarray, "*n"]) -> UInt64[np.ndarray, "*n"]:
    """Applies SplitMix64 (Steele, Lea and Flood, 2014): one step and its finaliser, modulo 2^64."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
