"""What is wrong with a data set beyond the annotation file's own faults, which `load_coco` reports.

Lengths are in original pixels unless they are said to be resized.
"""

import dataclasses
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int64

from jaxdet.config import Config, DataConfig, ModelConfig, TargetConfig
from jaxdet.data.dataset import Dataset
from jaxdet.data.findings import Findings
from jaxdet.data.image import is_deep, resized_sizes
from jaxdet.data.sampler import MIN_SIDE, aspect_groups, steps_per_epoch
from jaxdet.errors import InputError
from jaxdet.ops.anchors import base_anchors
from jaxdet.ops.boxes import CONVENTIONS, BoxConvention, clip, columns, iou_of_columns, sides

# A proposal is clipped to the image: of a box with less of its area there it can cover no half.
MIN_INSIDE = 0.5

# Edges of the bins of boxes: of the square root of COCO's area (original pixels, where 32 and 96
# part small, medium and large boxes), of that of width x height (resized), of height over width.
_EDGES = {
    "area": (0, 32, 96, np.inf),
    "side": (0, 16, 32, 64, 128, 256, 512, np.inf),
    "aspect": (0, 1 / 4, 1 / 2, 1, 2, 4, np.inf),
}

_SCALES = (1.0, 2.0, 4.0, 5.6, 8.0, 11.2, 16.0, 32.0)

_BLACK = "images of 16 bits of which 12 or less are used: nearly black, as the upper 8 are read"


def check_images(
    dataset: Dataset, findings: Findings, progress: Callable[[int], None] = lambda done: None
) -> None:
    """Decodes every image and mask, as training will, and reports what cannot be used.

    `progress` is called with the number of images read so far.
    """
    many = [range(i, min(i + 16, len(dataset))) for i in range(0, len(dataset), 16)]
    pool = ThreadPoolExecutor(os.cpu_count())  # decoding does not hold Python's lock
    try:
        parts = pool.map(lambda part: [_faults_of(dataset, index) for index in part], many)
        faults = itertools.chain.from_iterable(parts)
        for index, (unreadable, no_masks, black) in enumerate(faults):
            number = dataset.image_ids[index]
            findings.add("unreadable images", [f"image {number}: {line}" for line in unreadable])
            findings.add("segmentations that are no masks", no_masks)
            dark = [f"image {number}: {dataset.path_of(index)}"] if black else []
            findings.add(_BLACK, dark, harmless=True)
            progress(index + 1)
    finally:
        pool.shutdown(cancel_futures=True)


def _faults_of(dataset: Dataset, index: int) -> tuple[list[str], list[str], bool]:
    """Returns what is wrong with an image's file, with its masks, and if it is dark."""
    unreadable, no_masks, black = list[str](), list[str](), False
    # Errors are not kept themselves, because images hang on their tracebacks.
    try:
        black = bool(dataset.read(index).max() < 16) and is_deep(dataset.path_of(index))
    except InputError as error:
        unreadable.append(str(error))
    places = range(*dataset.offsets[index : index + 2].tolist())
    for place in places if dataset.segmentations is not None else ():
        try:
            dataset.bitmap(place)
        except InputError as error:
            no_masks.append(str(error))
    return unreadable, no_masks, black


def count_classes(dataset: Dataset, findings: Findings) -> dict[str, int]:
    """Returns how many boxes of each class training uses; reports classes that have none."""
    if dataset.labels is None:
        return {}
    counts = np.bincount(dataset.labels[dataset.usable], minlength=len(dataset.class_names))
    names = dataset.class_names
    findings.add("classes without boxes", counts == 0, lambda i: ascii(names[i]), harmless=True)
    return dict(zip(names, counts.tolist(), strict=True))


