"""The records of a COCO annotation file, decoded typed; a wrong one is named.

The whole file is decoded at once, and what no field names is skipped, outlines above all.  Only
where that fails is it gone through record by record, to say which is wrong and why.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from jaxdet.data.findings import Findings
from jaxdet.errors import InputError

# Larger coordinates and sides are typing errors, and would leave float32's exact integers.
MAX_PIXELS_PER_SIDE = 1_000_000

# Names that are empty, absolute (also on Windows), climb out, or that no file can have: of control
# characters or halves of surrogate pairs.
_NO_NAME_INSIDE = re.compile(
    r"^\.?$|^[/\\]|^.:|(^|[/\\])\.\.([/\\]|$)|[\x00-\x1f\x7f\ud800-\udfff]"
)

Integer = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Side = Annotated[int, msgspec.Meta(ge=1, le=MAX_PIXELS_PER_SIDE)]
Coordinate = Annotated[float, msgspec.Meta(ge=-MAX_PIXELS_PER_SIDE, le=MAX_PIXELS_PER_SIDE)]
Length = Annotated[float, msgspec.Meta(ge=0, le=MAX_PIXELS_PER_SIDE)]
Finite = Annotated[float, msgspec.Meta(ge=-1e300, le=1e300)]


class ImageRecord(msgspec.Struct, gc=False):
    """An image; sides in pixels."""

    id: Integer
    file_name: str
    height: Side
    width: Side

    def __post_init__(self) -> None:
        if _NO_NAME_INSIDE.search(self.file_name):
            name = self.file_name[:60]
            raise ValueError(f"file_name {name!a} is not a path inside the image folder")


class AnnotationRecord(msgspec.Struct, gc=False):
    """An object; its box is x, y, width, height in pixels."""

    id: Integer
    image_id: Integer
    bbox: tuple[Coordinate, Coordinate, Length, Length]
    area: Finite | None = None
    iscrowd: bool | int = 0
    ignore: bool | int = 0
    category_id: Integer = 0


class CategoryRecord(msgspec.Struct):
    """A class of objects."""

    id: Integer


class CocoFile(msgspec.Struct):
    """What is read of a file."""

    images: Annotated[list[ImageRecord], msgspec.Meta(min_length=1)]
    annotations: list[AnnotationRecord]
    categories: list[CategoryRecord] | msgspec.UnsetType = msgspec.UNSET


class _Lists(msgspec.Struct):
    """The same, of any records."""

    images: Annotated[list[Any], msgspec.Meta(min_length=1)]
    annotations: list[Any]
    categories: Any = msgspec.UNSET


Row = TypeVar("Row", bound=msgspec.Struct)

# Outlines are four fifths of COCO's text; as Python's objects they would take gigabytes.  Between
# the opening bracket and the last closing one no quote may occur: a match stays in the value.
_OUTLINES = re.compile(rb'"segmentation"\s*:\s*\[[][\d\s.,eE+-]*\]')


def decode(text: bytes, path: Path, findings: Findings) -> CocoFile:
    """Returns the file's good records, without the annotations of wrong ones of images.

    Args:
        text: The content of `path`.
        path: For messages.
        findings: Gets what is wrong with single records.

    Raises:
        InputError: It is no COCO file, or it has no images.
    """
    try:
        return msgspec.json.decode(text, type=CocoFile)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass
    try:  # Python's own reader knows NaN and infinities, so that their record can be named
        lists = msgspec.convert(json.loads(_OUTLINES.sub(b'"segmentation":0', text)), _Lists)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: not a COCO file ({error})") from None
    except (ValueError, RecursionError) as error:  # bad syntax, encoding or depth
        raise InputError(f"{path}: not a JSON file ({error})") from None
    images = _good_records("images", lists.images, ImageRecord, findings)
    left_out = {_id_of(record) for record in lists.images} - {image.id for image in images}
    annotations = _good_records("annotations", lists.annotations, AnnotationRecord, findings)
    file = CocoFile(images, [a for a in annotations if a.image_id not in left_out])
    if lists.categories is not msgspec.UNSET:
        records = lists.categories if isinstance(lists.categories, list) else [lists.categories]
        kind = CategoryRecord
        file.categories = _good_records("categories", records, kind, findings, harmless=True)
    return file


def _good_records(
    name: str, records: list[Any], kind: type[Row], findings: Findings, harmless: bool = False
) -> list[Row]:
    """Returns the records that are of a kind; the others are reported."""
    good: list[Row] = []
    for i, record in enumerate(records):
        try:
            good.append(msgspec.convert(record, kind))
        except (msgspec.MsgspecError, UnicodeError, OverflowError) as error:
            number = _id_of(record)
            label = f"{name}[{i}]" if number is None else f"{name}[{i}] (id {number!s:.20})"
            findings.add(f"malformed {name}", [f"{label}: {error}"], harmless=harmless)
    return good


def _id_of(record: Any) -> int | None:
    number = record.get("id") if isinstance(record, dict) else None
    return number if type(number) is int else None
