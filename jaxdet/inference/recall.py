"""Average recall of class-agnostic proposals: the COCO API's, and the reference's fast one.

Glossary: `g` annotated boxes and `n` proposals of one image, `L` limits (the best 100, 300
and 1000 proposals of an image), `T` IoU thresholds.  Boxes are `x1, y1, x2, y2` with inclusive
corners, in pixels of the original image.  Everything runs on the host in NumPy.
"""

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from jaxdet.data.dataset import Dataset
from jaxdet.data.masks import rle_of
from jaxdet.inference.single import Result
from jaxdet.ops.boxes import MMDET1, BoxConvention, iou, to_xywh

LIMITS = (100, 300, 1000)
SIZES = ("small", "medium", "large")  # area up to 32^2, 32^2 to 96^2, from 96^2
# The reference's own values: 0.7500000000000002 and the like, so that ties fall as they do there.
THRESHOLDS = np.arange(0.5, 0.96, 0.05)

Record = dict[str, Any]  # of COCO's


class CocoRecall(NamedTuple):
    """Recall by the COCO API; NaN where no box could have been found."""

    recall: Float[np.ndarray, "L T"]  # over boxes of all sizes
    by_size: Float[np.ndarray, "3 T"]  # small, medium, large, at the last limit
    num_boxes: int  # that count: all but crowds
    num_by_size: tuple[int, ...]  # an area on a border counts on both sides, as in COCO


