"""How well a config's anchors fit a data set's boxes, before anything is learned.

A box that no anchor overlaps enough is never a positive target: the network is not taught it.
"""

import itertools
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from jaxdet.config import ModelConfig, TargetConfig
from jaxdet.ops.anchors import base_anchors
from jaxdet.ops.boxes import CONVENTIONS, BoxConvention, columns, iou_of_columns, sides

# Boxes at a time: temporary arrays stay in the cache.
_BLOCK = 8192

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
    shapes = [
        (stride, anchor.astype(np.float64))
        for stride in model.strides
        for anchor in base_anchors(stride, model.anchor_scales, model.anchor_ratios, convention)
    ]
    best = np.zeros(len(boxes))
    for start in range(0, len(boxes), _BLOCK):
        rows = slice(start, start + _BLOCK)
        block = boxes[rows].astype(np.float64)
        x1, y1, x2, y2 = block.T
        heights, widths = sizes[rows].T
        wanted = columns(block, convention)
        for stride, anchor in shapes:
            x, fits_x = _nearest(x1 + x2, widths, anchor[[0, 2]], stride, convention)
            y, fits_y = _nearest(y1 + y2, heights, anchor[[1, 3]], stride, convention)
            nearest = columns(np.stack([x[0], y[0], x[1], y[1]], axis=-1), convention)
            ious = np.where(fits_x & fits_y, iou_of_columns(nearest, wanted, convention), 0)
            np.maximum(best[rows], ious, out=best[rows])
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
    return {
        name: {
            "boxes": int(inside.sum()),
            "share": float(inside.mean()),
            "mean IoU": float(ious[inside].mean()),
            f"from {targets.positive_iou:g}": float((ious[inside] >= targets.positive_iou).mean()),
            "from 0.5": float((ious[inside] >= 0.5).mean()),
            f"under {targets.min_positive_iou:g}": float(
                (ious[inside] < targets.min_positive_iou).mean()
            ),
        }
        for name, inside in bins.items()
        if inside.any()
    }


def _nearest(
    twice_centre: Float64[np.ndarray, " k"],
    lengths: Int64[np.ndarray, " k"],
    anchor: Float64[np.ndarray, "2"],
    stride: int,
    convention: BoxConvention,
) -> tuple[Float64[np.ndarray, "2 k"], Bool[np.ndarray, " k"]]:
    """Returns the interval of the allowed anchor nearest to each centre, and if any is allowed.

    The anchor's interval in cell c is `anchor + stride * c`, and has to lie in the image, which
    is `lengths` pixels long.
    """
    first = np.ceil(-anchor[0] / stride)
    last = np.floor((lengths - convention.offset - anchor[1]) / stride)
    cell = np.clip(np.round((twice_centre - anchor.sum()) / (2 * stride)), first, last)
    return anchor[:, None] + stride * cell, first <= last
