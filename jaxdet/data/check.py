"""What is wrong with a data set, and what training makes of it.

A fault is what would stop a run or teach it something wrong; a warning is what the loader leaves
out, clips or repairs.  The annotation file's own faults are reported by `load_coco`.

Glossary: `I` images, `K` annotations.  Lengths are in pixels of the original image unless
they are said to be resized.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64

from jaxdet.config import DataConfig
from jaxdet.data.buckets import Size, bucket_sizes, buckets_of
from jaxdet.data.dataset import Dataset
from jaxdet.data.findings import Finding, Report
from jaxdet.data.image import MissingImageError, OtherSizeError, resized_sizes
from jaxdet.data.sampler import MIN_SIDE, aspect_groups, steps_per_epoch
from jaxdet.errors import InputError
from jaxdet.ops.boxes import clip

# Some of COCO's own boxes end a fraction of a pixel outside.
SLACK = 1.0

# A proposal is clipped to the image: of a box with less of its area there it can cover no half.
MIN_INSIDE = 0.5

# Images per task of a thread.
_BLOCK = 64

# By what `Dataset.read` raises; all others are unreadable.
_IMAGE_FAULTS = {
    MissingImageError: "missing images",
    OtherSizeError: "images of another size than annotated",
}


def check_images(
    dataset: Dataset, report: Report, progress: Callable[[int], None] = lambda done: None
) -> None:
    """Decodes every image, as training will, in as many threads as there are cores.

    Args:
        dataset: Whose images.
        report: Is called with the images that are missing, unreadable or not of the annotated size.
        progress: Is called with the number of images read so far.
    """
    blocks = [range(i, min(i + _BLOCK, len(dataset))) for i in range(0, len(dataset), _BLOCK)]
    faults: dict[str, dict[int, str]] = {}  # a line by image, by kind
    pool = ThreadPoolExecutor(os.cpu_count())  # decoding does not hold Python's lock
    try:
        found_in = pool.map(partial(_faults_of, dataset), blocks)
        for block, found in zip(blocks, found_in, strict=True):
            for index, kind, line in found:
                faults.setdefault(kind, {})[index] = line
            progress(block.stop)
    finally:
        pool.shutdown(cancel_futures=True)
    for kind, lines in faults.items():
        report(Finding(kind, np.array(list(lines)), lines.__getitem__))


def _faults_of(dataset: Dataset, block: range) -> list[tuple[int, str, str]]:
    """Returns the index, the kind and the line of each image that cannot be used."""
    faults = []
    for index in block:
        try:
            dataset.read(index)
        except InputError as error:  # not kept itself, because images hang on its traceback
            kind = _IMAGE_FAULTS.get(type(error), "unreadable images")
            faults.append((index, kind, f"image {dataset.image_ids[index]}: {error}"))
    return faults


def check_annotations(dataset: Dataset, report: Report) -> None:
    """Reports boxes outside their image, boxes without use, and files that several images share."""
    owners = np.repeat(np.arange(len(dataset)), dataset.num_annotations)
    heights, widths = dataset.heights[owners], dataset.widths[owners]
    x, y, w, h = dataset.xywh.T

    def line(i: int) -> str:
        image, box = owners[i], ", ".join(f"{side:g}" for side in dataset.xywh[i])
        return (
            f"annotation {dataset.annotation_ids[i]} of image {dataset.image_ids[image]} "
            f"({dataset.file_names[image]}, {widths[i]} x {heights[i]}): bbox [{box}], "
            f"area {dataset.area[i]:g}"
        )

    def note(what: str, bad: Bool[np.ndarray, " K"], harmless: bool) -> None:
        report(Finding(what, np.flatnonzero(bad), line, harmless))

    inside_w = np.clip(np.minimum(x + w, widths) - np.maximum(x, 0), 0, None)
    inside_h = np.clip(np.minimum(y + h, heights) - np.maximum(y, 0), 0, None)
    outside = (w > 0) & (h > 0) & (inside_w * inside_h < MIN_INSIDE * w * h)
    beyond = (np.minimum(x, y) < -SLACK) | (x + w > widths + SLACK) | (y + h > heights + SLACK)
    useless = ~dataset.usable & ~dataset.iscrowd & ~dataset.ignore
    note("boxes mostly outside their image", outside, False)
    note("boxes that reach beyond their image: clipped", beyond & ~outside, True)
    note("boxes under a pixel wide or high, or of no area: left out", useless, True)
    _check_shared_files(dataset, report)


def _check_shared_files(dataset: Dataset, report: Report) -> None:
    first: dict[str, int] = {}
    for index, name in enumerate(dataset.file_names):
        first.setdefault(name, index)
    shared = [i for i, name in enumerate(dataset.file_names) if first[name] != i]

    def line(i: int) -> str:
        ids, name = dataset.image_ids, dataset.file_names[i]
        return f"image {ids[i]} has the file of image {ids[first[name]]}, {name}"

    report(Finding("images that share a file", np.array(shared, np.int64), line, harmless=True))


def check_training(
    dataset: Dataset,
    report: Report,
    data: DataConfig,
    global_batch: int,
) -> dict[str, Any]:
    """Returns how many images training visits, why not the others, and in how many steps.

    Args:
        dataset: The training set.
        report: Is called with the images that are left out or replaced.
        data: For whether images without boxes are trained on.
        global_batch: Images per step over all devices.

    Returns:
        `images` that are visited in an epoch; `left_out`, images by the reason why they are
        not, or why another one comes in their place; `global_batch` and `steps_per_epoch`.
    """
    visited = np.zeros(len(dataset), bool)
    steps = 0
    try:
        visited[np.concatenate(aspect_groups(dataset, data.keep_empty))] = True
        steps = steps_per_epoch(dataset, data, global_batch)
    except InputError as error:
        message = str(error)
        report(Finding("nothing to train on", np.zeros(1, np.int64), lambda i: message))
    useless = visited & (dataset.num_boxes == 0) & (not data.keep_empty)
    reasons = _left_out(dataset, visited, useless)
    for reason, where in reasons.items():
        report(
            Finding(
                reason,
                np.flatnonzero(where),
                lambda i: f"image {dataset.image_ids[i]} ({dataset.file_names[i]})",
                harmless=True,
            )
        )
    return {
        "images": int(visited.sum() - useless.sum()),
        "left_out": {reason: int(where.sum()) for reason, where in reasons.items()},
        "global_batch": global_batch,
        "steps_per_epoch": steps,
    }


def _left_out(
    dataset: Dataset, visited: Bool[np.ndarray, " I"], useless: Bool[np.ndarray, " I"]
) -> dict[str, Bool[np.ndarray, " I"]]:
    """Returns the images that are not trained on, by the reason."""
    small = np.minimum(dataset.heights, dataset.widths) < MIN_SIDE
    empty = ~small & ~visited & (dataset.num_annotations == 0)
    return {
        f"images with a side under {MIN_SIDE} pixels: not trained on": small,
        "images without annotations: not trained on": empty,
        "images with only crowds, ignored or degenerate boxes: others take their turn": useless,
        "images of an orientation in which none has a box to train on: not trained on": (
            ~visited & ~small & ~empty
        ),
    }


def count_annotations(dataset: Dataset) -> dict[str, int]:
    """Counts annotations by what becomes of them: each once, and all in `annotations`."""
    crowd, ignored = dataset.iscrowd, dataset.ignore & ~dataset.iscrowd
    return {
        "annotations": len(dataset.area),
        "to_train_on": int(dataset.usable.sum()),
        "crowds": int(crowd.sum()),
        "ignored": int(ignored.sum()),
        "degenerate": int((~dataset.usable & ~crowd & ~ignored).sum()),
    }


def count_buckets(dataset: Dataset, data: DataConfig) -> dict[Size, int]:
    """Returns images by the smallest bucket that holds them, without the buckets that hold none."""
    buckets = bucket_sizes(data.image_scale)
    held_by = buckets_of(resized_sizes(dataset.sizes, data)[0], buckets)
    counts = np.bincount(held_by, minlength=len(buckets))
    return {size: int(count) for size, count in zip(buckets, counts, strict=True) if count}


def boxes_as_trained(
    dataset: Dataset, data: DataConfig
) -> tuple[Float[np.ndarray, "k 4"], Int64[np.ndarray, "k 2"]]:
    """Returns all boxes that training uses, as `resize_boxes` makes them, not mirrored.

    Returns:
        Boxes in resized pixels, and (height, width) of the resized image of each.
    """
    owners = np.repeat(np.arange(len(dataset)), dataset.num_annotations)[dataset.usable]
    sizes, scales = (values[owners] for values in resized_sizes(dataset.sizes, data))
    boxes = dataset.corners(dataset.xywh[dataset.usable]) * np.tile(scales, 2)
    return clip(boxes, sizes, dataset.convention), sizes
