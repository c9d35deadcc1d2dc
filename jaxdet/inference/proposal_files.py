"""Proposals of a data set's images as files, told by their content.

- `.npz`: arrays `image_id` [I], `count` [I], and `boxes` [N, 4] and `scores` [N] of all, in order
- `.json`, COCO's results: objects with `image_id`, `bbox` (x, y, width, height) and `score`
- `.pkl` of the 2018 toolbox: a list of an array [n, 4 or 5] per image, as the annotation file has
  them
- `.pkl` of Detectron 1 and 2, read only: a dict of lists `boxes`, `scores` or `objectness_logits`,
  and `indexes` or `ids`

Boxes are x1 y1 x2 y2 in original pixels where nothing else is said.  Those of JSON and of dicts are
put in order of their scores; the others have it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Literal

import msgspec
import numpy as np

from jaxdet.data.dataset import Dataset, Given
from jaxdet.errors import InputError
from jaxdet.files import open_regular, whole, write_whole
from jaxdet.inference.average_precision import coco_records
from jaxdet.inference.single import Result
from jaxdet.ops.boxes import from_xywh
from jaxdet.weights import safe_pickle, write_pickle

Format = Literal["npz", "json", "pkl"]
STEPS_PER_IMAGE = 120  # of a pickle; an array takes some 25


class _Record(msgspec.Struct, gc=False):
    image_id: int
    bbox: tuple[float, float, float, float]
    score: float


def write(folder: Path, kind: Format, dataset: Dataset, proposals: Sequence[Result]) -> None:
    """Writes `proposals.<kind>` of all images; see `require_order` for `.pkl`."""
    path = folder / f"proposals.{kind}"
    if kind == "json":
        write_whole(path, msgspec.json.encode(coco_records(dataset, proposals)))
    elif kind == "pkl":
        assert dataset.file_order is not None
        rows = [np.concatenate([p.boxes, p.scores[:, None]], 1) for p in proposals]
        write_whole(path, write_pickle.plain([rows[i] for i in np.argsort(dataset.file_order)]))
    else:
        with whole(path) as file:
            np.savez_compressed(
                file,
                image_id=dataset.image_ids,
                count=[len(p.scores) for p in proposals],
                boxes=np.concatenate([p.boxes for p in proposals]),
                scores=np.concatenate([p.scores for p in proposals]),
            )


def read(path: Path, dataset: Dataset, limit: int) -> Given:
    """Returns the first `limit` proposals of each of a data set's images.

    Raises `InputError` if the file cannot be read, is damaged or of other images.
    """
    with open_regular(path) as file:
        head = file.peek(1)[:64].lstrip()
        try:
            if head.startswith(b"PK"):
                boxes = _of_npz(file, dataset)
            elif head.startswith((b"[", b"{")):
                boxes = _of_json(file, dataset)
            else:
                boxes = _of_pickle(file, dataset)
            boxes = [of_image[:limit, :4].astype(np.float32) for of_image in boxes]
        except OSError:
            raise
        except Exception as error:  # of many kinds, where bytes are damaged
            line = " ".join(str(error).split())
            line = f"it {line}" if isinstance(error, safe_pickle.Refused) else line
            raise InputError(f"{path}: cannot be used as proposals: {line}") from None
    for image_id, of_image in zip(dataset.image_ids, boxes, strict=True):
        if not np.isfinite(of_image).all():
            raise InputError(f"{path}: boxes of image {image_id} are not finite")
    return Given(np.concatenate(boxes), np.cumsum([0, *map(len, boxes)]), limit)


def require_order(kind: Format, dataset: Dataset) -> None:
    """Raises `InputError` if a data set has no order for a file that goes by it."""
    if kind == "pkl" and dataset.file_order is None:
        raise InputError(
            f"--proposals_format=pkl: its order is an annotation file's, and {dataset.source} is "
            "none; take another"
        )


def _of_npz(file: IO[bytes], dataset: Dataset) -> list[np.ndarray]:
    with np.load(file, allow_pickle=False) as arrays:
        ids, counts, boxes = arrays["image_id"], arrays["count"], arrays["boxes"]
    if counts.min(initial=0) < 0 or boxes.shape != (counts.sum(), 4):
        raise ValueError(f"{boxes.shape} boxes, and counts that add up to {counts.sum()}")
    return _by_id(ids, np.split(boxes, np.cumsum(counts)[:-1]), dataset)


def _of_json(file: IO[bytes], dataset: Dataset) -> list[np.ndarray]:
    records = msgspec.json.decode(file.read(), type=list[_Record])
    ids = np.array([record.image_id for record in records], np.int64)
    xywh = np.array([record.bbox for record in records], np.float64).reshape(-1, 4)
    boxes, scores = from_xywh(xywh, dataset.convention), np.array([r.score for r in records])
    if other := {*ids.tolist()} - {*dataset.image_ids.tolist()}:
        raise ValueError(f"of image {min(other)}, which is not in {dataset.source}")
    # By image, and there by score; images without any have none.
    order = np.lexsort((-scores, ids))
    bounds = np.searchsorted(ids[order], dataset.image_ids)
    return np.split(boxes[order], bounds[1:])


def _of_pickle(file: IO[bytes], dataset: Dataset) -> list[np.ndarray]:
    found: Any = safe_pickle.load(file, max_steps=STEPS_PER_IMAGE * len(dataset) + 1000)
    if type(found) is dict:
        return _of_dict(found, dataset)
    if type(found) is not list:
        raise ValueError("neither a list with an array for each image nor Detectron's dict")
    if dataset.file_order is None:
        raise ValueError(f"they go by the order of an annotation file; {dataset.source} has none")
    if len(found) != len(dataset):
        raise ValueError(f"of {len(found)} images, not of the {len(dataset)} of {dataset.source}")
    for i, array in enumerate(found):
        _require_boxes(array, f"entry {i}")
    return [found[i] for i in dataset.file_order]


def _of_dict(found: dict[Any, Any], dataset: Dataset) -> list[np.ndarray]:
    ids: Any = found.get("ids", found.get("indexes"))
    boxes: Any = found.get("boxes")
    scores: Any = found.get("objectness_logits", found.get("scores"))
    if not all(type(x) is list for x in (ids, boxes, scores)) or found.get("bbox_mode", 0) != 0:
        raise ValueError("a dict, but not Detectron's: lists boxes, scores and ids, bbox_mode 0")
    for image_id, own, of_own in zip(ids, boxes, scores, strict=True):
        _require_boxes(own, f"'boxes' of image {image_id}")
        if not isinstance(of_own, np.ndarray) or of_own.shape != own.shape[:1]:
            raise ValueError(f"'scores' of image {image_id} are not one for each box")
    ordered = [x[np.argsort(-y, kind="stable")] for x, y in zip(boxes, scores, strict=True)]
    return _by_id(np.array(ids), ordered, dataset)


def _require_boxes(array: Any, what: str) -> None:
    is_array = isinstance(array, np.ndarray) and array.dtype.kind == "f" and array.ndim == 2
    if not is_array or array.shape[1] not in (4, 5):
        raise ValueError(f"{what} is no array of floats, [n, 4] or [n, 5]")


def _by_id(ids: np.ndarray, boxes: list[np.ndarray], dataset: Dataset) -> list[np.ndarray]:
    """Returns boxes in the order of ascending ids, which must be the data set's."""
    other = np.setxor1d(ids, dataset.image_ids)
    if other.size or len(ids) != len(dataset):
        first = f"; image {other[0]} is in one of them only" if other.size else ""
        raise ValueError(f"of {len(ids)} images, not of {dataset.source}{first}")
    return [boxes[i] for i in np.argsort(ids)]
