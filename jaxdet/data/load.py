"""From `config.data` to a data set."""

import dataclasses
from pathlib import Path

from jaxdet.config import Config, DataConfig
from jaxdet.data.coco import coco_paths, load_coco
from jaxdet.data.dataset import Dataset
from jaxdet.data.findings import Findings
from jaxdet.data.shapes import make_shapes
from jaxdet.data.tfds import load_tfds
from jaxdet.errors import InputError
from jaxdet.ops.boxes import CONVENTIONS


def load_dataset(config: Config, split: str, findings: Findings | None = None) -> Dataset:
    """Returns the `train` or `val` images of a config, with its labels and boxes of its convention.

    `findings` as for `load_coco`.  Raises `InputError` if files are missing or of no use.
    """
    data, names = config.data, config.model.class_names
    masks = "mask" in config.model.detector
    if data.name == "tfds":
        if masks:
            raise InputError(
                f"config.data.name: tfds has no masks, which {config.model.detector} needs; use "
                "coco, with COCO's own files"
            )
        dataset = load_tfds(split, data.root or None, names, findings)
    else:
        shapes = data.name == "shapes"
        paths = coco_paths(data.root or make_shapes(), split) if shapes else find_files(data, split)
        dataset = load_coco(*paths, findings, names, masks)
    return dataclasses.replace(dataset, convention=CONVENTIONS[config.model.convention])


def find_files(data: DataConfig, split: str) -> tuple[Path, Path]:
    """Returns a split's annotation file and image folder: those named, or those of the root.

    Either need not exist.  Raises `InputError` if nothing names them.
    """
    root, file, folder = (
        getattr(data, k) for k in ("root", f"{split}_annotations", f"{split}_images")
    )
    if not root and not file:
        raise InputError(
            f"config.data.root: not set; give the folder that holds annotations/, train2017/ and "
            f"val2017/, as --config.data.root=/data/coco, or config.data.{split}_annotations"
        )
    coco, usual = coco_paths(root, split)
    own = Path(root, {"train": "train", "val": "valid"}[split], "_annotations.coco.json")
    found = _named(root, file) if file else own if own.is_file() and not coco.is_file() else coco
    beside = found.parent if found != coco and not (root and usual.is_dir()) else usual
    return found, _named(root, folder) if folder else beside


def has_split(data: DataConfig, split: str) -> bool:
    """Returns whether there is anything of a split; without validation images a run can train."""
    if data.name != "coco" or getattr(data, f"{split}_annotations"):
        return True
    return bool(data.root) and any(path.exists() for path in find_files(data, split))


def _named(root: str, name: str) -> Path:
    """Returns a path as it is given, or in the root if it is only there."""
    inside = Path(root, name)
    return inside if inside.exists() and not Path(name).exists() else Path(name)
