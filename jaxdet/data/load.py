"""From `config.data` to a data set."""

import dataclasses

from jaxdet.config import Config
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
    elif data.root or data.name == "shapes":
        paths = coco_paths(data.root or make_shapes(), split)
        dataset = load_coco(*paths, findings, names, masks)
    else:
        raise InputError(
            "config.data.root: not set; give the folder that holds annotations/, train2017/ and "
            "val2017/, as --config.data.root=/data/coco"
        )
    return dataclasses.replace(dataset, convention=CONVENTIONS[config.model.convention])
