"""COCO annotation files: read once, checked completely, kept as flat arrays.

The whole file is decoded at once, and what no field names is skipped: outlines above all, unless
masks are wanted, whose text is kept then.  Only where that fails is it gone through record by
record, to say which is wrong and why.
"""

import json
import re
from collections.abc import Sequence
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import msgspec
import numpy as np
from jaxtyping import Int64
from numpy.typing import DTypeLike

from jaxdet.data.classes import with_classes
from jaxdet.data.dataset import Dataset
from jaxdet.data.findings import Findings
from jaxdet.data.masks import Segmentations
from jaxdet.data.mend import NO_NAME_INSIDE, RENAMED, mend, names_in
from jaxdet.errors import InputError
from jaxdet.files import read_bytes

# Larger coordinates and sides are typing errors, and would leave float32's exact integers.
MAX_PIXELS_PER_SIDE = 1_000_000

MAX_ANNOTATIONS = 5000  # of an image: batches have room for the most of any

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
        if NO_NAME_INSIDE.search(self.file_name):
            name = self.file_name[:60]
            raise ValueError(f"file_name {name!a} is not a path inside the image folder")


class AnnotationRecord(msgspec.Struct, gc=False):
    """An object; its box is x, y, width, height in pixels."""

    id: Integer
    image_id: Integer
    bbox: tuple[Coordinate, Coordinate, Length, Length]
    area: Finite | None = None  # that of the box where none is given
    iscrowd: bool | int = 0
    ignore: bool | int = 0
    category_id: Integer = 0

    def __post_init__(self) -> None:
        if self.area is None:
            self.area = self.bbox[2] * self.bbox[3]


class OutlinedRecord(AnnotationRecord, gc=False, kw_only=True):
    """The same, with the text of its outline."""

    segmentation: msgspec.Raw


Image = TypeVar("Image")
Annotation = TypeVar("Annotation")


class _File(msgspec.Struct, Generic[Image, Annotation]):
    images: Annotated[list[Image], msgspec.Meta(min_length=1)]
    annotations: list[Annotation] = msgspec.field(default_factory=list)
    categories: Any = None


# Outlines are four fifths of COCO's text; as Python's objects they would take gigabytes.  Between
# the opening bracket and the last closing one no quote may occur: a match stays in the value.
_OUTLINES = re.compile(rb'"segmentation"\s*:\s*(\[[][\d\s.,eE+-]*\])')


def coco_paths(root: str | Path, split: str) -> tuple[Path, Path]:
    """Returns the annotation file and the images of a split of a folder laid out as COCO 2017."""
    return Path(root) / "annotations" / f"instances_{split}2017.json", Path(root) / f"{split}2017"


def load_coco(
    annotation_file: str | Path,
    image_dir: str | Path,
    findings: Findings | None = None,
    class_names: Sequence[str] = (),
    masks: bool = False,
) -> Dataset:
    """Returns what a COCO annotation file holds, checked; images are not opened.

    Images are put in the order of their ids, so that a set has one order wherever it comes from;
    the annotations of an image keep the order of the file.

    Args:
        annotation_file: JSON with `images`, and `annotations` if there are any.  `area`, `iscrowd`,
            `ignore` and `category_id` may be left out: width x height, 0, 0 and 0; see `mend` for
            what else is read.
        image_dir: Folder that the `file_name`s are relative to.
        findings: Gets all that is wrong with single images and annotations, each of which is then
            left out, and what was mended.  By default the first such thing is an error, and a line
            says how much was mended.
        class_names: Of `categories`, in the order of their labels; without any, categories are not
            looked at.
        masks: Keep each annotation's `segmentation`, which it must have.

    Raises `InputError` if the file is missing or not COCO, or there are no `findings` to collect an
    id that occurs twice, an annotation of no image, a box that is not finite or of negative size, a
    file name that leaves the folder, a category that is not in `class_names`.
    """
    annotation_file, image_dir = Path(annotation_file), Path(image_dir)
    findings = findings or Findings(stop_at=str(annotation_file))
    text = read_bytes(annotation_file)
    if not image_dir.is_dir():
        raise InputError(f"{image_dir}: no such folder of images (for {annotation_file})")
    file = _decode(text, annotation_file, image_dir, findings, masks, len(class_names) > 0)
    image_ids, firsts = _unique_ids("image", file.images, findings)
    images, rows = [file.images[i] for i in firsts], file.annotations
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
        area=_column(rows, "area", np.float64)[order],
        iscrowd=_column(rows, "iscrowd", bool)[order],
        ignore=_column(rows, "ignore", bool)[order],
        file_order=firsts,
        segmentations=Segmentations.joined([rows[i].segmentation for i in order])
        if masks
        else None,
    )
    return with_classes(dataset, class_names, file.categories, findings)


