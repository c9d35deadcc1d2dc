"""From `config.data` to a data set."""

import dataclasses

from jaxdet.config import Config, DataConfig
from jaxdet.data.coco import coco_directory
from jaxdet.data.dataset import Dataset
from jaxdet.data.findings import Findings
from jaxdet.data.shapes import make_shapes
from jaxdet.data.tfds import load_tfds
from jaxdet.errors import InputError
from jaxdet.ops.boxes import CONVENTIONS


def load_dataset(config: Config, split: str, findings: Findings | None = None) -> Dataset:
    """Returns the `train` or `val` images of a config, with boxes of its convention.

    `findings` as for `load_coco`.

    Raises:
        InputError: files are missing or not what they should be.
    """
    dataset = _load(config.data, split, findings)
    return dataclasses.replace(dataset, convention=CONVENTIONS[config.model.convention])


def _load(config: DataConfig, split: str, findings: Findings | None) -> Dataset:
    if config.name == "shapes":
        return coco_directory(config.root or make_shapes(), split, findings)
    if config.name == "tfds":
        return load_tfds(split, config.root or None)
    if not config.root:
        raise InputError(
            "config.data.root: not set; give the folder that holds annotations/, train2017/ and "
            "val2017/, as --config.data.root=/data/coco"
        )
    return coco_directory(config.root, split, findings)
