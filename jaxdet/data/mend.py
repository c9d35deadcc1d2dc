"""Dialects of COCO: what other tools write otherwise, read where only one thing can be meant."""

import json
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxdet.data.image import read_size
from jaxdet.errors import InputError

PROBED = 10  # images whose files are looked for

# Names that are empty, absolute (also on Windows), climb out, or that no file can have: of control
# characters or halves of surrogate pairs.
NO_NAME_INSIDE = re.compile(r"^\.?$|^[/\\]|^.:|(^|[/\\])\.\.([/\\]|$)|[\x00-\x1f\x7f\ud800-\udfff]")

Record = dict[str, Any]


def mend(
    images: list[Any], annotations: list[Any], categories: Any, folder: Path, need_classes: bool
) -> dict[str, list[str]]:
    """Changes records into COCO's form; returns, by what was mended, which records were.

    Ids may be text or 1.0, or absent of all annotations; `iscrowd`, `ignore`, `area` or, where it
    does not matter, `category_id` null; a `bbox` missing beside an outline, a `file_name` beside a
    `coco_url`, sides of an image that is there.  What is not clear stays, to be refused.
    """
    done = defaultdict[str, list[str]](list)
    kinds = [x if isinstance(x, list) else [] for x in (images, annotations, categories)]
    found = [[x for x in kind if isinstance(x, dict)] for kind in kinds]
    numbered = any("id" in record for record in found[1])
    for name, records in zip(("image", "annotation", "category"), found, strict=True):
        for i, record in enumerate(records):
            label = f"{name} {i + 1}"
            for key in ("id", "image_id", "category_id"):
                if (number := _whole(record.get(key))) is not None:
                    record[key] = number
                    done["ids as text or fractions: whole numbers"].append(label)
            if name == "annotation":
                if not numbered:
                    record["id"] = i + 1
                    done["annotations without ids: numbered"].append(label)
                _mend_annotation(record, found[2], need_classes, label, done)
    for i, record in enumerate(found[0]):
        if isinstance(url := record.get("coco_url"), str) and "file_name" not in record:
            record["file_name"] = url.rpartition("/")[2]
            done["images without file_name: named by their coco_url"].append(f"image {i + 1}")
    named = [record for record in found[0] if isinstance(record.get("file_name"), str)]
    names = names_in(folder, [record["file_name"] for record in named])
    for i, (record, name) in enumerate(zip(named, names, strict=True)):
        if name != record["file_name"]:
            done[RENAMED].append(f"{record['file_name']!a} is {name!a}")
            record["file_name"] = name
        sides = record.get("height"), record.get("width")
        if any(side is None or side == -1 for side in sides) and not NO_NAME_INSIDE.search(name):
            try:
                record["height"], record["width"] = read_size(folder / name)
                done["images without sides: those of their files"].append(f"image {i + 1}")
            except InputError:
                pass
    return done


RENAMED = "file names with backslashes, or folders that are not there: without them"


def names_in(folder: Path, names: Sequence[str]) -> list[str]:
    """Returns file names as they are in a folder: with slashes, and without leading folders.

    The latter only where none of the first few is there as named, but one of them without.
    """
    names = [
        name.replace("\\", "/") if "\\" in name and not _is_in(folder, name) else name
        for name in names
    ]
    if any(_is_in(folder, name) for name in names[:PROBED]):
        return names
    parts = [name.split("/") for name in names]
    for some in parts[:PROBED]:
        for start in range(1, len(some)):
            if _is_in(folder, "/".join(some[start:])):
                alike = (x[:start] == some[:start] for x in parts)
                pairs = zip(parts, alike, strict=True)
                shorter = ["/".join(x[start:] if same else x) for x, same in pairs]
                both = zip(names, shorter, strict=True)
                return [name if NO_NAME_INSIDE.search(short) else short for name, short in both]
    return names


def _is_in(folder: Path, name: str) -> bool:
    return not NO_NAME_INSIDE.search(name) and os.access(folder / name, os.F_OK)


def _mend_annotation(
    record: Record, categories: list[Record], need_classes: bool, label: str, done: Any
) -> None:
    for key in ("iscrowd", "ignore", "area", "category_id"):
        clear = key != "category_id" or not need_classes or len(categories) == 1
        if key in record and record[key] is None and clear:
            del record[key]
            done[f"annotations whose {key} is null: as if it were not there"].append(label)
            if key == "category_id" and len(categories) == 1 and "id" in categories[0]:
                record[key] = categories[0]["id"]
    outline = record.get("segmentation")
    if record.get("bbox") in (None, []) and isinstance(outline, str | list):
        flat = re.findall(
            r"[^\s,\[\]]+", outline if isinstance(outline, str) else json.dumps(outline)
        )
        try:
            x, y = ([float(number) for number in flat[i::2]] for i in (0, 1))
            record["bbox"] = [min(x), min(y), max(x) - min(x), max(y) - min(y)]
            done["annotations without bbox: those of their outlines"].append(label)
        except ValueError:  # no numbers, or none at all
            pass


def _whole(value: Any) -> int | None:
    """Returns the number that a text or a fraction is, if it is whole."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 19:
        return int(value)
    if isinstance(value, float) and abs(value) < 2**53 and value.is_integer():
        return int(value)
    return None