def _sound_annotations(
    rows: list[AnnotationRecord],
    owners: Int64[np.ndarray, " K"],
    image_ids: Int64[np.ndarray, " I"],
    findings: Findings,
) -> Int64[np.ndarray, " sound"]:
    """Returns the positions of annotations that can be used, in ascending order of `owners`."""

    def line(i: int) -> str:
        return f"annotation {rows[i].id} belongs to image {owners[i]}, which is not in 'images'"

    known = np.isin(owners, image_ids)
    findings.add("annotations of unknown images", ~known, line)
    sound = np.zeros(len(rows), bool)
    sound[_unique_ids("annotation", rows, findings)[1]] = True
    order = np.argsort(owners, kind="stable")
    order = order[(sound & known)[order]]
    place = np.arange(len(order)) - np.searchsorted(owners[order], owners[order])
    findings.add(
        f"images with over {MAX_ANNOTATIONS} annotations",
        order[place == MAX_ANNOTATIONS].tolist(),
        lambda i: (
            f"image {owners[i]} has over {MAX_ANNOTATIONS} annotations (COCO's have under "
            "100), which would take memory on every image; cut it into tiles"
        ),
    )
    return order[place < MAX_ANNOTATIONS]


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


def _decode(
    text: bytes, path: Path, folder: Path, findings: Findings, masks: bool, need_classes: bool
) -> _File[ImageRecord, Any]:
    """Returns the file's good records, mended, without the annotations of wrong ones of images."""
    kind: Any = OutlinedRecord if masks else AnnotationRecord
    try:
        file = msgspec.json.decode(text, type=_File[ImageRecord, kind])
        names = names_in(folder, [image.file_name for image in file.images])
        pairs = [
            (x, name) for x, name in zip(file.images, names, strict=True) if x.file_name != name
        ]
        findings.add(RENAMED, [f"{x.file_name!a} is {name!a}" for x, name in pairs], harmless=True)
        for image, name in pairs:
            image.file_name = name
        return file
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass
    with_texts = _OUTLINES.sub(_in_quotes, text)
    try:  # Python's own reader knows NaN and infinities, so that their record can be named
        file = msgspec.convert(json.loads(with_texts), _File[Any, Any])
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: not a COCO file ({error})") from None
    except (ValueError, RecursionError) as error:  # bad syntax, encoding or depth
        raise InputError(f"{path}: not a JSON file ({error})") from None
    done = mend(file.images, file.annotations, file.categories, folder, need_classes)
    for what, labels in done.items():
        findings.add(what, labels, harmless=True)
    images = _good_records("images", file.images, ImageRecord, findings)
    left_out = {_id_of(record) for record in file.images} - {image.id for image in images}
    annotations = _good_records("annotations", file.annotations, kind, findings)
    kept = [a for a in annotations if a.image_id not in left_out]
    return _File(images, kept, file.categories)


def _in_quotes(outline: re.Match[bytes]) -> bytes:
    return b'"segmentation":"%s"' % b" ".join(outline[1].split())


def _good_records(name: str, records: list[Any], kind: type, findings: Findings) -> list[Any]:
    """Returns the records that are of a kind; the others are reported."""
    good = list[Any]()
    for i, record in enumerate(records):
        try:
            if kind is OutlinedRecord and isinstance(record, dict) and "segmentation" in record:
                outline = record["segmentation"]
                outline = outline if isinstance(outline, str) else json.dumps(outline)
                record["segmentation"] = msgspec.Raw(outline.encode())
            good.append(msgspec.convert(record, kind))
        except (msgspec.MsgspecError, UnicodeError, OverflowError, RecursionError) as error:
            number = _id_of(record)
            label = f"{name}[{i}]" if number is None else f"{name}[{i}] (id {number!s:.20})"
            findings.add(f"malformed {name}", [f"{label}: {error}"])
    return good


def _id_of(record: Any) -> int | None:
    number = record.get("id") if isinstance(record, dict) else None
    return number if type(number) is int else None


def _column(rows: Sequence[Any], field: str, kind: DTypeLike = np.int64) -> np.ndarray:
    return np.fromiter(map(attrgetter(field), rows), kind, len(rows))
