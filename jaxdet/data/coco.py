"""COCO annotation files: read once, checked completely, kept as flat arrays.

Every complaint is one line that names the file and the image or annotation, because the next
thing that happens may be half a day of training.
"""

import re
from collections.abc import Sequence
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Int64
from numpy.typing import DTypeLike

from jaxdet.data.coco_records import AnnotationRecord, ImageRecord, decode
from jaxdet.data.dataset import Dataset
from jaxdet.data.findings import Findings
from jaxdet.errors import InputError
from jaxdet.files import read_bytes

# Names that are empty, absolute (also on Windows), climb out, or that no file can have: of control
# characters or halves of surrogate pairs.
_NO_NAME_INSIDE = re.compile(
    r"^\.?$|^[/\\]|^.:|(^|[/\\])\.\.([/\\]|$)|[\x00-\x1f\x7f\ud800-\udfff]"
)


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
    known_ids = _column(file.images, "id")
    images = _sound_images(file.images, known_ids, findings)
    image_ids = _column(images, "id")
    rows = file.annotations
    owners = _column(rows, "image_id")
    order = _sound_annotations(_column(rows, "id"), owners, known_ids, image_ids, findings)
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


def _sound_images(
    rows: list[ImageRecord], ids: Int64[np.ndarray, " images"], findings: Findings
) -> list[ImageRecord]:
    """Returns the images that can be used, in ascending order of their ids."""
    repeated = _report_repeated("image", ids, findings)
    outside = [i for i, row in enumerate(rows) if _NO_NAME_INSIDE.search(row.file_name)]
    findings.add(
        "file names that leave the image folder",
        outside,
        lambda i: (
            f"image {ids[i]} has file_name {rows[i].file_name[:60]!a}, which is not a path inside "
            "the image folder"
        ),
    )
    left_out = {*repeated.tolist(), *outside}
    return [rows[i] for i in np.argsort(ids) if i not in left_out]


def _sound_annotations(
    ids: Int64[np.ndarray, " K"],
    owners: Int64[np.ndarray, " K"],
    known_ids: Int64[np.ndarray, " known"],
    image_ids: Int64[np.ndarray, " images"],
    findings: Findings,
) -> Int64[np.ndarray, " sound"]:
    """Returns the positions of annotations that can be used, in ascending order of `owners`.

    Those of images that are known and left out are no fault of their own.
    """
    repeated = _report_repeated("annotation", ids, findings)
    findings.add(
        "annotations of unknown images",
        np.flatnonzero(~np.isin(owners, known_ids)),
        lambda i: f"annotation {ids[i]} belongs to image {owners[i]}, which is not in 'images'",
    )
    sound = np.isin(owners, image_ids)
    sound[repeated] = False
    order = np.argsort(owners, kind="stable")
    return order[sound[order]]


def _report_repeated(
    what: str, ids: Int64[np.ndarray, " n"], findings: Findings
) -> Int64[np.ndarray, " repeated"]:
    """Returns the positions of every id but those where it first occurs."""
    again = np.ones(len(ids), bool)
    again[np.unique(ids, return_index=True)[1]] = False
    repeated = np.flatnonzero(again)
    findings.add(
        f"repeated {what} ids", repeated, lambda i: f"{what} id {ids[i]} occurs more than once"
    )
    return repeated


def _check_categories(
    ids: Int64[np.ndarray, " categories"], dataset: Dataset, findings: Findings
) -> None:
    """Reports what is odd; proposals do not depend on categories, so nothing here does harm."""
    used, annotation_ids = dataset.category_ids, dataset.annotation_ids
    findings.add(
        "annotations of unknown categories",
        np.flatnonzero(~np.isin(used, ids)),
        lambda i: (
            f"annotation {annotation_ids[i]} has category {used[i]}, which is not in 'categories'"
        ),
        harmless=True,
    )
    findings.add(
        "categories that no annotation has",
        np.setdiff1d(ids, used),
        lambda number: f"category {number} has no annotation",
        harmless=True,
    )


def _area_of(row: AnnotationRecord) -> float:
    return row.bbox[2] * row.bbox[3] if row.area is None else row.area


def _column(rows: Sequence[Any], field: str, kind: DTypeLike = np.int64) -> np.ndarray:
    return np.fromiter(map(attrgetter(field), rows), kind, len(rows))