def check_annotations(dataset: Dataset, findings: Findings) -> None:
    """Reports boxes outside their image, boxes without use, and files that several images share."""
    ids, names, owners = dataset.image_ids, dataset.file_names, dataset.owners
    heights, widths = dataset.heights[owners], dataset.widths[owners]
    x, y, w, h = dataset.xywh.T

    def line(i: int) -> str:
        box = ", ".join(f"{side:g}" for side in dataset.xywh[i])
        return (
            f"annotation {dataset.annotation_ids[i]} of image {ids[owners[i]]} "
            f"({names[owners[i]]}, {widths[i]} x {heights[i]}): bbox [{box}], "
            f"area {dataset.area[i]:g}"
        )

    inside_w = np.clip(np.minimum(x + w, widths) - np.maximum(x, 0), 0, None)
    inside_h = np.clip(np.minimum(y + h, heights) - np.maximum(y, 0), 0, None)
    outside = (w > 0) & (h > 0) & (inside_w * inside_h < MIN_INSIDE * w * h)
    useless = ~dataset.usable & ~dataset.iscrowd & ~dataset.ignore
    findings.add("boxes mostly outside their image", outside, line)
    what = "boxes under a pixel wide or high, or of no area: left out"
    findings.add(what, useless, line, harmless=True)
    first: dict[str, int] = {}
    findings.add(
        "images that share a file",
        [i for i, name in enumerate(names) if first.setdefault(name, i) != i],
        lambda i: f"image {ids[i]} has the file of image {ids[first[names[i]]]}, {names[i]}",
        harmless=True,
    )


def check_training(
    dataset: Dataset, findings: Findings, data: DataConfig, global_batch: int
) -> dict[str, int]:
    """Reports images that training leaves out; returns how many it visits, and in how many steps.

    `global_batch` is images per step over all devices.
    """
    visited, steps = np.zeros(len(dataset), bool), 0
    try:
        visited[np.concatenate(aspect_groups(dataset, data.keep_empty))] = True
        steps = steps_per_epoch(dataset, data, global_batch)
    except InputError as error:
        findings.add("nothing to train on", [str(error)])
    small = np.minimum(dataset.heights, dataset.widths) < MIN_SIDE
    empty = ~small & ~visited & (dataset.num_annotations == 0)
    useless = visited & (dataset.num_boxes == 0) & (not data.keep_empty)
    alone = ~visited & ~small & ~empty

    def line(i: int) -> str:
        return f"image {dataset.image_ids[i]} ({dataset.file_names[i]})"

    for reason, where in (
        (f"images with a side under {MIN_SIDE} pixels: not trained on", small),
        ("images without annotations: not trained on", empty),
        ("images with only crowds, ignored or degenerate boxes: others take their turn", useless),
        ("images of an orientation in which none has a box to train on: not trained on", alone),
    ):
        findings.add(reason, where, line, harmless=True)
    images = int(visited.sum() - useless.sum())
    return {"images": images, "global_batch": global_batch, "steps_per_epoch": steps}


def check_anchors(dataset: Dataset, findings: Findings, config: Config) -> dict[str, Any]:
    """Reports boxes that are not learned; returns how well anchors fit, as `summarise` says it."""
    boxes, sizes = boxes_as_trained(dataset, config.data)
    ious = best_ious(boxes, sizes, config.model, config.targets.inside_only)
    least = config.targets.min_positive_iou
    ids, owners = dataset.annotation_ids[dataset.usable], dataset.owners[dataset.usable]

    def line(i: int) -> str:
        width, height = sides(boxes[i], dataset.convention)
        return (
            f"annotation {ids[i]} of image {dataset.image_ids[owners[i]]} "
            f"({dataset.file_names[owners[i]]}): {width:.0f} x {height:.0f} pixels when resized, "
            f"best IoU {ious[i]:.2f}"
        )

    what = f"boxes that no anchor overlaps by {least:g}: not learned"
    findings.add(what, ious < least, line, harmless=True)
    areas = dataset.area[dataset.usable]
    return summarise(boxes, areas, ious, config.targets, dataset.convention)


