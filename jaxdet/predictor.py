"""The library's door: `jaxdet.load(config, checkpoint)` gives a function of pictures."""

from pathlib import Path
from typing import NamedTuple

import jax
import ml_collections
import numpy as np

from jaxdet import config as config_lib
from jaxdet.checkpoint import read_params
from jaxdet.data.buckets import bucket_of, bucket_sizes
from jaxdet.data.transforms import padded_size, read_image, rescale_size, resize
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
            image = read_image(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            what = f"{image.dtype} {image.shape}"
            raise InputError(f"image: must be uint8 (height, width, 3) RGB, not {what}")
        batch = _batch_of_one(image, self.config.data.image_scale)
        proposals, _ = self._proposer(batch)
        valid = proposals.valid[0]
        return Result(proposals.boxes[0][valid] / batch.scale[0], proposals.scores[0][valid])


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


def _batch_of_one(image: np.ndarray, image_scale: tuple[int, ...]) -> Batch:
    """A batch of a single picture without boxes."""
    size, scale = rescale_size(image.shape[:2], image_scale)
    bucket = bucket_of(size, bucket_sizes(image_scale))
    canvas = np.zeros((1, *bucket, 3), np.uint8)
    canvas[0, : size[0], : size[1]] = resize(image, size)
    return Batch(
        image=canvas,
        image_size=np.array([size], np.int32),
        pad_size=np.array([padded_size(size)], np.int32),
        scale=np.array([scale], np.float32),
        boxes=np.zeros((1, 1, 4), np.float32),
        box_mask=np.zeros((1, 1), bool),
        seed=np.zeros(1, np.uint32),
        index=np.zeros(1, np.int32),
    )
