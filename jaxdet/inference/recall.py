"""Average recall of class-agnostic proposals: the COCO API's, and the reference's fast one.

Glossary: `g` annotated boxes and `n` proposals of one image, `L` limits (the best 100, 300
and 1000 proposals of an image), `T` IoU thresholds.  Boxes are `x1, y1, x2, y2` with inclusive
corners, in pixels of the original image.  Everything runs on the host in NumPy.
"""

import contextlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from jaxdet.data.dataset import GroundTruth
from jaxdet.ops.boxes import MMDET1, BoxConvention, from_xywh, iou, to_xywh

LIMITS = (100, 300, 1000)
SIZES = ("small", "medium", "large")  # area up to 32^2, 32^2 to 96^2, from 96^2
# The reference's own values: 0.7500000000000002 and the like, so that ties fall as they do there.
THRESHOLDS = np.arange(0.5, 0.96, 0.05)

# One image's boxes and scores, in any order.
ImageProposals = tuple[Float[np.ndarray, "_ 4"], Float[np.ndarray, " _"]]


class CocoRecall(NamedTuple):
    """Recall by the COCO API; NaN where no box could have been found."""

    recall: Float[np.ndarray, "L T"]  # over boxes of all sizes
    by_size: Float[np.ndarray, "3 T"]  # small, medium, large, at the last limit
    num_boxes: int  # that count: all but crowds
    num_by_size: tuple[int, ...]  # an area on a border counts on both sides, as in COCO


def fast_recall(
    gt_boxes: Sequence[Float[np.ndarray, "_ 4"]],
    proposals: Sequence[ImageProposals],
    limits: Sequence[int] = LIMITS,
    thresholds: Float[np.ndarray, " T"] = THRESHOLDS,
    convention: BoxConvention = MMDET1,
) -> Float[np.ndarray, "L T"]:
    """Returns recall by the reference's greedy matching, without categories or crowds.

    Of all (box, proposal) pairs of an image the one with the highest IoU is taken and both are
    removed, until boxes or proposals run out; a box that is left without a proposal has IoU 0.

    `gt_boxes` has the boxes to find, neither crowd nor ignored.  A box is found if the IoU of its
    pair is at least the threshold.  Returns NaN if there is no box at all.
    """
    matched: list[list[np.ndarray]] = [[] for _ in limits]
    for boxes, image_proposals in zip(gt_boxes, proposals, strict=True):
        found, scores = image_proposals
        # As the reference does it, which turns ties round.
        found = found[np.argsort(scores)[::-1]][: max(limits)].astype(np.float32)
        ious = iou(boxes.astype(np.float32), found, convention)
        for limit, kept in zip(limits, matched, strict=True):
            kept.append(_greedy_ious(ious[:, :limit]))
    found = np.stack([np.concatenate([np.zeros(0, np.float32), *kept]) for kept in matched])
    if not found.size:
        return np.full((len(limits), len(thresholds)), np.nan)
    return (found[:, :, None] >= thresholds[None, None, :]).mean(axis=1)


