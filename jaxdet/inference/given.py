"""Data sets with the proposals that Fast R-CNN works on, from files."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from jaxdet.config import Config
from jaxdet.data.dataset import Dataset
from jaxdet.data.load import load_dataset
from jaxdet.errors import InputError
from jaxdet.inference import proposal_files


def load_splits(config: Config, splits: Sequence[str], files: Sequence[str]) -> list[Dataset]:
    """Returns `load_dataset`'s images, with the first `rois.max_given` proposals of a split's file.

    `proposal_files` says which files are read; most detectors take none.  Raises `InputError` where
    files are missing or of no use, cannot be read or are of other images.
    """
    name, where = config.model.detector, "--mode=eval --save_proposals --split="
    if files and not config.model.takes_proposals:
        raise InputError(f"--proposals: {name} makes its own; leave the flag out")
    if config.model.takes_proposals and len(files) != len(splits):
        raise InputError(
            f"--proposals: {name} needs a file of the {' and of the '.join(splits)} images, as "
            f"{','.join(splits)}; an RPN writes them with {where}{splits[0]}"
        )
    datasets = [load_dataset(config, split) for split in splits]
    for i, path in enumerate(files):
        given = proposal_files.read(Path(path), datasets[i], config.rois.max_given)
        datasets[i] = dataclasses.replace(datasets[i], given=given)
    return datasets
