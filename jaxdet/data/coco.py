"""COCO annotation files: read once, checked completely, kept as flat arrays."""

from collections.abc import Sequence
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Int64
from numpy.typing import DTypeLike

from jaxdet.data.coco_records import AnnotationRecord, decode
from jaxdet.data.dataset import Dataset
from jaxdet.data.findings import Findings
from jaxdet.errors import InputError
from jaxdet.files import read_bytes


def coco_directory(root: str | Path, split: str, findings: Findings | None = None) -> Dataset:
    """Returns one split of a folder laid out as COCO 2017; see `load_coco`.

    Args:
        root: Holds `annotations/instances_<split>2017.json` and `<split>2017/`.
        split: `train` or `val`.
        findings: As for `load_coco`.
    """
    root = Path(root)
    annotations = root / "annotations" / f"instances_{split}2017.json"
    return load_coco(annotations, root / f"{split}2017", findings)


def load_coco(
    annotation_file: str | Path, image_dir: str | Path, findings: Findings | None = None
) -> Dataset:
    """Returns what a COCO annotation file holds, checked; images are not opened.

    Images are put in the order of their ids, so that a set has one order wherever it comes from;
    the annotations of an image keep the order of the file.

    Args:
        annotation_file: JSON with `images` and `annotations`.  `area`, `iscrowd`, `ignore` and
            `category_id` may be left out: width x height, 0, 0 and 0.
        image_dir: Folder that the `file_name`s are relative to.
        findings: Gets all that is wrong with single images and annotations, each of which is then
            left out.  By default the first such thing is an error.

    Raises:
        InputError: The file is missing or not COCO; unless there are `findings`, also if an id
            occurs twice, an annotation belongs to no image, a box is not finite or has a negative
            size, or a file name leaves the folder.
    """
    annotation_file, image_dir = Path(annotation_file), Path(image_dir)
    findings = findings or Findings(stop_at=str(annotation_file))
    text = read_bytes(annotation_file)
    if not image_dir.is_dir():
        raise InputError(f"{image_dir}: no such folder of images (for {annotation_file})")
    file = decode(text, annotation_file, findings)
    image_ids, firsts = _unique_ids("image", file.images, findings)
    images = [file.images[i] for i in firsts]
    rows = file.annotations
    owners = _column(rows, "image_id")
    order = _sound_annotations(rows, owners, image_ids, findings)
    xywh = np.fromiter(chain.from_iterable(row.bbox for row in rows), np.float64, 4 * len(rows))
    dataset = Dataset(
        source=str(annotation_file),
        image_dir=image_dir,
        file_names=tuple(image.file_name for image in images),
        image_ids=image_ids,
        heights=_column(images, "height", np.int32),
        widths=_column(images, "width", np.int32),
        offsets=np.append(np.searchsorted(owners[order], image_ids), len(order)),
        annotation_ids=_column(rows, "id")[order],
        category_ids=_column(rows, "category_id")[order],
        xywh=xywh.reshape(-1, 4)[order],
        area=np.fromiter(map(_area_of, rows), np.float64, len(rows))[order],
        iscrowd=_column(rows, "iscrowd", bool)[order],
        ignore=_column(rows, "ignore", bool)[order],
    )
    if file.categories is not msgspec.UNSET:
        _check_categories(_column(file.categories, "id"), dataset, findings)
    return dataset


def _sound_annotations(
    rows: list[AnnotationRecord],
    owners: Int64[np.ndarray, " K"],
    image_ids: Int64[np.ndarray, " I"],
    findings: Findings,
) -> Int64[np.ndarray, " sound"]:
    """Returns the positions of annotations that can be used, in ascending order of `owners`."""
    known = np.isin(owners, image_ids)
    findings.add(
        "annotations of unknown images",
        ~known,
        lambda i: f"annotation {rows[i].id} belongs to image {owners[i]}, which is not in 'images'",
    )
    sound = np.zeros(len(rows), bool)
    sound[_unique_ids("annotation", rows, findings)[1]] = True
    order = np.argsort(owners, kind="stable")
    return order[(sound & known)[order]]


def _unique_ids(
    what: str, rows: Sequence[Any], findings: Findings
) -> tuple[Int64[np.ndarray, " unique"], Int64[np.ndarray, " unique"]]:
    """Returns the ids, ascending, and where each of them occurs first; reports where again."""
    ids = _column(rows, "id")
    unique, firsts = np.unique(ids, return_index=True)
    again = np.ones(len(ids), bool)
    again[firsts] = False
    findings.add(
        f"repeated {what} ids", again, lambda i: f"{what} id {ids[i]} occurs more than once"
    )
    return unique, firsts


def _check_categories(
    ids: Int64[np.ndarray, " categories"], dataset: Dataset, findings: Findings
) -> None:
    """Reports what is odd; proposals do not depend on categories, so nothing here does harm."""
    used, annotation_ids = dataset.category_ids, dataset.annotation_ids
    findings.add(
        "annotations of unknown categories",
        ~np.isin(used, ids),
        lambda i: (
            f"annotation {annotation_ids[i]} has category {used[i]}, which is not in 'categories'"
        ),
        harmless=True,
    )
    findings.add(
        "categories that no annotation has",
        np.setdiff1d(ids, used).tolist(),
        lambda number: f"category {number} has no annotation",
        harmless=True,
    )


def _area_of(row: AnnotationRecord) -> float:
    return row.bbox[2] * row.bbox[3] if row.area is None else row.area


def _column(rows: Sequence[Any], field: str, kind: DTypeLike = np.int64) -> np.ndarray:
    return np.fromiter(map(attrgetter(field), rows), kind, len(rows))