def coco_recall(
    ground_truth: Sequence[GroundTruth],
    proposals: Sequence[ImageProposals],
    convention: BoxConvention = MMDET1,
) -> CocoRecall:
    """Returns recall by `pycocotools` with `useCats=0` and 100, 300 and 1000 detections.

    Detections enter as corner and sides, as the convention has them.  Crowd boxes are never
    counted; boxes flagged `ignore` are, because COCOeval replaces that flag by `iscrowd`.
    """
    areas = np.concatenate([np.zeros(0), *(gt.area[~gt.iscrowd] for gt in ground_truth)])
    records = [
        {"image_id": image_id, "bbox": box.tolist(), "iscrowd": int(crowd), "area": float(area)}
        for image_id, gt in enumerate(ground_truth, start=1)
        for box, crowd, area in zip(gt.xywh, gt.iscrowd, gt.area, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        images = [{"id": image_id} for image_id in range(1, len(ground_truth) + 1)]
        truth = coco_object(images, records)
        detections = list(_detections(ground_truth, proposals, convention))
        runs = [_coco_run(truth, detections, limit) for limit in LIMITS]
    ranges = COCOeval(iouType="bbox").params.areaRng[1:]
    num_by_size = tuple(int(((areas >= low) & (areas <= high)).sum()) for low, high in ranges)
    return CocoRecall(np.stack([run[0] for run in runs]), runs[-1][1:], len(areas), num_by_size)


def evaluate_proposals(
    ground_truth: Sequence[GroundTruth],
    proposals: Sequence[ImageProposals],
    convention: BoxConvention = MMDET1,
) -> dict[str, Any]:
    """Returns all recall figures of a data set, as they are written to `eval.json`.

    Fractions are in [0, 1], `None` where there was no box to find::

        {"AR@100", "AR@300", "AR@1000": COCO API, mean over IoU 0.50:0.05:0.95, all sizes,
         "recall_by_iou": {"100": {"0.50": ..., ..., "0.95": ...}, "300": ..., "1000": ...},
         "recall_by_size": {"small", "medium", "large"}: AR@1000 of the boxes of that size,
         "boxes_by_size": {"small", "medium", "large"}: how many boxes these are,
         "fast": {"AR@100", "AR@300", "AR@1000", "recall_by_iou": as above, "num_boxes"},
         "num_images": images, "num_boxes": boxes that the COCO API counts}
    """
    coco = coco_recall(ground_truth, proposals, convention)
    wanted = [from_xywh(gt.xywh[~(gt.iscrowd | gt.ignore)], convention) for gt in ground_truth]
    by_size = map(number, coco.by_size.mean(axis=1))
    fast = _figures(fast_recall(wanted, proposals, convention=convention))
    return {
        **_figures(coco.recall),
        "recall_by_size": dict(zip(SIZES, by_size, strict=True)),
        "boxes_by_size": dict(zip(SIZES, coco.num_by_size, strict=True)),
        "fast": {**fast, "num_boxes": sum(map(len, wanted))},
        "num_images": len(ground_truth),
        "num_boxes": coco.num_boxes,
    }


def table_rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Returns the figures of `evaluate_proposals` by limit, in percent, under what they are."""
    rows: list[tuple[str, ...]] = []
    for name, figures in (("COCO API", result), ("fast", result["fast"])):
        rows.append((f"AR, {name}", *(percent(figures[f"AR@{limit}"]) for limit in LIMITS)))
    by_iou = [result["recall_by_iou"][str(limit)] for limit in LIMITS]
    for threshold in by_iou[0]:
        rows.append((f"recall at IoU {threshold}", *(percent(row[threshold]) for row in by_iou)))
    for size, count in result["boxes_by_size"].items():
        recall = percent(result["recall_by_size"][size])
        rows.append((f"AR, {size} ({count} boxes)", "", "", recall))
    return rows


def _best_first(proposals: ImageProposals, limit: int) -> ImageProposals:
    """Returns the best `limit` boxes and scores by falling score; equal scores keep their order."""
    boxes, scores = proposals
    order = np.argsort(-scores, kind="stable")[:limit]
    return boxes[order], scores[order]


def _greedy_ious(ious: np.ndarray) -> np.ndarray:
    """Returns each box's IoU when matched, in the order of being matched: [g, n] -> [g]."""
    left, taken = ious.copy(), np.zeros(len(ious), np.float32)
    for i in range(min(ious.shape)):
        box, proposal = np.unravel_index(left.argmax(), left.shape)
        taken[i] = left[box, proposal]
        left[box, :] = left[:, proposal] = -1
    return taken


def coco_object(
    images: Sequence[Mapping[str, Any]],
    records: Iterable[Mapping[str, Any]],
    categories: Sequence[int] = (1,),
) -> COCO:
    """Returns the COCO API's object of records; their ids start at 1, as 0 means unmatched."""
    api = COCO()
    api.dataset = {
        "images": images,
        "categories": [{"id": category} for category in categories],
        "annotations": [{"id": i, "category_id": 1, **r} for i, r in enumerate(records, start=1)],
    }
    api.createIndex()
    return api


def _detections(
    ground_truth: Sequence[GroundTruth],
    proposals: Sequence[ImageProposals],
    convention: BoxConvention,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the ranks within their images and the records of proposals that matter to recall.

    COCOeval is slow Python, quadratic in the worst case.  A detection whose IoU with every
    annotation is below 0.5 can match none at any threshold and so leaves recall as it is.
    """
    for image_id, (gt, found) in enumerate(zip(ground_truth, proposals, strict=True), start=1):
        boxes, scores = _best_first(found, LIMITS[-1])
        if len(boxes) and len(gt.xywh):
            candidates = to_xywh(boxes.astype(np.float64), convention)
            ious = coco_mask.iou(candidates, gt.xywh, gt.iscrowd)
            for rank in np.flatnonzero(ious.max(axis=1) >= 0.5):
                box, score = candidates[rank].tolist(), float(scores[rank])
                record = {"bbox": box, "score": score, "area": box[2] * box[3], "iscrowd": 0}
                yield int(rank), {"image_id": image_id, **record}


def _coco_run(
    truth: COCO, detections: Sequence[tuple[int, dict[str, Any]]], limit: int
) -> np.ndarray:
    """Runs COCOeval with the best `limit` proposals: recall [areas, T], all sizes first."""
    records = (record for rank, record in detections if rank < limit)
    run = COCOeval(truth, coco_object(truth.dataset["images"], records), "bbox")
    run.params.useCats = 0
    run.params.maxDets = [limit]
    if limit != LIMITS[-1]:
        run.params.areaRng, run.params.areaRngLbl = run.params.areaRng[:1], ["all"]
    run.evaluate()
    run.accumulate()
    recall = run.eval["recall"][:, 0, :, 0].T  # [areas, T]; -1 where there is no box
    return np.where(recall < 0, np.nan, recall)


def _figures(recall: np.ndarray) -> dict[str, Any]:
    """Returns AR per limit and recall by IoU from recall [L, T]."""
    names = [f"{threshold:.2f}" for threshold in THRESHOLDS]
    means, by_iou = {}, {}
    for limit, row in zip(LIMITS, recall, strict=True):
        means[f"AR@{limit}"] = number(row.mean())
        by_iou[str(limit)] = dict(zip(names, map(number, row), strict=True))
    return {**means, "recall_by_iou": by_iou}


def number(value: float) -> float | None:
    """Returns a figure for JSON; None for NaN and for the COCO API's -1: there was no box."""
    return None if np.isnan(value) or value < 0 else float(value)


def percent(value: float | int | None) -> str:
    """Returns a share with one decimal; a dash for none."""
    return "-" if value is None else f"{100 * value:.1f}"
