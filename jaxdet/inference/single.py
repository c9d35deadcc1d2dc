"""An image to the network's input, and predictions back to the image's own pixels.

What the live model (`jaxdet.load`) and the exported one (`jaxdet.load_exported`) share.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

from jaxdet.config import Config, DataConfig
from jaxdet.data.buckets import Size, bucket_of, empty_batch, put_image
from jaxdet.data.image import read_image, resized_size
from jaxdet.data.masks import rle_of
from jaxdet.errors import InputError
from jaxdet.inference.paste import paste_masks
from jaxdet.ops.boxes import CONVENTIONS, clip
from jaxdet.types import Batch, Predictions


class Result(NamedTuple):
    """Predictions of one image, best first; labels only of a detector that has classes."""

    boxes: Float32[np.ndarray, "N 4"]  # x1 y1 x2 y2 in the image's own pixels
    scores: Float32[np.ndarray, " N"]  # in (0, 1), falling
    labels: Int32[np.ndarray, " N"] | None = None  # 0-based
    class_names: tuple[str, ...] | None = None  # of each label
    # of the image's size, or COCO's RLE of each one (Mask R-CNN)
    masks: Bool[np.ndarray, "N H W"] | list[dict[str, Any]] | None = None


def detect(
    image: Any,
    config: Config,
    buckets: Sequence[Size],
    predict: Callable[[Batch], Predictions],
    rle: bool,
) -> Any:
    """Returns the result of an image, of the file of one, or a list of them for a list.

    `predict` gives NumPy arrays; the others as `batch_of_one` and `result_of`.  Raises `InputError`
    as `pixels_of`, or if the detector needs proposals beside the image.
    """
    if config.model.takes_proposals:
        raise InputError(f"{config.model.detector}: works on a file of proposals, by --mode=eval")
    if isinstance(image, list | tuple):
        return [detect(one, config, buckets, predict, rle) for one in image]
    image = pixels_of(image)
    batch = batch_of_one(image, config.data, buckets)
    return result_of(predict(batch), batch, config, image.shape[:2], rle=rle)


def batch_of_one(
    image: UInt8[np.ndarray, "h w 3"], data: DataConfig, buckets: Sequence[Size]
) -> Batch:
    """Returns an image, resized and put into its bucket (the smallest first), without boxes."""
    size, _ = resized_size(image.shape[:2], data)
    batch = empty_batch(bucket_of(size, buckets), 1, data.pixel_dtype)
    put_image(batch, 0, image, data)
    return batch


def result_of(
    predictions: Predictions,
    batch: Batch,
    config: Config,
    size: tuple[int, int],
    row: int = 0,
    rle: bool = False,
) -> Result:
    """Returns the valid predictions of a row of a batch, in pixels of the original image.

    Predictions are NumPy arrays; of the batch that they were made from only `scale` and
    `image_size` are read; `size` is (height, width) of the original image.  With `rle`, masks are
    COCO's RLE, which takes a hundredth of the memory.
    """
    kept = np.flatnonzero(predictions.valid[row])
    boxes = predictions.boxes[row][kept]
    if config.data.resize == "opencv":  # mmdet divides, the others multiply
        boxes = boxes / np.tile(batch.scale[row], 2)
    else:
        ratio = np.array(size, np.float32) / batch.image_size[row].astype(np.float32)
        boxes = boxes * np.tile(ratio[::-1], 2)
    if config.detections.drop_empty:
        boxes = clip(boxes, np.array(size), CONVENTIONS[config.model.convention])
        wide = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        kept, boxes = kept[wide], boxes[wide]
    names, scores = config.model.class_names, predictions.scores[row][kept]
    if not names:
        return Result(boxes, scores)
    labels, masks = predictions.labels[row][kept], None
    if predictions.masks is not None:
        paste = config.detections.mask_paste
        pasted = paste_masks(predictions.masks[row][kept], boxes, size, paste)
        masks = [rle_of(mask) for mask in pasted] if rle else pasted
    return Result(boxes, scores, labels, tuple(names[label] for label in labels), masks)


def pixels_of(image: Any) -> UInt8[np.ndarray, "h w 3"]:
    """Returns an image or what its file holds; raises `InputError` if it is neither."""
    if isinstance(image, str | Path):
        image = read_image(image)
    is_array = isinstance(image, np.ndarray)
    if not (is_array and image.dtype == np.uint8 and image.ndim == 3) or (
        image.shape[2] != 3 or not image.size
    ):
        what = f"{image.dtype} {image.shape}" if is_array else type(image).__name__
        raise InputError(f"image: must be a path or uint8 (height, width, 3) RGB, not {what}")
    return image
