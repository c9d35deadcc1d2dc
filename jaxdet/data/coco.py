"""COCO annotation files: read once, checked completely, kept as flat arrays.

Every complaint is one line that names the file and the image or annotation, because the next
thing that happens may be half a day of training.
"""

import json
import re
import reprlib
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from jaxdet.data.dataset import Dataset, usable_for_training
from jaxdet.errors import InputError

# Larger coordinates and sides are typing errors, and would leave float32's exact integers.
MAX_PIXELS_PER_SIDE = 1_000_000

# Outlines are four fifths of COCO's text and detection never looks at them.  Between the opening
# bracket and the last closing one no quote may occur, so a match cannot leave the value.
_OUTLINES = re.compile(rb'"segmentation"\s*:\s*\[[][\d\s.,eE+-]*\]')

# Control characters and halves of surrogate pairs.
_UNNAMEABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")

_INTEGER = frozenset({int})
_NUMBER = frozenset({int, float})
_FLAG = frozenset({int, bool})
_MISSING = object()


def coco_directory(root: str | Path, split: str) -> Dataset:
    """Loads one split of a folder laid out as COCO 2017.

    Args:
        root: Holds `annotations/instances_<split>2017.json` and `<split>2017/`.
        split: `train` or `val`.

    Raises:
        InputError: As `load_coco`.
    """
    root = Path(root)
    annotations = root / "annotations" / f"instances_{split}2017.json"
    return load_coco(annotations, root / f"{split}2017")


def load_coco(annotation_file: str | Path, image_dir: str | Path) -> Dataset:
    """Loads and checks a COCO annotation file; pictures are not opened.

    Images are put in the order of their ids, so that a set has one order wherever it comes from;
    the annotations of an image keep the order of the file.

    Args:
        annotation_file: JSON with `images` and `annotations`.  `area`, `iscrowd`, `ignore` and
            `category_id` may be left out: width x height, 0, 0 and 0.
        image_dir: Folder that the `file_name`s are relative to.

    Raises:
        InputError: The file is missing or not COCO, an id occurs twice, an annotation belongs to
            no image, a box is not finite or has a negative size, or a file name leaves the folder.
    """
    annotation_file, image_dir = Path(annotation_file), Path(image_dir)
    content = _read_json(annotation_file)
    if not image_dir.is_dir():
        raise InputError(f"{image_dir}: no such folder of images (for {annotation_file})")
    images = _records(content, "images", annotation_file)
    annotations = _records(content, "annotations", annotation_file)
    if not images:
        raise InputError(f"{annotation_file}: 'images' is empty")
    reader = _Columns(str(annotation_file))
    columns = _image_columns(reader, images)
    columns |= _annotation_columns(reader, columns["image_ids"], annotations)
    return Dataset(source=str(annotation_file), image_dir=image_dir, **columns)


def _read_json(path: Path) -> dict[str, Any]:
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


