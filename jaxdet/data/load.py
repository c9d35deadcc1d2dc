"""From `config.data` to a data set."""

import dataclasses

from jaxdet.config import Config, DataConfig
from jaxdet.data.coco import coco_directory
from jaxdet.data.dataset import Dataset
from jaxdet.data.findings import Report
from jaxdet.data.shapes import make_shapes
from jaxdet.errors import InputError
from jaxdet.ops.boxes import CONVENTIONS


def load_dataset(config: Config, split: str, report: Report | None = None) -> Dataset:
    """Returns the `train` or `val` images of a config, with boxes of its convention.

    Args:
        config: Which data set, and where.
        split: `train` or `val`.
        report: Is called with what is wrong with single items, which are then left out; by
            default the first such thing is an error.

    Raises:
        InputError: files are missing or not what they should be.
    """
    dataset = _load(config.data, split, report)
    return dataclasses.replace(dataset, convention=CONVENTIONS[config.model.convention])


def _load(config: DataConfig, split: str, report: Report | None) -> Dataset:
    if config.name == "shapes":
        return coco_directory(config.root or make_shapes(), split, report)
    if config.name == "tfds":
        from jaxdet.data.tfds import load_tfds

        return load_tfds(split, config.root or None)
    if not config.root:
        raise InputError(
            "config.data.root: not set; give the folder that holds annotations/, train2017/ and "
            "val2017/, as --config.data.root=/data/coco"
        )
    return coco_directory(config.root, split, report)
