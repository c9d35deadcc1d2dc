"""A user's own function between reading a training image and resizing it.

`h, w` the image's size in original pixels, `n` its objects.  The function sees boxes as COCO has
them, `x1, y1, x2, y2` with `x2 = x1 + width`, whatever the config's convention.
"""

import functools
import importlib
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int32, UInt8

from jaxdet.config import load_module
from jaxdet.data.dataset import Dataset
from jaxdet.errors import InputError

SLACK = 0.5  # pixels that a box may leave the image by, as rounding makes it; it is clipped


class AugmentError(Exception):
    """The function failed or returned what cannot be used; of one line that says on which image.

    No `InputError`, which in an image means that another may take its place.
    """


class Sample(NamedTuple):
    """What the function takes, before a `numpy.random.Generator`, and returns."""

    image: UInt8[np.ndarray, "h w 3"]  # RGB
    boxes: Float64[np.ndarray, "n 4"]  # inside the image
    labels: Int32[np.ndarray, " n"]  # 0-based classes; 0 where there are none
    masks: UInt8[np.ndarray, "n h w"] | None  # 1 in the object; None where none are trained on


@functools.cache
def load_augment(name: str) -> Callable[..., Any]:
    """Returns the function `config.data.augment` names: MODULE:FUNCTION or FILE.py:FUNCTION.

    Raises `InputError` if there is none.
    """
    where, _, function = name.rpartition(":")
    try:
        module = load_module(where) if where.endswith(".py") else importlib.import_module(where)
        found = getattr(module, function)
    except Exception as error:  # whatever the module raises
        raise InputError(
            f"config.data.augment: {name}: cannot be imported ({_said(error)}); give "
            "MODULE:FUNCTION or FILE.py:FUNCTION"
        ) from error
    if not callable(found):
        raise InputError(f"config.data.augment: {name}: is no function")
    return found


def augmented(
    name: str,
    dataset: Dataset,
    index: int,
    image: UInt8[np.ndarray, "h w 3"],
    seed: int,
    max_boxes: int,
) -> tuple[Sample, Float32[np.ndarray, "n 4"]]:
    """Returns an image and its objects as the function changes them, and boxes for training.

    Those are of the data set's convention, without what is under a pixel, and `max_boxes` at most.
    `seed` is the image's in its epoch.  Raises `AugmentError`, and `InputError` if a mask in the
    data set is none.
    """
    rows, (height, width) = dataset.rows(index), image.shape[:2]
    x, y, w, h = dataset.xywh[rows][dataset.usable[rows]].T
    boxes = np.stack([x, y, x + w, y + h], axis=1).clip(0, [width, height, width, height])
    masks = None
    if dataset.segmentations is not None:
        none = np.zeros((0, height, width), np.uint8)
        masks = np.concatenate([none, *(mask[None] for mask in dataset.masks_of(index))])
    given = _large(Sample(image, boxes, dataset.labels_of(index), masks))
    try:
        made = load_augment(name)(*given, np.random.default_rng(seed))
        sample = _checked(made, given, max(len(dataset.class_names), 1))
        if len(sample.boxes) > max_boxes:
            raise ValueError(f"returns {len(sample.boxes)} boxes; there is room for {max_boxes}")
    except Exception as error:  # whatever the function raises
        image_id = dataset.image_ids[index]
        raise AugmentError(f"{name}: on image {image_id}: {_said(error)}") from error
    corners = sample.boxes
    return sample, dataset.corners(np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]]))


def _checked(made: Any, given: Sample, classes: int) -> Sample:
    """Returns what a function made, boxes clipped; raises `ValueError` if it cannot be used."""
    if not isinstance(made, tuple | list) or len(made) != len(given):
        raise ValueError("returns something else than (image, boxes, labels, masks)")
    image, boxes, labels, masks = made
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,):
        raise ValueError("returns an image that is not uint8 of (height, width, 3)")
    if not image.size:
        raise ValueError("returns an image without pixels")
    boxes, labels = np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(labels)
    size = np.array([*image.shape[1::-1]] * 2)
    if not ((boxes >= -SLACK) & (boxes <= size + SLACK)).all():
        raise ValueError(f"returns boxes outside of the image of {size[0]} x {size[1]} pixels")
    if (boxes[:, 2:] < boxes[:, :2]).any():
        raise ValueError("returns boxes that are not x1 y1 x2 y2")
    if labels.shape != boxes.shape[:1] or (len(labels) and labels.dtype.kind not in "iu"):
        raise ValueError(f"returns labels {labels.dtype}{list(labels.shape)} of {len(boxes)} boxes")
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"returns labels beyond 0 to {classes - 1}")
    if given.masks is None:
        masks = None
    elif np.shape(masks) != (len(boxes), *image.shape[:2]):
        raise ValueError(f"returns masks {list(np.shape(masks))}, not one of each box and pixel")
    else:
        masks = np.asarray(masks).astype(bool).astype(np.uint8)
    image, boxes = np.ascontiguousarray(image), boxes.clip(0, size)
    return _large(Sample(image, boxes, labels.astype(np.int32), masks))


def _large(sample: Sample) -> Sample:
    """Leaves out objects with a side under a pixel, as `Dataset.usable` does."""
    kept = (sample.boxes[:, 2:] - sample.boxes[:, :2] >= 1).all(axis=1)
    masks = None if sample.masks is None else sample.masks[kept]
    return Sample(sample.image, sample.boxes[kept], sample.labels[kept], masks)


def _said(error: Exception) -> str:
    """Returns an exception and where it comes from as part of a line."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
