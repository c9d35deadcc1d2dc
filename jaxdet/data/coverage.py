"""How well a config's anchors fit a data set's boxes, before anything is learned.

A box that no anchor overlaps enough is never a positive target: the network is not taught it.
"""

import itertools
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int64

from jaxdet.config import ModelConfig, TargetConfig
from jaxdet.ops.anchors import base_anchors
from jaxdet.ops.boxes import CONVENTIONS, columns, iou_of_columns, sides

# Edges of the bins of boxes: of the square root of COCO's area (original pixels, where 32 and 96
# part small, medium and large boxes), of that of width x height (resized), of height over width.
_EDGES = {
    "area": (0, 32, 96, np.inf),
    "side": (0, 16, 32, 64, 128, 256, 512, np.inf),
    "aspect": (0, 1 / 4, 1 / 2, 1, 2, 4, np.inf),
}


def best_ious(
    boxes: Float[np.ndarray, "k 4"], sizes: Int64[np.ndarray, "k 2"], model: ModelConfig
) -> Float64[np.ndarray, " k"]:
    """Returns the largest IoU of each box with any anchor that training allows (`anchors.inside`).

    Exact, without going through the anchors: those of one shape have the same area, so the best
    has the largest intersection, which is a width times a height that depend on the anchor's
    column alone and its row alone.  Either falls with the distance between the centres, to both
    sides alike, so it is largest in the allowed cell that is nearest.

    Args:
        boxes: In resized pixels, inside their image.
        sizes: (height, width) of each box's resized image, without padding.
        model: For strides, scales, ratios and the convention of boxes.

    Returns:
        0 where no anchor overlaps the box, or none fits into the image.
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
            first = np.ceil(-anchor[:2] / stride)
            last = np.floor(ends - anchor[2:] / stride)
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
) -> dict[str, dict[str, Any]]:
    """Returns how well anchors fit all boxes, and those of each bin that holds any.

    Args:
        boxes: In resized pixels.
        areas: Annotated, in square pixels of the original image, as evaluation takes them.
        ious: Of `best_ious`.
        targets: For the thresholds.
    """
    widths, heights = sides(boxes)
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
