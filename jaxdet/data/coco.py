"""COCO annotation files: read once, checked completely, kept as flat arrays.

Every complaint is one line that names the file and the image or annotation, because the next
thing that happens may be half a day of training.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from jaxdet.data.dataset import Dataset, usable_for_training
from jaxdet.data.findings import Finding, Tell, shown, stop_at
from jaxdet.data.records import Records
from jaxdet.errors import InputError

# Larger coordinates and sides are typing errors, and would leave float32's exact integers.
MAX_PIXELS_PER_SIDE = 1_000_000

# Outlines are four fifths of COCO's text and detection never looks at them.  Between the opening
# bracket and the last closing one no quote may occur, so a match cannot leave the value.
_OUTLINES = re.compile(rb'"segmentation"\s*:\s*\[[][\d\s.,eE+-]*\]')

# Control characters and halves of surrogate pairs.
_UNNAMEABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


def coco_directory(root: str | Path, split: str, tell: Tell | None = None) -> Dataset:
    """Loads one split of a folder laid out as COCO 2017.

    Args:
        root: Holds `annotations/instances_<split>2017.json` and `<split>2017/`.
        split: `train` or `val`.
        tell: As for `load_coco`.

    Raises:
        InputError: As `load_coco`.
    """
    root = Path(root)
    annotations = root / "annotations" / f"instances_{split}2017.json"
    return load_coco(annotations, root / f"{split}2017", tell)


def load_coco(
    annotation_file: str | Path, image_dir: str | Path, tell: Tell | None = None
) -> Dataset:
    """Loads and checks a COCO annotation file; images are not opened.

    Images are put in the order of their ids, so that a set has one order wherever it comes from;
    the annotations of an image keep the order of the file.

    Args:
        annotation_file: JSON with `images` and `annotations`.  `area`, `iscrowd`, `ignore` and
            `category_id` may be left out: width x height, 0, 0 and 0.
        image_dir: Folder that the `file_name`s are relative to.
        tell: Is told all that is wrong with single images and annotations, each of which is then
            left out.  By default the first such thing is an error.

    Raises:
        InputError: The file is missing or not COCO; unless there is a `tell`, also if an id
            occurs twice, an annotation belongs to no image, a box is not finite or has a negative
            size, or a file name leaves the folder.
    """
    annotation_file, image_dir = Path(annotation_file), Path(image_dir)
    tell = tell or stop_at(str(annotation_file))
    content = _read_json(annotation_file)
    if not image_dir.is_dir():
        raise InputError(f"{image_dir}: no such folder of images (for {annotation_file})")
    images = _records(content, "images", annotation_file, tell)
    annotations = _records(content, "annotations", annotation_file, tell)
    if not len(images):
        raise InputError(f"{annotation_file}: 'images' is empty")
    columns, known_ids = _image_columns(images)
    columns |= _annotation_columns(annotations, columns["image_ids"], known_ids)
    if "categories" in content:
        _check_categories(content["categories"], columns, tell)
    return Dataset(source=str(annotation_file), image_dir=image_dir, **columns)


def _read_json(path: Path) -> dict[str, Any]:
    if path.exists() and not path.is_file():  # a pipe would be waited for, for ever
        raise InputError(f"{path}: cannot be read (not a regular file)")
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such annotation file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    text = _OUTLINES.sub(b'"segmentation":0', text)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:  # bad syntax, encoding or depth
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not a JSON file ({reason})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a COCO file (holds a {type(content).__name__}, not a dict)")
    return content


def _records(content: dict[str, Any], key: str, path: Path, tell: Tell) -> Records:
    if key not in content:
        raise InputError(f"{path}: not a COCO file (no '{key}')")
    if not isinstance(content[key], list):
        raise InputError(f"{path}: '{key}' is {shown(content[key])}, not a list")
    return Records(key, content[key], tell)


def _image_columns(images: Records) -> tuple[dict[str, Any], Int64[np.ndarray, " known"]]:
    """The good images in ascending order of their ids, and the ids of all, also ascending."""
    ids = images.integers("id")
    images.reject_repeated("image id", ids)
    known_ids = np.sort(ids[images.good])
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
    names = images.texts("file_name")
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
    return {
        "file_names": tuple(names[i] for i in order),
        "image_ids": ids[order],
        **columns,
    }, known_ids


def _annotation_columns(
    annotations: Records,
    image_ids: Int64[np.ndarray, " images"],
    known_ids: Int64[np.ndarray, " known"],
) -> dict[str, Any]:
    """The good annotations of the good images, grouped by image; both kinds of ids ascend."""
    ids = annotations.integers("id")
    annotations.reject_repeated("annotation id", ids)
    owners = annotations.integers("image_id")
    annotations.reject(
        "annotations of unknown images",
        ~_places(known_ids, owners)[1],
        lambda i: f"annotation {ids[i]} belongs to image {owners[i]}, which is not in 'images'",
    )
    xywh = _boxes(annotations, ids, owners)
    area = annotations.areas(xywh)
    annotations.reject(
        "areas that are not finite",
        ~np.isfinite(area),
        lambda i: f"annotation {ids[i]} of image {owners[i]} has area {area[i]}",
    )
    iscrowd = annotations.flags("iscrowd")
    ignore = annotations.flags("ignore")
    columns = {
        "annotation_ids": ids,
        "category_ids": annotations.integers("category_id", default=0),
        "xywh": xywh,
        "area": area,
        "iscrowd": iscrowd,
        "ignore": ignore,
        "usable": usable_for_training(xywh, area, iscrowd, ignore),
    }
    image_index, found = _places(image_ids, owners)
    kept = np.flatnonzero(annotations.good & found)
    order = kept[np.argsort(image_index[kept], kind="stable")]
    counts = np.bincount(image_index[kept], minlength=len(image_ids))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return {"offsets": offsets} | {name: column[order] for name, column in columns.items()}


def _boxes(annotations: Records, ids: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """float64 `[n, 4]`: zero where a box is rejected."""
    xywh = annotations.boxes()

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
    xywh[~annotations.good] = 0
    return xywh


def _check_categories(value: Any, columns: dict[str, Any], tell: Tell) -> None:
    """Proposals do not depend on categories, so nothing here does harm."""

    def note(what: str, bad: np.ndarray, line: Callable[[int], str]) -> None:
        if bad.any():
            tell(Finding(what, np.flatnonzero(bad), line, harmless=True))

    if not isinstance(value, list):
        wrong = f"'categories' is {shown(value)}, not a list"
        note("no list of categories", np.ones(1, bool), lambda i: wrong)
        return
    categories = Records("categories", value, tell, harmless=True)
    every_id = categories.integers("id")
    categories.reject_repeated("category id", every_id)
    ids = np.sort(every_id[categories.good])
    used, annotation_ids = columns["category_ids"], columns["annotation_ids"]
    note(
        "annotations of unknown categories",
        ~_places(ids, used)[1],
        lambda i: (
            f"annotation {annotation_ids[i]} has category {used[i]}, which is not in 'categories'"
        ),
    )
    note(
        "categories that no annotation has",
        ~np.isin(ids, used),
        lambda i: f"category {ids[i]} has no annotation",
    )
    note(
        "gaps in category ids",
        # Not their difference, which may be too large for a number.
        ids[:-1] + 1 < ids[1:],
        lambda i: f"no category has an id from {ids[i] + 1} to {ids[i + 1] - 1}",
    )


def _places(
    ascending: Int64[np.ndarray, " n"], wanted: Int64[np.ndarray, " m"]
) -> tuple[Int64[np.ndarray, " m"], Bool[np.ndarray, " m"]]:
    """Where each wanted id is among the others, and whether it is there at all."""
    if not len(ascending):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    place = np.searchsorted(ascending, wanted).clip(max=len(ascending) - 1)
    return place, ascending[place] == wanted


def _leaves_folder(name: str) -> bool:
    """True for names that are empty, absolute, climb out, or that no file can have."""
    if name in ("", ".", "..") or _UNNAMEABLE.search(name):
        return True
    if "/" not in name and "\\" not in name and ":" not in name:
        return False
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    return posix.is_absolute() or bool(windows.anchor) or ".." in posix.parts + windows.parts
