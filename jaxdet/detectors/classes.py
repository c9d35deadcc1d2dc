"""Which of a network's outputs stands for which class.

All raise `InputError` if there are no classes, or `coco_ids` and not COCO's.
"""

import numpy as np

from jaxdet.config import ModelConfig
from jaxdet.configs.base import COCO_IDS
from jaxdet.errors import InputError


def outputs_of(model: ModelConfig) -> np.ndarray:
    """Returns each label's output, int64 [classes], of outputs without a background in front.

    With `coco_ids` an output is a category id, and output 0 the background all the same.
    """
    count = len(model.class_names)
    if not count:
        raise InputError("config.model.class_names: is empty; name the classes to detect")
    if model.class_outputs == "labels":
        return np.arange(count)
    if count != len(COCO_IDS):
        raise InputError(
            f"config.model.class_names: coco_ids has {len(COCO_IDS)} classes, not {count}; set "
            "config.model.class_outputs to 'labels'"
        )
    return np.array(COCO_IDS)


def head_outputs(model: ModelConfig) -> np.ndarray:
    """Returns each label's output, int64 [classes], of heads whose output 0 is the background."""
    return outputs_of(model) + (model.class_outputs == "labels")


def labels_of(model: ModelConfig) -> np.ndarray:
    """Returns each output's label, int64 [outputs]; -1 where it stands for none."""
    outputs = outputs_of(model)
    labels = np.full(outputs.max() + 1, -1)
    labels[outputs] = np.arange(len(outputs))
    return labels