def _records(content: dict[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    if key not in content:
        raise InputError(f"{path}: not a COCO file (no '{key}')")
    records = content[key]
    if not isinstance(records, list):
        raise InputError(f"{path}: '{key}' is {_shown(records)}, not a list")
    if not set(map(type, records)) <= {dict}:
        bad = next(i for i, record in enumerate(records) if type(record) is not dict)
        raise InputError(f"{path}: {key}[{bad}] is {_shown(records[bad])}, not a dict")
    return records


def _image_columns(reader: "_Columns", images: list[dict[str, Any]]) -> dict[str, Any]:
    ids = reader.integers(images, "images", "id")
    reader.reject(_repeated(ids), lambda i: f"image id {ids[i]} occurs more than once")
    sides = {}
    for side in ("height", "width"):
        values = reader.integers(images, "images", side)
        reader.reject(
            (values < 1) | (values > MAX_PIXELS_PER_SIDE),
            lambda i, side=side, values=values: (  # type: ignore[misc]
                f"image {ids[i]} has {side} {values[i]}; expected 1 to {MAX_PIXELS_PER_SIDE}"
            ),
        )
        sides[f"{side}s"] = values.astype(np.int32)
    names = reader.values(images, "images", "file_name", frozenset({str}))
    reader.reject(
        np.fromiter(map(_leaves_folder, names), bool, len(names)),
        lambda i: (
            f"image {ids[i]} has file_name {_shown(names[i])}, which is not a path inside "
            "the image folder"
        ),
    )
    order = np.argsort(ids)
    sides = {side: values[order] for side, values in sides.items()}
    return {"file_names": tuple(names[i] for i in order), "image_ids": ids[order], **sides}


def _annotation_columns(
    reader: "_Columns", image_ids: np.ndarray, annotations: list[dict[str, Any]]
) -> dict[str, Any]:
    """Annotations grouped by image; `image_ids` ascend."""
    ids = reader.integers(annotations, "annotations", "id")
    reader.reject(_repeated(ids), lambda i: f"annotation id {ids[i]} occurs more than once")
    owners = reader.integers(annotations, "annotations", "image_id")
    image_index = np.searchsorted(image_ids, owners).clip(max=len(image_ids) - 1)
    reader.reject(
        image_ids[image_index] != owners,
        lambda i: f"annotation {ids[i]} belongs to image {owners[i]}, which is not in 'images'",
    )
    xywh = reader.boxes(annotations)

    def box(i: int) -> str:
        return f"annotation {ids[i]} of image {owners[i]} has bbox {xywh[i].tolist()}"

    # NaN is not in range either.
    in_range = np.all(np.abs(xywh) <= MAX_PIXELS_PER_SIDE, axis=1)
    reader.reject(
        ~in_range,
        lambda i: f"{box(i)}, which is not finite or beyond {MAX_PIXELS_PER_SIDE} pixels",
    )
    negative = np.any(xywh[:, 2:] < 0, axis=1)
    reader.reject(negative, lambda i: f"{box(i)}, of negative size")
    area = reader.areas(annotations, xywh)
    reader.reject(
        ~np.isfinite(area),
        lambda i: f"annotation {ids[i]} of image {owners[i]} has area {area[i]}",
    )
    iscrowd = reader.flags(annotations, "iscrowd")
    ignore = reader.flags(annotations, "ignore")
    columns = {
        "annotation_ids": ids,
        "category_ids": reader.integers(annotations, "annotations", "category_id", default=0),
        "xywh": xywh,
        "area": area,
        "iscrowd": iscrowd,
        "ignore": ignore,
        "usable": usable_for_training(xywh, area, iscrowd, ignore),
    }
    order = np.argsort(image_index, kind="stable")
    counts = np.bincount(image_index, minlength=len(image_ids))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return {"offsets": offsets} | {name: column[order] for name, column in columns.items()}


class _Columns:
    """Turns one key of many dicts into one checked array."""

    def __init__(self, source: str):
        self.source = source

    def values(
        self,
        records: list[dict[str, Any]],
        group: str,
        key: str,
        kinds: frozenset[type],
        default: Any = _MISSING,
    ) -> list[Any]:
        """The values of a key, all of one of the `kinds`."""
        values = [record.get(key, default) for record in records]
        # The set of types is a C loop; only a bad file pays for the search.
        if not set(map(type, values)) <= kinds:
            bad = next(i for i, value in enumerate(values) if type(value) not in kinds)
            self._refuse(records[bad], group, bad, key, values[bad], kinds)
        return values

    def integers(
        self, records: list[dict[str, Any]], group: str, key: str, default: Any = _MISSING
    ) -> np.ndarray:
        values = self.values(records, group, key, _INTEGER, default)
        return self._array(values, np.int64, f"{group} with a '{key}'")

    def flags(self, records: list[dict[str, Any]], key: str) -> np.ndarray:
        values = self.values(records, "annotations", key, _FLAG, default=0)
        return np.fromiter(map(bool, values), bool, len(values))

    def areas(self, records: list[dict[str, Any]], xywh: np.ndarray) -> np.ndarray:
        if not any("area" in record for record in records):
            return xywh[:, 2] * xywh[:, 3]
        kinds = _NUMBER | {type(None)}
        values = self.values(records, "annotations", "area", kinds, default=None)
        by_box = (xywh[:, 2] * xywh[:, 3]).tolist()
        filled = [b if value is None else value for value, b in zip(values, by_box, strict=True)]
        return self._array(filled, np.float64, "annotations with an 'area'")

    def boxes(self, records: list[dict[str, Any]]) -> np.ndarray:
        rows = self.values(records, "annotations", "bbox", frozenset({list}))
        good_length = set(map(len, rows)) <= {4}
        if not good_length or not set(map(type, chain.from_iterable(rows))) <= _NUMBER:
            bad = next(
                i for i, r in enumerate(rows) if len(r) != 4 or not set(map(type, r)) <= _NUMBER
            )
            name = _name(records[bad], "annotations", bad)
            raise InputError(
                f"{self.source}: {name} has bbox {_shown(rows[bad])}; expected four numbers"
            )
        flat = self._array(list(chain.from_iterable(rows)), np.float64, "annotations with a 'bbox'")
        return flat.reshape(-1, 4)

    def reject(self, bad: np.ndarray, message: Callable[[int], str]) -> None:
        """Raises for the first bad item, and says how many more there are."""
        if bad.any():
            more = int(bad.sum()) - 1
            suffix = f" (and {more} more like it)" if more else ""
            raise InputError(f"{self.source}: {message(int(np.argmax(bad)))}{suffix}")

    def _array(self, values: Iterable[Any], dtype: type, what: str) -> np.ndarray:
        try:
            return np.fromiter(values, dtype)
        except OverflowError:
            raise InputError(f"{self.source}: {what} too large for a number") from None

    def _refuse(
        self,
        record: dict[str, Any],
        group: str,
        position: int,
        key: str,
        value: Any,
        kinds: frozenset[type],
    ) -> None:
        name = _name(record, group, position)
        if value is _MISSING:
            raise InputError(f"{self.source}: {name} has no '{key}'")
        expected = " or ".join(sorted(kind.__name__ for kind in kinds))
        raise InputError(
            f"{self.source}: {name} has {key} {_shown(value)}; expected a value of type {expected}"
        )


def _name(record: dict[str, Any], group: str, position: int) -> str:
    name = f"{group}[{position}]"
    known = [f"{key} {record[key]}" for key in ("id", "image_id") if type(record.get(key)) is int]
    return f"{name} ({', '.join(known)})" if known and len(str(known)) < 80 else name


def _shown(value: Any) -> str:
    """A short, one-line form of any value, however large or deep."""
    text = reprlib.repr(value).encode("ascii", "backslashreplace").decode()
    return text if len(text) <= 60 else f"{text[:57]}..."


def _repeated(values: np.ndarray) -> np.ndarray:
    """True at every occurrence of a value but its first."""
    again = np.ones(len(values), bool)
    again[np.unique(values, return_index=True)[1]] = False
    return again


def _leaves_folder(name: str) -> bool:
    """True for names that are empty, absolute, climb out, or that no file can have."""
    if name in ("", ".", "..") or _UNNAMEABLE.search(name):
        return True
    if "/" not in name and "\\" not in name and ":" not in name:
        return False
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    return posix.is_absolute() or bool(windows.anchor) or ".." in posix.parts + windows.parts
