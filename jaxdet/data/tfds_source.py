"""COCO 2017 as prepared by TensorFlow Datasets, read without TensorFlow.

TFDS stores boxes as fractions in float32 and areas as whole numbers.  COCO gives coordinates to
a hundredth of a pixel, so rounding to that restores them exactly; pictures are COCO's own JPEG
files.  Images and boxes, and so training, are the same as from a COCO directory.  What differs:
category numbers are positions in the list of categories, and an area under 1 becomes 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from jaxdet.data.dataset import Dataset, usable_for_training
from jaxdet.data.transforms import checked_size, decode_image
from jaxdet.errors import InputError

SPLITS = {"train": "train", "val": "validation"}


@dataclass(frozen=True, eq=False)
class TfdsDataset(Dataset):
    """A data set whose pictures lie in TFDS's own files."""

    records: Sequence[Any]
    positions: Int64[np.ndarray, " images"]  # of each image in `records`

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Decodes a picture as RGB; see `Dataset.read`."""
        data = self.records[int(self.positions[index])]["image"]
        size = (int(self.heights[index]), int(self.widths[index]))
        return decode_image(data, f"{self.source}: {self.file_names[index]}", size)


def load_tfds(split: str, data_dir: str | Path | None = None) -> TfdsDataset:
    """Loads `coco/2017`; goes through all pictures once, for their sizes.

    Args:
        split: `train` or `val`.
        data_dir: Where TFDS keeps data sets; `~/tensorflow_datasets` by default.

    Raises:
        InputError: tensorflow-datasets is not installed, or the set is not there in a format
            with random access.
    """
    root = Path(data_dir or "~/tensorflow_datasets").expanduser()
    records = _open(root, split)
    read = [_read_record(record, root) for record in records]
    order = sorted(range(len(read)), key=lambda position: read[position]["id"])
    images = [read[position] for position in order]
    counts = [len(image["area"]) for image in images]
    xywh = np.concatenate([image["xywh"] for image in images])
    area, iscrowd, annotation_ids, category_ids = (
        np.concatenate([image[key] for image in images])
        for key in ("area", "is_crowd", "annotation_ids", "label")
    )
    ignore = np.zeros(len(area), bool)
    return TfdsDataset(
        source=str(root / "coco" / "2017"),
        image_dir=root,
        file_names=tuple(image["name"] for image in images),
        image_ids=np.array([image["id"] for image in images], np.int64),
        heights=np.array([image["size"][0] for image in images], np.int32),
        widths=np.array([image["size"][1] for image in images], np.int32),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        annotation_ids=annotation_ids.astype(np.int64),
        category_ids=category_ids.astype(np.int64),
        xywh=xywh,
        area=area.astype(np.float64),
        iscrowd=iscrowd.astype(bool),
        ignore=ignore,
        usable=usable_for_training(xywh, area.astype(np.float64), iscrowd.astype(bool), ignore),
        records=records,
        positions=np.array(order, np.int64),
    )


def _open(root: Path, split: str) -> Sequence[Any]:
    """TFDS's random access to a split, pictures left as they are stored."""
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise InputError(
            "config.data.name: tfds needs tensorflow-datasets; pip install 'jaxdet[tfds]'"
        ) from None
    versions = sorted((root / "coco" / "2017").glob("*.*.*"))
    if not versions:
        raise InputError(
            f"{root / 'coco' / '2017'}: no prepared data set there; prepare it with "
            "tfds build coco/2017 --file_format=array_record"
        )
    # From the folder, not by name: the code behind the name needs TensorFlow.
    builder = tfds.builder_from_directory(versions[-1])
    try:
        return builder.as_data_source(
            split=SPLITS[split], decoders={"image": tfds.decode.SkipDecoding()}
        )
    except (NotImplementedError, ValueError) as error:
        raise InputError(f"{versions[-1]}: {str(error).splitlines()[0]}") from None


def _read_record(record: dict[str, Any], root: Path) -> dict[str, Any]:
    name, objects = record["image/filename"], record["objects"]
    name = name.decode() if isinstance(name, bytes) else str(name)
    size = checked_size(record["image"], f"{root}: {name}")
    return {
        "id": int(record["image/id"]),
        "name": name,
        "size": size,
        "xywh": boxes_in_pixels(np.asarray(objects["bbox"], np.float64).reshape(-1, 4), size),
        "area": np.asarray(objects["area"]),
        "is_crowd": np.asarray(objects["is_crowd"]),
        "annotation_ids": np.asarray(objects["id"]),
        "label": np.asarray(objects["label"]),
    }


def boxes_in_pixels(
    fractions: Float64[np.ndarray, "n 4"], size: tuple[int, int]
) -> Float64[np.ndarray, "n 4"]:
    """TFDS's ymin, xmin, ymax, xmax in parts of the picture to COCO's x, y, width, height."""
    height, width = size
    ymin, xmin, ymax, xmax = fractions.T
    corners = np.stack([xmin * width, ymin * height, xmax * width, ymax * height], axis=-1)
    corners = np.round(corners, 2)
    return np.round(np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1), 2)
