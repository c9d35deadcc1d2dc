"""Average precision of detections, by their boxes and by their masks: the COCO API's figures."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from jaxdet.data.dataset import Dataset
from jaxdet.inference.recall import Record, coco_run, coco_truth, number, percent, records_of
from jaxdet.inference.single import Result
from jaxdet.ops.boxes import MMDET1, BoxConvention, to_xywh

# As COCOeval.summarize orders them: over IoU 0.50:0.05:0.95 and at most 100 detections an image
# where the name does not say otherwise.
FIGURES = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR@1", "AR@10", "AR@100", "AR_small", "AR_medium", "AR_large"),
)
Table = tuple[str, Sequence[str], Sequence[Sequence[Any]]]  # title, head and rows
KINDS = {"bbox": "box", "segm": "mask"}  # COCO's names and ours


def evaluate_detections(dataset: Dataset, results: Sequence[Result]) -> dict[str, Any]:
    """Returns all figures of a data set, as they are written to `eval.json`.

    Fractions are in [0, 1], `None` where there was no object to find; `segm` is there where
    results have masks (as COCO's RLE), and the data set too::

        {"bbox": {"AP", "AP50", ..., "AR_large": the names in `FIGURES`}, "segm": the same,
         "per_class": {class: {"bbox": AP, "segm": AP}, ...},
         "num_images": images, "num_boxes": annotations that are no crowds}
    """
    records = coco_records(dataset, results)
    with_masks = dataset.segmentations is not None and any(x.masks is not None for x in results)
    kinds = list(KINDS) if with_masks else ["bbox"]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco_truth(dataset, with_masks)
        runs = {kind: _run(truth, records, kind, dataset.convention) for kind in kinds}
    by_class = {}
    for kind, run in runs.items():
        # [IoUs, recalls, classes], over all sizes and at most 100 detections; -1 without objects
        precision = run.eval["precision"][:, :, :, 0, -1].mean(axis=(0, 1))
        by_class[kind] = dict(zip(run.params.catIds, precision, strict=True))
    return {
        **{k: dict(zip(FIGURES, map(number, run.stats), strict=True)) for k, run in runs.items()},
        "per_class": {
            name: {kind: number(by_class[kind][category]) for kind in runs}
            for name, category in zip(dataset.class_names, dataset.class_ids.tolist(), strict=True)
        },
        "num_images": len(dataset),
        "num_boxes": int((~dataset.iscrowd).sum()),
    }


def coco_records(dataset: Dataset, results: Sequence[Result]) -> list[Record]:
    """Returns detections in COCO's results format, image by image, as `detections.json` has them.

    `bbox` is x, y, width, height in the original image, where the 2018 toolbox adds a pixel to
    both sides; `category_id` and `image_id` are those of the annotation file, 1 of proposals.
    """
    records = list[Record]()
    for image_id, found in zip(dataset.image_ids.tolist(), results, strict=True):
        boxes = to_xywh(found.boxes.astype(np.float64), dataset.convention)
        no_class = found.labels is None
        columns = {
            "image_id": [image_id] * len(boxes),
            "category_id": [1] * len(boxes)
            if no_class
            else dataset.class_ids[found.labels].tolist(),
            "bbox": boxes.tolist(),
            "score": found.scores.tolist(),
        }
        if found.masks is not None:
            columns["segmentation"] = found.masks
        records += records_of(columns)
    return records


def tables(result: Mapping[str, Any]) -> list[Table]:
    """Returns title, head and rows, in percent, of the figures and of the classes."""
    kinds = [kind for kind in KINDS if kind in result]
    head = [KINDS[kind] for kind in kinds]
    figures = [(name, *(percent(result[kind][name]) for kind in kinds)) for name in FIGURES]
    classes = [
        (name, *(percent(row[kind]) for kind in kinds)) for name, row in result["per_class"].items()
    ]
    return [("COCO API", ["", *head], figures), ("AP by class", ["class", *head], classes)]


def _run(truth: COCO, records: Sequence[Record], kind: str, convention: BoxConvention) -> COCOeval:
    """Returns COCOeval with its figures, by `bbox` or `segm`."""
    # Small, medium and large are measured on masks, except by the 2018 toolbox, which hands boxes
    # over beside them.
    if kind == "segm" and convention != MMDET1:
        areas = coco_mask.area([record["segmentation"] for record in records])
    else:
        areas = [record["bbox"][2] * record["bbox"][3] for record in records]
    found = [{**record, "area": area} for record, area in zip(records, areas, strict=True)]
    run = coco_run(truth, found, kind)
    run.summarize()
    return run
