"""The records of a COCO annotation file, decoded typed; a wrong one is named.

The whole file is decoded at once, and what no field names is skipped, outlines above all.  Only
where that fails is it gone through record by record, to say which is wrong and why.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np

from jaxdet.data.findings import Finding, Report, shown
from jaxdet.errors import InputError

Integer = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class ImageRecord(msgspec.Struct, gc=False):
    """An image; sides in pixels."""

    id: Integer
    file_name: str
    height: Integer
    width: Integer


class AnnotationRecord(msgspec.Struct, gc=False):
    """An object; its box is x, y, width, height in pixels."""

    id: Integer
    image_id: Integer
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: bool | int = 0
    ignore: bool | int = 0
    category_id: Integer = 0


class CategoryRecord(msgspec.Struct):
    """A class of objects."""

    id: Integer


class CocoFile(msgspec.Struct):
    """What is read of a file; all else, outlines above all, is skipped."""

    images: list[ImageRecord]
    annotations: list[AnnotationRecord]
    categories: list[CategoryRecord] | msgspec.UnsetType = msgspec.UNSET


Row = TypeVar("Row", bound=msgspec.Struct)

# Outlines are four fifths of COCO's text; as Python's objects they would take gigabytes.  Between
# the opening bracket and the last closing one no quote may occur: a match stays in the value.
_OUTLINES = re.compile(rb'"segmentation"\s*:\s*\[[][\d\s.,eE+-]*\]')

_EXPECTED = {"file_name": "text", "bbox": "four numbers", "area": "a number"}


def decode(text: bytes, path: Path, report: Report) -> tuple[CocoFile, set[int]]:
    """Returns the file's records, and the ids of images whose records are wrong and left out.

    Args:
        text: the content of `path`.
        path: for messages.
        report: gets what is wrong with single records.

    Raises:
        InputError: it is no COCO file, or it has no images.
    """
    file, left_out = None, set[int]()
    try:
        file = msgspec.json.decode(text, type=CocoFile)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        file, left_out = _decode_each(_read_json(text, path), report)
    if not file.images and not left_out:
        raise InputError(f"{path}: 'images' is empty")
    return file, left_out


def _read_json(text: bytes, path: Path) -> dict[str, Any]:
    """Reads with Python's own reader, whose NaN and infinities let us name the record."""
    try:
        content = json.loads(_OUTLINES.sub(b'"segmentation":0', text))
    except (ValueError, RecursionError) as error:  # bad syntax, encoding or depth
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not a JSON file ({reason})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a COCO file (holds a {type(content).__name__}, not a dict)")
    for key in ("images", "annotations"):
        if key not in content:
            raise InputError(f"{path}: not a COCO file (no '{key}')")
        if not isinstance(content[key], list):
            raise InputError(f"{path}: '{key}' is {shown(content[key])}, not a list")
    return content


def _decode_each(content: dict[str, Any], report: Report) -> tuple[CocoFile, set[int]]:
    images = _good_records("images", content["images"], ImageRecord, report)
    ids = {x["id"] for x in content["images"] if isinstance(x, dict) and type(x.get("id")) is int}
    left_out = {x for x in ids if -(2**63) <= x < 2**63} - {image.id for image in images}
    annotations = _good_records("annotations", content["annotations"], AnnotationRecord, report)
    file = CocoFile(images, annotations)
    categories = content.get("categories", [])
    if not isinstance(categories, list):
        line = f"'categories' is {shown(categories)}, not a list"
        report(Finding("no list of categories", np.zeros(1, np.int64), lambda i: line, True))
    elif "categories" in content:
        kind = CategoryRecord
        file.categories = _good_records("categories", categories, kind, report, harmless=True)
    return file, left_out


def _good_records(
    name: str, records: list[Any], kind: type[Row], report: Report, harmless: bool = False
) -> list[Row]:
    """Returns the records that are of a kind; the others are reported."""
    good: list[Row] = []
    faults: dict[str, dict[int, str]] = {}
    for i, record in enumerate(records):
        try:
            good.append(msgspec.convert(record, kind))
        except (msgspec.MsgspecError, UnicodeError, OverflowError):
            what, line = _fault_of(name, i, record, kind)
            faults.setdefault(what, {})[i] = line
    for what, lines in faults.items():
        report(Finding(what, np.array(list(lines)), lines.__getitem__, harmless))
    return good


def _fault_of(name: str, position: int, record: Any, kind: type[Row]) -> tuple[str, str]:
    """Returns the kind of fault that a record has and a line about it."""
    label = f"{name}[{position}]"
    if not isinstance(record, dict):
        return f"{name} that are no dicts", f"{label} is {shown(record)}, not a dict"
    known = [f"{k} {record[k]}" for k in ("id", "image_id") if type(record.get(k)) is int]
    if known and len(str(known)) < 80:
        label = f"{label} ({', '.join(known)})"
    for field in msgspec.structs.fields(kind):
        key = field.name
        if key not in record:
            if field.required:
                return f"{name} with a missing or wrong '{key}'", f"{label} has no '{key}'"
            continue
        value = record[key]
        try:
            msgspec.convert(value, field.type)
        except (msgspec.MsgspecError, UnicodeError, OverflowError):
            numbers = value if isinstance(value, list) and len(value) == 4 else [value]
            if any(type(x) is int and abs(x) >= 2**63 for x in numbers):
                what, reason = f"{name} whose '{key}' is too large for a number", ", too large"
                return what, f"{label} has {key} {shown(value)}{reason} for a number"
            expected = _EXPECTED.get(key, "a value of type int")
            what = f"{name} with a missing or wrong '{key}'"
            return what, f"{label} has {key} {shown(value)}; expected {expected}"
    return f"{name} with text that is not Unicode", f"{label} holds text that is not Unicode"