def fitting_scales(dataset: Dataset, config: Config) -> tuple[list[float], float]:
    """Returns up to three anchor scales, and the share of boxes that their anchors cover by 0.5.

    Each is the one of `_SCALES` that adds most, while it adds a hundredth.  Of many boxes only
    some are looked at.
    """
    boxes, sizes = boxes_as_trained(dataset, config.data)
    step = max(1, len(boxes) // 20_000)
    some, inside = (boxes[::step], sizes[::step]), config.targets.inside_only
    models = [dataclasses.replace(config.model, anchor_scales=(scale,)) for scale in _SCALES]
    covered = np.array([best_ious(*some, model, inside) >= 0.5 for model in models])
    chosen, done = list[float](), np.zeros(len(some[0]), bool)
    while len(chosen) < 3 and len(done):
        shares = (covered | done).mean(axis=1)
        if shares.max() < done.mean() + 0.01:
            break
        chosen.append(_SCALES[shares.argmax()])
        done |= covered[shares.argmax()]
    return sorted(chosen), float(done.mean()) if len(done) else 0.0


def boxes_as_trained(
    dataset: Dataset, data: DataConfig
) -> tuple[Float[np.ndarray, "k 4"], Int64[np.ndarray, "k 2"]]:
    """Returns the boxes that training uses, in resized pixels, and the size of each one's image."""
    owners = dataset.owners[dataset.usable]
    sizes, scales = (values[owners] for values in resized_sizes(dataset.sizes, data))
    boxes = dataset.corners(dataset.xywh[dataset.usable]) * np.tile(scales, 2)
    return clip(boxes, sizes, dataset.convention), sizes


def best_ious(
    boxes: Float[np.ndarray, "k 4"],
    sizes: Int64[np.ndarray, "k 2"],
    model: ModelConfig,
    inside_only: bool = True,
) -> Float64[np.ndarray, " k"]:
    """Returns the largest IoU of each box with any anchor that training allows.

    A box that no anchor overlaps enough is never a positive target: the network is not taught it.

    Exact, without going through the anchors: those of one shape have the same area, so the best
    has the largest intersection, which is a width times a height that depend on the anchor's
    column alone and its row alone.  Either falls with the distance between the centres, to both
    sides alike, so it is largest in the allowed cell that is nearest.

    `boxes` are in resized pixels, `sizes` (height, width) of each one's resized image, unpadded.
    Without `inside_only`, anchors that leave the image are allowed as well.
    """
    convention = CONVENTIONS[model.convention]
    boxes = boxes.astype(np.float64)
    wanted = columns(boxes, convention)
    twice_centre = boxes[:, :2] + boxes[:, 2:]
    best = np.zeros(len(boxes))
    for stride in model.strides:
        ends = (sizes[:, ::-1] - convention.offset) / stride  # of the image, in cells
        for base in base_anchors(stride, model.anchor_scales, model.anchor_ratios, convention):
            anchor = base.astype(np.float64)  # of cell 0
            first = np.ceil(-anchor[:2] / stride) if inside_only else np.zeros(2)
            last = np.floor(ends - anchor[2:] / stride) if inside_only else np.ceil(ends) - 1
            cell = np.round((twice_centre - anchor[:2] - anchor[2:]) / (2 * stride))
            nearest = anchor + stride * np.tile(np.clip(cell, first, last), 2)
            ious = iou_of_columns(columns(nearest, convention), wanted, convention)
            best = np.maximum(best, np.where((first <= last).all(axis=1), ious, 0))
    return best


def summarise(
    boxes: Float[np.ndarray, "k 4"],
    areas: Float[np.ndarray, " k"],
    ious: Float[np.ndarray, " k"],
    targets: TargetConfig,
    convention: BoxConvention,
) -> dict[str, dict[str, Any]]:
    """Returns how well anchors fit all boxes, and those of each bin that holds any.

    `boxes` are in resized pixels, `areas` as annotated, `ious` those of `best_ious`.
    """
    widths, heights = sides(boxes, convention)
    by = {"area": np.sqrt(areas), "side": np.sqrt(widths * heights), "aspect": heights / widths}
    bins = {"all": np.ones(len(ious), bool)}
    for name, edges in _EDGES.items():
        for low, high in itertools.pairwise(edges):
            bins[f"{name} {low:g} to {high:g}"] = (low <= by[name]) & (by[name] < high)
    positive, least = targets.positive_iou, targets.min_positive_iou
    summary: dict[str, dict[str, Any]] = {}
    for name, inside in bins.items():
        if inside.any():
            of_bin = ious[inside]
            shares = {
                "share": inside,
                "mean IoU": of_bin,
                f"from {positive:g}": of_bin >= positive,
                "from 0.5": of_bin >= 0.5,
                f"under {least:g}": of_bin < least,
            }
            means = {key: round(float(np.mean(values)), 4) for key, values in shares.items()}
            summary[name] = {"boxes": len(of_bin), **means}
    return summary
