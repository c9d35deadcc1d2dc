"""The library's door: `jaxdet.load(config, checkpoint)` gives a function of pictures."""

from pathlib import Path
from typing import NamedTuple

import jax
import ml_collections
import numpy as np

from jaxdet import config as config_lib
from jaxdet.checkpoint import read_params
from jaxdet.data import buckets, transforms
from jaxdet.devices import data_mesh
from jaxdet.errors import InputError
from jaxdet.models.build import Params, build_model, param_shapes
from jaxdet.proposer import Proposer
from jaxdet.types import Batch


class Result(NamedTuple):
    """Proposals of one picture, best first."""

    boxes: np.ndarray  # float32 [N, 4], x1 y1 x2 y2, inclusive, the picture's own pixels
    scores: np.ndarray  # float32 [N], in (0, 1), falling


class Predictor:
    """Finds proposals in single pictures on one device; compiles once per bucket."""

    def __init__(self, config: config_lib.Config, params: Params) -> None:
        """Puts the parameters on the first device."""
        self.config = config
        self._proposer = Proposer(config, params, data_mesh(jax.local_devices()[:1]))

    def __call__(self, image: np.ndarray | str | Path) -> Result:
        """Proposals of a picture.

        Args:
            image: uint8 (H, W, 3) RGB, or the path of a picture.

        Raises:
            InputError: the file cannot be read, or the array is not such a picture.
        """
        if isinstance(image, str | Path):
            image = transforms.read_image(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            what = f"{image.dtype} {image.shape}"
            raise InputError(f"image: must be uint8 (height, width, 3) RGB, not {what}")
        batch = self._batch(image)
        proposals, _ = self._proposer(batch)
        valid = proposals.valid[0]
        return Result(proposals.boxes[0][valid] / batch.scale[0], proposals.scores[0][valid])


def load(
    config: str | Path | ml_collections.ConfigDict, checkpoint: str | Path
) -> Predictor:
    """A model with its weights.

    Args:
        config: a config file, or the ConfigDict that one returns, changed or not.
        checkpoint: a work directory, one of its checkpoints, a PyTorch file of the zoo, or a
            name such as `zoo://rpn_r50_fpn_1x`.

    Raises:
        InputError: a file is missing, or the checkpoint is of another architecture.
    """
    if isinstance(config, str | Path):
        config = config_lib.load_file(config)
    parsed = config_lib.parse(config)
    shapes = param_shapes(build_model(parsed.model))
    return Predictor(parsed, read_params(checkpoint, shapes))
