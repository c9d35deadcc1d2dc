"""Proposals that a file gives, for Fast R-CNN: jaxdet's own, or the 2018 toolbox's."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxdet.config import Config
from jaxdet.data.dataset import Dataset, Given
from jaxdet.data.load import load_dataset
from jaxdet.errors import InputError
from jaxdet.files import open_regular, reported
from jaxdet.weights import safe_pickle

STEPS_PER_IMAGE = 60  # of a pickle; an array takes some 25


def load_splits(config: Config, splits: Sequence[str], files: Sequence[str]) -> list[Dataset]:
    """Returns `load_dataset`'s images, with the first `rois.max_given` proposals of a split's file.

    The file is `proposals.npz`, or a pickled list of an array [n, 4 or 5] per image in the order of
    the annotation file; boxes are in original pixels, best first.  Most detectors take no file.
    Raises `InputError` where files are missing or of no use, cannot be read or are of other images.
    """
    name, where = config.model.detector, "--mode=eval --save_proposals --split="
    if files and not config.model.takes_proposals:
        raise InputError(f"--proposals: {name} makes its own; leave the flag out")
    if config.model.takes_proposals and len(files) != len(splits):
        raise InputError(
            f"--proposals: {name} needs a file of the {' and of the '.join(splits)} images, as "
            f"{','.join(splits)}; an RPN writes them with {where}{splits[0]}"
        )
    datasets = [load_dataset(config, split) for split in splits]
    for i, path in enumerate(files):
        given = read_proposals(Path(path), datasets[i], config.rois.max_given)
        datasets[i] = dataclasses.replace(datasets[i], given=given)
    return datasets


def read_proposals(path: Path, dataset: Dataset, limit: int) -> Given:
    """Returns a file's proposals of a data set's images; see `load_splits`."""
    with reported(path, "read"), open_regular(path) as file:
        read = _of_npz if file.peek(2).startswith(b"PK") else _of_pickle
        try:
            boxes = read(file, dataset)
            boxes = [of_image[:limit, :4].astype(np.float32) for of_image in boxes]
        except OSError:
            raise
        except Exception as error:  # of many kinds, where bytes are damaged
            line = " ".join(str(error).split())
            line = f"it {line}" if isinstance(error, safe_pickle.Refused) else line
            raise InputError(f"{path}: cannot be used as proposals: {line}") from None
    for image_id, of_image in zip(dataset.image_ids, boxes, strict=True):
        if not np.isfinite(of_image).all():
            raise InputError(f"{path}: boxes of image {image_id} are not finite")
    return Given(np.concatenate(boxes), np.cumsum([0, *map(len, boxes)]), limit)


def _of_npz(file: IO[bytes], dataset: Dataset) -> list[np.ndarray]:
    with np.load(file, allow_pickle=False) as arrays:
        ids, counts, boxes = arrays["image_id"], arrays["count"], arrays["boxes"]
    other = np.setxor1d(ids, dataset.image_ids)
    if other.size or len(ids) != len(dataset):
        first = f"; image {other[0]} is in one of them only" if other.size else ""
        raise ValueError(f"of {len(ids)} images, not of {dataset.source}{first}")
    if counts.min(initial=0) < 0 or boxes.shape != (counts.sum(), 4):
        raise ValueError(f"{boxes.shape} boxes, and counts that add up to {counts.sum()}")
    parts = np.split(boxes, np.cumsum(counts)[:-1])
    return [parts[i] for i in np.argsort(ids)]


def _of_pickle(file: IO[bytes], dataset: Dataset) -> list[np.ndarray]:
    if dataset.file_order is None:
        raise ValueError(f"they go by the order of an annotation file; {dataset.source} has none")
    arrays: Any = safe_pickle.load(file, max_steps=STEPS_PER_IMAGE * len(dataset) + 1000)
    if type(arrays) is not list:
        raise ValueError("no list with an array for each image")
    if len(arrays) != len(dataset):
        raise ValueError(f"of {len(arrays)} images, not of the {len(dataset)} of {dataset.source}")
    for i, array in enumerate(arrays):
        is_array = isinstance(array, np.ndarray) and array.dtype.kind == "f" and array.ndim == 2
        if not is_array or array.shape[1] not in (4, 5):
            raise ValueError(f"entry {i} is no array of floats, [n, 4] or [n, 5]")
    return [arrays[i] for i in dataset.file_order]
