"""An image to the network's input, and predictions back to the image's own pixels.

What the live model (`jaxdet.load`) and the exported one (`jaxdet.load_exported`) share.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from jaxdet.config import DataConfig
from jaxdet.data.buckets import Size, bucket_of
from jaxdet.data.image import fit, read_image
from jaxdet.errors import InputError
from jaxdet.types import Batch, Predictions


class Result(NamedTuple):
    """Predictions of one image, best first."""

    boxes: Float32[np.ndarray, "N 4"]  # x1 y1 x2 y2 in the image's own pixels
    scores: Float32[np.ndarray, " N"]  # in (0, 1), falling


def batch_of_one(image: Any, data: DataConfig, buckets: Sequence[Size]) -> Batch:
    """Returns an image, resized and put into its bucket, without boxes.

    Args:
        image: uint8 (H, W, 3) RGB, or the path of an image.
        data: how images are resized and padded.
        buckets: of its scale, the smallest first.

    Raises:
        InputError: the file cannot be read, or the array is not such an image.
    """
    if isinstance(image, str | Path):
        image = read_image(image)
    is_array = isinstance(image, np.ndarray)
    if not (is_array and image.dtype == np.uint8 and image.ndim == 3) or (
        image.shape[2] != 3 or not image.size
    ):
        what = f"{image.dtype} {image.shape}" if is_array else type(image).__name__
        raise InputError(f"image: must be a path or uint8 (height, width, 3) RGB, not {what}")
    resized, pad_size, scale = fit(image, data)
    height, width = resized.shape[:2]
    canvas = np.zeros((1, *bucket_of((height, width), buckets), 3), data.pixel_dtype)
    canvas[0, :height, :width] = resized
    return Batch(
        image=canvas,
        image_size=np.array([(height, width)], np.int32),
        pad_size=np.array([pad_size], np.int32),
        scale=scale[None],
        boxes=np.zeros((1, 1, 4), np.float32),
        box_mask=np.zeros((1, 1), bool),
        seed=np.zeros(1, np.uint32),
        index=np.zeros(1, np.int32),
    )


def result_of(predictions: Predictions, batch: Batch, row: int = 0) -> Result:
    """Returns the valid predictions of a row of a batch, in pixels of the original image."""
    valid = predictions.valid[row]
    boxes = predictions.boxes[row][valid] / np.tile(batch.scale[row], 2)
    return Result(boxes, predictions.scores[row][valid])
