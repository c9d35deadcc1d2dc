"""An image to the network's input, and predictions back to the image's own pixels.

What the live model (`jaxdet.load`) and the exported one (`jaxdet.load_exported`) share.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

from jaxdet.config import Config, DataConfig
from jaxdet.data.buckets import Size, bucket_of, empty_batch, put_image
from jaxdet.data.image import read_image, resized_size
from jaxdet.data.masks import rle_of
from jaxdet.errors import InputError
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
    if not (is_array and image.dtype == np.uint8 and image.shape[2:] == (3,) and image.size):
        what = f"{image.dtype} {image.shape}" if is_array else type(image).__name__
        raise InputError(f"image: must be a path or uint8 (height, width, 3) RGB, not {what}")
    return image


def paste_masks(
    probabilities: Float32[np.ndarray, "n s s"],
    boxes: Float32[np.ndarray, "n 4"],
    size: tuple[int, int],
    kind: Literal["whole", "centres", "border"],
) -> Bool[np.ndarray, "n h w"]:
    """Returns which pixels of an image of (height, width) belong to each detection.

    - `whole` (the 2018 toolbox): the box is cut to whole pixels, x2 and y2 inside; the mask is
      resized to it by OpenCV; above one half.
    - `centres` (mmdet 2 and 3, detectron2): the mask is read bilinearly, 0 outside it, at the
      centre of every pixel within one of the box; at least one half.
    - `border` (torchvision): mask and box grow by a border of one 0, then as `whole`.

    What lies outside the image is cut off.  Columns are contiguous, as `rle_of` likes them.

    `probabilities` are those of each detection's own class, over its box; boxes are in pixels of
    the original image.
    """
    pasted = np.zeros((len(boxes), size[1], size[0]), bool).transpose(0, 2, 1)
    if kind == "border":
        # About the centre, in torchvision's order of operations.
        side = probabilities.shape[1]
        half = (boxes[:, 2:] - boxes[:, :2]) * np.float32(0.5) * np.float32((side + 2) / side)
        centre = (boxes[:, 2:] + boxes[:, :2]) * np.float32(0.5)
        boxes = np.concatenate([centre - half, centre + half], 1)
        probabilities = np.pad(probabilities, ((0, 0), (1, 1), (1, 1)))
    paste = _paste_by_centres if kind == "centres" else _paste_whole
    for out, probability, box in zip(pasted, probabilities, boxes, strict=True):
        paste(out, probability, box)
    return pasted


def _paste_whole(out: np.ndarray, probability: np.ndarray, box: np.ndarray) -> None:
    x1, y1, x2, y2 = (int(corner) for corner in box)  # towards 0
    tile = cv2.resize(probability, (max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1))) > 0.5
    tile = tile[max(-y1, 0) :, max(-x1, 0) :]
    place = out[max(y1, 0) :, max(x1, 0) :][: tile.shape[0], : tile.shape[1]]
    place[:] = tile[: place.shape[0], : place.shape[1]]


def _paste_by_centres(out: np.ndarray, probability: np.ndarray, box: np.ndarray) -> None:
    x1, y1, x2, y2 = box
    left, right = max(int(np.floor(x1)) - 1, 0), min(int(np.ceil(x2)) + 1, out.shape[1])
    top, bottom = max(int(np.floor(y1)) - 1, 0), min(int(np.ceil(y2)) + 1, out.shape[0])
    if x1 < x2 and y1 < y2 and left < right and top < bottom:
        rows = _bilinear(np.arange(top, bottom), y1, y2, len(probability))
        columns = _bilinear(np.arange(left, right), x1, x2, len(probability))
        # Not `@`: NumPy's BLAS starts threads, which on busy cores wait a second for each other.
        none = np.empty(0, np.float32)
        tile = cv2.gemm(rows, probability, 1, none, 0)
        tile = cv2.gemm(tile, columns, 1, none, 0, flags=cv2.GEMM_2_T)
        out[top:bottom, left:right] = tile >= 0.5


def _bilinear(
    pixels: np.ndarray, first: np.float32, last: np.float32, size: int
) -> Float32[np.ndarray, "p s"]:
    at = (pixels.astype(np.float32) + np.float32(0.5) - first) / (last - first) * size - 0.5
    return np.maximum(1 - abs(at[:, None] - np.arange(size, dtype=np.float32)), 0)
