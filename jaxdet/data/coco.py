"""COCO annotation files: read once, checked completely, kept as flat arrays.

Every complaint is one line that names the file and the image or annotation, because the next
thing that happens may be half a day of training.
"""

import re
from collections.abc import Callable
from itertools import chain
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Generic

import msgspec
import numpy as np
from jaxtyping import Bool, Int64

from jaxdet.data.coco_records import (
    AnnotationRecord,
    CategoryRecord,
    ImageRecord,
    Row,
    decode,
)
from jaxdet.data.dataset import Dataset, usable_for_training
from jaxdet.data.findings import Finding, Report, shown, stop_at
from jaxdet.errors import InputError
from jaxdet.files import open_regular

# Larger coordinates and sides are typing errors, and would leave float32's exact integers.
MAX_PIXELS_PER_SIDE = 1_000_000

# Control characters and halves of surrogate pairs.
_UNNAMEABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


class _Table(Generic[Row]):
    """The good records of one of the file's lists."""

    def __init__(self, rows: list[Row], report: Report, harmless: bool = False) -> None:
        self.rows = rows
        self.good = np.ones(len(rows), bool)
        self._report, self._harmless = report, harmless

    def integers(self, key: str) -> Int64[np.ndarray, " n"]:
        return np.fromiter((getattr(row, key) for row in self.rows), np.int64, len(self.rows))

    def flags(self, key: str) -> Bool[np.ndarray, " n"]:
        return np.fromiter((bool(getattr(row, key)) for row in self.rows), bool, len(self.rows))

    def reject(self, what: str, bad: Bool[np.ndarray, " n"], line: Callable[[int], str]) -> None:
        """Reports the good rows among the bad ones, which then are no longer good."""
        where = np.flatnonzero(self.good & bad)
        if len(where):
            self.good[where] = False
            self._report(Finding(what, where, line, self._harmless))

    def reject_repeated(self, what: str, ids: Int64[np.ndarray, " n"]) -> None:
        """Rejects every occurrence of an id but its first."""
        again = np.ones(len(ids), bool)
        again[np.unique(ids, return_index=True)[1]] = False
        self.reject(f"repeated {what}s", again, lambda i: f"{what} {ids[i]} occurs more than once")


def coco_directory(root: str | Path, split: str, report: Report | None = None) -> Dataset:
    """Returns one split of a folder laid out as COCO 2017.

    Args:
        root: Holds `annotations/instances_<split>2017.json` and `<split>2017/`.
        split: `train` or `val`.
        report: As for `load_coco`.

    Raises:
        InputError: As `load_coco`.
    """
    root = Path(root)
    annotations = root / "annotations" / f"instances_{split}2017.json"
    return load_coco(annotations, root / f"{split}2017", report)


def load_coco(
    annotation_file: str | Path, image_dir: str | Path, report: Report | None = None
) -> Dataset:
    """Returns what a COCO annotation file holds, checked; images are not opened.

    Images are put in the order of their ids, so that a set has one order wherever it comes from;
    the annotations of an image keep the order of the file.

    Args:
        annotation_file: JSON with `images` and `annotations`.  `area`, `iscrowd`, `ignore` and
            `category_id` may be left out: width x height, 0, 0 and 0.
        image_dir: Folder that the `file_name`s are relative to.
        report: Gets all that is wrong with single images and annotations, each of which is then
            left out.  By default the first such thing is an error.

    Raises:
        InputError: The file is missing or not COCO; unless there is a `report`, also if an id
            occurs twice, an annotation belongs to no image, a box is not finite or has a negative
            size, or a file name leaves the folder.
    """
    annotation_file, image_dir = Path(annotation_file), Path(image_dir)
    report = report or stop_at(str(annotation_file))
    text = _read(annotation_file)
    if not image_dir.is_dir():
        raise InputError(f"{image_dir}: no such folder of images (for {annotation_file})")
    file, known = decode(text, annotation_file, report)
    images, annotations = _Table(file.images, report), _Table(file.annotations, report)
    columns, known_ids = _image_columns(images, known)
    columns |= _annotation_columns(annotations, columns["image_ids"], known_ids)
    if file.categories is not msgspec.UNSET:
        _check_categories(_Table(file.categories, report, harmless=True), columns, report)
    return Dataset(source=str(annotation_file), image_dir=image_dir, **columns)


