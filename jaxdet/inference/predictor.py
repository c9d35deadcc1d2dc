"""The library's door: `jaxdet.load(config, checkpoint)` gives a function of images."""

from pathlib import Path

import jax
import ml_collections
import numpy as np

from jaxdet import config as config_lib
from jaxdet.checkpoint import read_params
from jaxdet.data.buckets import bucket_sizes
from jaxdet.detectors.network import Params, build_model, param_shapes
from jaxdet.devices import data_mesh
from jaxdet.inference.proposer import Proposer
from jaxdet.inference.single import Result, batch_of_one, result_of


class Predictor:
    """Finds proposals in single images on one device; compiles once per bucket."""

    def __init__(self, config: config_lib.Config, params: Params) -> None:
        """Puts the parameters on the first device."""
        self.config = config
        self._buckets = bucket_sizes(config.data.image_scale)
        self._proposer = Proposer(config, params, data_mesh(jax.local_devices()[:1]))

    def __call__(self, image: np.ndarray | str | Path) -> Result:
        """Proposals of an image.

        Args:
            image: uint8 (H, W, 3) RGB, or the path of an image.

        Raises:
            InputError: the file cannot be read, or the array is not such an image.
        """
        batch = batch_of_one(image, self.config.data.image_scale, self._buckets)
        proposals = self._proposer(batch)
        return result_of(proposals, batch)


def load(config: str | Path | ml_collections.ConfigDict, checkpoint: str | Path) -> Predictor:
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
