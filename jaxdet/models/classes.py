"""Classes as labels, and as the outputs of a network.

Labels are 0-based and contiguous.  Two-stage heads have the background as output 0, so a label is
the output after its own number; torchvision's heads have an output for every category id of
COCO, used or not.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Int32

from jaxdet.config import ModelConfig

# Category ids of COCO that stand for no class.
_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
COCO_IDS = np.array([i for i in range(1, 91) if i not in _UNUSED], np.int32)  # of each label


def outputs_of(labels: Int[Array, "*n"], model: ModelConfig) -> Int32[Array, "*n"]:
    """Returns the outputs of labels, where output 0 is the background."""
    if model.class_outputs == "coco_ids":
        return jnp.asarray(COCO_IDS)[labels]
    return labels + 1


def labels_of(outputs: Int[Array, "*n"], model: ModelConfig) -> Int32[Array, "*n"]:
    """Returns the labels of outputs from 1 on; of an unused one, that of the next class."""
    if model.class_outputs == "coco_ids":
        return jnp.searchsorted(jnp.asarray(COCO_IDS), outputs).astype(jnp.int32)
    return outputs - 1