def _read(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read()
    except FileNotFoundError:
        raise InputError(f"{path}: no such annotation file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def _image_columns(
    images: _Table[ImageRecord], known: set[int]
) -> tuple[dict[str, Any], Int64[np.ndarray, " known"]]:
    """Returns the good images in ascending order of their ids, and the ids of all, ascending."""
    ids = images.integers("id")
    images.reject_repeated("image id", ids)
    known_ids = np.unique(np.concatenate([ids, np.array(sorted(known), np.int64)]))
    sides = {}
    for side in ("height", "width"):
        values = images.integers(side)
        images.reject(
            f"images of impossible {side}",
            (values < 1) | (values > MAX_PIXELS_PER_SIDE),
            lambda i, side=side, values=values: (  # type: ignore[misc]
                f"image {ids[i]} has {side} {values[i]}; expected 1 to {MAX_PIXELS_PER_SIDE}"
            ),
        )
        sides[f"{side}s"] = values
    names = [row.file_name for row in images.rows]
    images.reject(
        "file names that leave the image folder",
        np.fromiter(map(_leaves_folder, names), bool, len(names)),
        lambda i: (
            f"image {ids[i]} has file_name {shown(names[i])}, which is not a path inside "
            "the image folder"
        ),
    )
    order = np.flatnonzero(images.good)
    order = order[np.argsort(ids[order])]
    columns = {side: values[order].astype(np.int32) for side, values in sides.items()}
    file_names = tuple(names[i] for i in order)
    return {"file_names": file_names, "image_ids": ids[order], **columns}, known_ids


def _annotation_columns(
    annotations: _Table[AnnotationRecord],
    image_ids: Int64[np.ndarray, " images"],
    known_ids: Int64[np.ndarray, " known"],
) -> dict[str, Any]:
    """Returns the good annotations of the good images, by image; both kinds of ids ascend."""
    rows = annotations.rows
    ids = annotations.integers("id")
    annotations.reject_repeated("annotation id", ids)
    owners = annotations.integers("image_id")
    annotations.reject(
        "annotations of unknown images",
        ~_find(known_ids, owners)[1],
        lambda i: f"annotation {ids[i]} belongs to image {owners[i]}, which is not in 'images'",
    )
    sides = chain.from_iterable(row.bbox for row in rows)
    xywh = np.fromiter(sides, np.float64, 4 * len(rows)).reshape(-1, 4)
    _reject_boxes(annotations, ids, owners, xywh)
    areas = (a.bbox[2] * a.bbox[3] if a.area is None else a.area for a in rows)
    area = np.fromiter(areas, np.float64, len(rows))
    annotations.reject(
        "areas that are not finite",
        ~np.isfinite(area),
        lambda i: f"annotation {ids[i]} of image {owners[i]} has area {area[i]}",
    )
    iscrowd, ignore = annotations.flags("iscrowd"), annotations.flags("ignore")
    columns = {
        "annotation_ids": ids,
        "category_ids": annotations.integers("category_id"),
        "xywh": xywh,
        "area": area,
        "iscrowd": iscrowd,
        "ignore": ignore,
    }
    image_index, found = _find(image_ids, owners)
    kept = np.flatnonzero(annotations.good & found)
    order = kept[np.argsort(image_index[kept], kind="stable")]
    counts = np.bincount(image_index[kept], minlength=len(image_ids))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    columns = {name: column[order] for name, column in columns.items()}
    flat = (columns[name] for name in ("xywh", "area", "iscrowd", "ignore"))
    return {"offsets": offsets, **columns, "usable": usable_for_training(*flat)}


def _reject_boxes(
    annotations: _Table[AnnotationRecord], ids: np.ndarray, owners: np.ndarray, xywh: np.ndarray
) -> None:
    def box(i: int) -> str:
        return f"annotation {ids[i]} of image {owners[i]} has bbox {xywh[i].tolist()}"

    annotations.reject(
        "boxes that are not finite or far too large",
        ~np.all(np.abs(xywh) <= MAX_PIXELS_PER_SIDE, axis=1),  # NaN is not in range either
        lambda i: f"{box(i)}, which is not finite or beyond {MAX_PIXELS_PER_SIDE} pixels",
    )
    annotations.reject(
        "boxes of negative size",
        np.any(xywh[:, 2:] < 0, axis=1),
        lambda i: f"{box(i)}, of negative size",
    )


def _check_categories(
    categories: _Table[CategoryRecord], columns: dict[str, Any], report: Report
) -> None:
    """Reports what is odd; proposals do not depend on categories, so nothing here does harm."""
    every_id = categories.integers("id")
    categories.reject_repeated("category id", every_id)
    ids = np.sort(every_id[categories.good])
    used, annotation_ids = columns["category_ids"], columns["annotation_ids"]

    def unknown(i: int) -> str:
        return (
            f"annotation {annotation_ids[i]} has category {used[i]}, which is not in 'categories'"
        )

    for what, bad, line in (
        ("annotations of unknown categories", ~_find(ids, used)[1], unknown),
        (
            "categories that no annotation has",
            ~np.isin(ids, used),
            lambda i: f"category {ids[i]} has no annotation",
        ),
    ):
        if bad.any():
            report(Finding(what, np.flatnonzero(bad), line, harmless=True))


def _find(
    ascending: Int64[np.ndarray, " n"], wanted: Int64[np.ndarray, " m"]
) -> tuple[Int64[np.ndarray, " m"], Bool[np.ndarray, " m"]]:
    """Returns the position of each wanted id among the others, and whether it is there at all."""
    if not len(ascending):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    index = np.searchsorted(ascending, wanted).clip(max=len(ascending) - 1)
    return index, ascending[index] == wanted


def _leaves_folder(name: str) -> bool:
    """Returns true for names that are empty, absolute, climb out, or that no file can have."""
    if name in ("", ".", "..") or _UNNAMEABLE.search(name):
        return True
    if "/" not in name and "\\" not in name and ":" not in name:
        return False
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    return posix.is_absolute() or bool(windows.anchor) or ".." in posix.parts + windows.parts
