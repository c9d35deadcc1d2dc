"""Proposals that a file gives, for Fast R-CNN: jaxdet's own, or the 2018 toolbox's."""

from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxdet.config import Config
from jaxdet.data.dataset import Dataset
from jaxdet.data.load import load_dataset
from jaxdet.errors import InputError
from jaxdet.files import open_regular, reported
from jaxdet.weights import safe_pickle

STEPS_PER_IMAGE = 60  # of a pickle; an array takes some 25


def load_with_proposals(config: Config, split: str, path: str) -> Dataset:
    """Returns `load_dataset`'s images with a file's proposals, the first `rois.max_given` of each.

    The file is `proposals.npz`, or a pickled list of an array [n, 4 or 5] per image in the order of
    the annotation file; boxes are in original pixels, best first.

    Args:
        config: of any detector; most make their own proposals, and take no file.
        split: "train" or "val".
        path: of the split's file, or empty.

    Raises:
        InputError: a file is needed or not of use, cannot be read, or is of other images.
    """
    name, where = config.model.detector, f"--mode=eval --save_proposals --split={split}"
    if path and not config.model.takes_proposals:
        raise InputError(f"--proposals: {name} makes its own; leave the flag out")
    if config.model.takes_proposals and not path:
        raise InputError(f"--proposals: {name} needs a file, as an RPN writes it with {where}")
    dataset = load_dataset(config, split)
    return with_proposals(dataset, Path(path), config.rois.max_given) if path else dataset


def with_proposals(dataset: Dataset, path: Path, limit: int) -> Dataset:
    """Returns a data set with a file's proposals; see `load_with_proposals`."""
    with reported(path, "read"), open_regular(path) as file:
        is_npz = file.read(2) == b"PK"
        file.seek(0)
        try:
            boxes = _of_npz(file, dataset) if is_npz else _of_pickle(file, dataset)
        except OSError:
            raise
        except Exception as error:  # of many kinds, where bytes are damaged
            raise InputError(f"{path}: cannot be used as proposals: {_line(error)}") from None
    for image_id, of_image in zip(dataset.image_ids, boxes, strict=True):
        if not np.isfinite(of_image).all():
            raise InputError(f"{path}: boxes of image {image_id} are not finite")
    return dataset.with_proposals(boxes, limit)


def _line(error: Exception) -> str:
    return f"it {error}" if isinstance(error, safe_pickle.Refused) else " ".join(str(error).split())


def _of_npz(file: IO[bytes], dataset: Dataset) -> list[np.ndarray]:
    """Returns each image's boxes; raises exceptions of many kinds."""
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
    """Returns each image's boxes; raises exceptions of many kinds."""
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
