"""COCO 2017 as prepared by TensorFlow Datasets, read without TensorFlow.

Images and boxes, and so training, are the same as from a COCO directory.  What differs: category
numbers are positions in the list of categories, and an area under 1 becomes 0.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from jaxdet.data.classes import with_classes
from jaxdet.data.dataset import Dataset
from jaxdet.data.findings import Findings
from jaxdet.data.image import decode_image, size_of
from jaxdet.errors import InputError
from jaxdet.files import cache_folder, make_folder, whole


@dataclass(frozen=True, eq=False, kw_only=True)
class TfdsDataset(Dataset):
    """A data set whose images lie in TFDS's own files."""

    records: Sequence[Any]
    positions: Int64[np.ndarray, " images"]  # of each image in `records`

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Decodes an image as RGB; see `Dataset.read`."""
        data = self.records[int(self.positions[index])]["image"]
        size = (int(self.heights[index]), int(self.widths[index]))
        return decode_image(data, f"{self.source}: {self.file_names[index]}", size)


def load_tfds(
    split: str,
    data_dir: str | Path | None = None,
    class_names: Sequence[str] = (),
    findings: Findings | None = None,
) -> Dataset:
    """Loads `coco/2017`.

    TFDS keeps boxes and images together, so the first call goes through the whole split, which
    takes minutes; what it finds is kept in the cache folder.  `data_dir` is where TFDS keeps data
    sets, `~/tensorflow_datasets` by default; `class_names` and `findings` are as for `load_coco`.
    Raises `InputError` if tensorflow-datasets is not installed, or the set is not there in a format
    with random access.
    """
    root = Path(data_dir or "~/tensorflow_datasets").expanduser() / "coco" / "2017"
    folder, records, names = _open(root, split)
    # The description holds the number of records and bytes of every file.
    description = (folder / "dataset_info.json").read_text()
    key = hashlib.sha256("\0".join([str(folder.resolve()), description, split]).encode())
    path = cache_folder() / f"tfds-{key.hexdigest()[:16]}.npz"
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            index = dict(arrays)
    except Exception:  # of many kinds: not there, or damaged
        index = _make_index(records, folder)
        make_folder(path.parent)
        with whole(path) as new:
            np.savez(new, **index)
    dataset = TfdsDataset(
        source=str(folder),
        image_dir=folder,
        file_names=tuple(index.pop("file_names").tolist()),
        records=records,
        ignore=np.zeros(len(index["area"]), bool),
        **index,
    )
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    return with_classes(dataset, class_names, categories, findings or Findings(str(folder)))


def _make_index(records: Sequence[Any], folder: Path) -> dict[str, Any]:
    """Returns the arrays of a `TfdsDataset`, in ascending order of image ids."""
    images = [{"positions": i, **_read_record(records[i], folder)} for i in range(len(records))]
    images.sort(key=itemgetter("image_ids"))
    index = {
        # Scalars of the images are put in a row, arrays of their boxes joined.
        key: np.concatenate([np.atleast_1d(image[key]) for image in images])
        for key in images[0]
    }
    return index | {"offsets": np.cumsum([0, *(len(image["area"]) for image in images)])}


def _open(root: Path, split: str) -> tuple[Path, Sequence[Any], Sequence[str]]:
    """Returns the newest version's folder, its records (images undecoded) and its categories."""
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise InputError(
            "config.data.name: tfds needs tensorflow-datasets; pip install 'jaxdet[tfds]'"
        ) from None
    versions = sorted(root.glob("*.*.*"))
    if not versions:
        raise InputError(
            f"{root}: no prepared data set there; prepare it with "
            "tfds build coco/2017 --file_format=array_record"
        )
    # From the folder, not by name: the code behind the name needs TensorFlow.
    builder = tfds.builder_from_directory(versions[-1])
    try:
        split = {"train": "train", "val": "validation"}[split]
        decoders = {"image": tfds.decode.SkipDecoding()}
        records = builder.as_data_source(split=split, decoders=decoders)
        return versions[-1], records, builder.info.features["objects"]["label"].names
    except (NotImplementedError, ValueError) as error:
        raise InputError(f"{versions[-1]}: {str(error).splitlines()[0]}") from None


def _read_record(record: dict[str, Any], folder: Path) -> dict[str, Any]:
    name, objects = record["image/filename"], record["objects"]
    name = name.decode() if isinstance(name, bytes) else str(name)
    height, width = size_of(io.BytesIO(record["image"]), f"{folder}: {name}")
    fractions = np.asarray(objects["bbox"], np.float64).reshape(-1, 4)
    return {
        "file_names": name,
        "image_ids": np.int64(record["image/id"]),
        "heights": np.int32(height),
        "widths": np.int32(width),
        "annotation_ids": np.asarray(objects["id"], np.int64),
        "category_ids": np.asarray(objects["label"], np.int64),
        "xywh": boxes_in_pixels(fractions, (height, width)),
        "area": np.asarray(objects["area"], np.float64),
        "iscrowd": np.asarray(objects["is_crowd"], bool),
    }


def boxes_in_pixels(
    fractions: Float64[np.ndarray, "n 4"], size: tuple[int, int]
) -> Float64[np.ndarray, "n 4"]:
    """Returns TFDS's ymin, xmin, ymax, xmax (shares of the image) as COCO's boxes in pixels.

    COCO gives coordinates to a hundredth of a pixel: rounding to that restores them exactly.
    """
    height, width = size
    ymin, xmin, ymax, xmax = np.round(fractions * [height, width, height, width], 2).T
    return np.round(np.stack([xmin, ymin, xmax - xmin, ymax - ymin], axis=-1), 2)