def fast_recall(
    gt_boxes: Sequence[Float32[np.ndarray, "_ 4"]],
    results: Sequence[Result],
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
    matched = [np.zeros((len(limits), 0), np.float32)]
    for boxes, found in zip(gt_boxes, results, strict=True):
        # As the reference sorts, which turns ties round.
        ious = iou(boxes, found.boxes[np.argsort(found.scores)[::-1]], convention)
        matched.append(np.stack([_greedy_ious(ious[:, :limit]) for limit in limits]))
    of_all = np.concatenate(matched, axis=1)
    if not of_all.size:
        return np.full((len(limits), len(thresholds)), np.nan)
    return (of_all[:, :, None] >= thresholds).mean(axis=1)


def coco_recall(dataset: Dataset, results: Sequence[Result]) -> CocoRecall:
    """Returns recall by `pycocotools` with `useCats=0` and 100, 300 and 1000 detections.

    Detections enter as corner and sides, as the convention has them.  Crowd boxes are never
    counted; boxes flagged `ignore` are, because COCOeval replaces that flag by `iscrowd`.
    """
    areas = dataset.area[~dataset.iscrowd]
    ranges = COCOeval(iouType="bbox").params.areaRng  # all, small, medium, large
    num_by_size = tuple(int(((areas >= low) & (areas <= high)).sum()) for low, high in ranges[1:])
    detections = list(_detections(dataset, results))
    recalls = []
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco_truth(dataset)
        for limit in LIMITS:
            best = [record for rank, record in detections if rank < limit]
            sizes = ranges if limit == LIMITS[-1] else ranges[:1]
            run = coco_run(truth, best, useCats=0, maxDets=[limit], areaRng=sizes)
            recall = run.eval["recall"][:, 0, :, 0].T  # [sizes, T]; -1 where there is no box
            recalls.append(np.where(recall < 0, np.nan, recall))
    return CocoRecall(np.stack([x[0] for x in recalls]), recalls[-1][1:], len(areas), num_by_size)


def evaluate_proposals(dataset: Dataset, results: Sequence[Result]) -> dict[str, Any]:
    """Returns all recall figures of a data set, as they are written to `eval.json`.

    Fractions are in [0, 1], `None` where there was no box to find::

        {"AR@100", "AR@300", "AR@1000": COCO API, mean over IoU 0.50:0.05:0.95, all sizes,
         "recall_by_iou": {"100": {"0.50": ..., ..., "0.95": ...}, "300": ..., "1000": ...},
         "recall_by_size": {"small", "medium", "large"}: AR@1000 of the boxes of that size,
         "boxes_by_size": {"small", "medium", "large"}: how many boxes these are,
         "fast": {"AR@100", "AR@300", "AR@1000", "recall_by_iou": as above, "num_boxes"},
         "num_images": images, "num_boxes": boxes that the COCO API counts}
    """
    coco, counted = coco_recall(dataset, results), ~(dataset.iscrowd | dataset.ignore)
    rows = [dataset.rows(i) for i in range(len(dataset))]
    wanted = [dataset.corners(dataset.xywh[own][counted[own]]) for own in rows]
    by_size = map(number, coco.by_size.mean(axis=1))
    fast = _figures(fast_recall(wanted, results, convention=dataset.convention))
    return {
        **_figures(coco.recall),
        "recall_by_size": dict(zip(SIZES, by_size, strict=True)),
        "boxes_by_size": dict(zip(SIZES, coco.num_by_size, strict=True)),
        "fast": {**fast, "num_boxes": sum(map(len, wanted))},
        "num_images": len(dataset),
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


def _greedy_ious(ious: np.ndarray) -> np.ndarray:
    """Returns each box's IoU when matched, in the order of being matched: [g, n] -> [g]."""
    left, taken = ious.copy(), np.zeros(len(ious), np.float32)
    for i in range(min(ious.shape)):
        box, proposal = np.unravel_index(left.argmax(), left.shape)
        taken[i] = left[box, proposal]
        left[box, :] = left[:, proposal] = -1
    return taken


def _coco_api(images: list[Record], records: list[Record], categories: list[int]) -> COCO:
    """Returns the COCO API's object of records; their ids start at 1, as 0 means unmatched."""
    api = COCO()
    api.dataset = {
        "images": images,
        "categories": [{"id": category} for category in categories],
        "annotations": [{"id": i, "category_id": 1, **r} for i, r in enumerate(records, start=1)],
    }
    api.createIndex()
    return api


def coco_run(truth: COCO, found: list[Record], kind: str = "bbox", **params: Any) -> COCOeval:
    """Returns COCOeval of the detections found, with other `params` than its own perhaps."""
    run = COCOeval(truth, _coco_api(truth.dataset["images"], found, truth.getCatIds()), kind)
    vars(run.params).update(params)
    run.evaluate()
    run.accumulate()
    return run


def coco_truth(dataset: Dataset, with_masks: bool = False) -> COCO:
    """Returns the COCO API's object of all annotations, of one category if there are no classes."""
    sizes = {"id": dataset.image_ids, "height": dataset.heights, "width": dataset.widths}
    columns: dict[str, Any] = {
        "image_id": dataset.image_ids[dataset.owners].tolist(),
        "bbox": dataset.xywh.tolist(),
        "area": dataset.area.tolist(),
        "iscrowd": dataset.iscrowd.tolist(),
    }
    if dataset.labels is not None:
        columns["category_id"] = dataset.class_ids[dataset.labels].tolist()
    if with_masks:
        columns["segmentation"] = [rle_of(dataset.bitmap(i)) for i in range(len(dataset.xywh))]
    images = records_of({name: column.tolist() for name, column in sizes.items()})
    return _coco_api(images, records_of(columns), dataset.class_ids.tolist() or [1])


def records_of(columns: Mapping[str, Sequence[Any]]) -> list[Record]:
    """Returns rows with the columns' names, as COCO has them."""
    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _detections(dataset: Dataset, results: Sequence[Result]) -> Iterator[tuple[int, Record]]:
    """Yields the ranks within their images and the records of proposals that matter to recall.

    COCOeval is slow Python, quadratic in the worst case.  A detection whose IoU with every
    annotation is below 0.5 can match none at any threshold and so leaves recall as it is.
    """
    for index, found in zip(range(len(dataset)), results, strict=True):
        rows = dataset.rows(index)
        if len(found.boxes) and rows.start < rows.stop:
            best = np.argsort(-found.scores, kind="stable")[: LIMITS[-1]]
            xywh = to_xywh(found.boxes[best].astype(np.float64), dataset.convention)
            ious = coco_mask.iou(xywh, dataset.xywh[rows], dataset.iscrowd[rows])
            near = np.flatnonzero(ious.max(axis=1) >= 0.5)
            columns = {
                "image_id": [int(dataset.image_ids[index])] * len(near),
                "bbox": xywh[near].tolist(),
                "area": xywh[near, 2:].prod(axis=1).tolist(),
                "score": found.scores[best[near]].tolist(),
            }
            yield from zip(near.tolist(), records_of(columns), strict=True)


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
