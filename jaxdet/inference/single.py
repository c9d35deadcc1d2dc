"""An image to the network's input, and predictions back to the image's own pixels.

What the live model (`jaxdet.load`) and the exported one (`jaxdet.load_exported`) share.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

from jaxdet.config import Config
from jaxdet.data.buckets import Size, batch_of_one
from jaxdet.data.image import read_image
from jaxdet.data.masks import rle_of
from jaxdet.errors import InputError
from jaxdet.ops.boxes import CONVENTIONS, clip
from jaxdet.types import Batch, Predictions

ARRAYS = np.ndarray | jax.Array
# Of one image.
Image = str | Path | np.ndarray | jax.Array


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
    """Returns the result of an image, of the file of one, or a list of them for several.

    `predict` gives NumPy arrays; the others as `batch_of_one` and `result_of`.  Raises `InputError`
    as `pixels_of`, or if the detector needs proposals beside the image.
    """
    if config.model.takes_proposals:
        raise InputError(f"{config.model.detector}: works on a file of proposals, by --mode=eval")
    if isinstance(image, list | tuple) or (isinstance(image, ARRAYS) and image.ndim == 4):
        return [detect(one, config, buckets, predict, rle) for one in image]
    image = pixels_of(image)
    batch = batch_of_one(image, config.data, buckets)
    return result_of(predict(batch), batch, config, image.shape[:2], rle=rle)


def result_of(
    predictions: Predictions,
    batch: Batch,
    config: Config,
    size: tuple[int, int],
    row: int = 0,
    rle: bool = False,
    top: int | None = None,
    threshold: float = 0.0,
) -> Result:
    """Returns the valid predictions of a row of a batch, in pixels of the original image.

    Predictions are NumPy arrays; of the batch that they were made from only `scale` and
    `image_size` are read; `size` is (height, width) of the original image.  With `rle`, masks are
    COCO's RLE, which takes a hundredth of the memory.  At most `top` are kept, of at least
    `threshold`.
    """
    kept = np.flatnonzero(predictions.valid[row] & (predictions.scores[row] >= threshold))
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
    kept, boxes = kept[:top], boxes[:top]
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
    """Returns an image or what its file holds, as uint8 RGB.

    - a file: as `data.image.read_image`
    - an array of NumPy or JAX, (height, width, 3) RGB, or grey as (height, width) or (.., 1)
    - of uint8: as it is
    - of floats from 0 to 1: times 255, to the nearest whole number
    - of floats that are whole numbers from 0 to 255, some above 1: as they are

    Raises `InputError` if it is none of these, as floats between whole numbers above 1, or of 0 and
    1 alone, which may mean either.
    """
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, jax.core.Tracer):
        raise InputError("image: is traced by jit, grad or vmap; trace the predictor's `apply`")
    if not isinstance(image, ARRAYS):
        what = type(image).__name__
    else:
        pixels = np.asarray(image)
        if pixels.ndim == 2:
            pixels = pixels[..., None]
        if pixels.size and pixels.ndim == 3 and pixels.shape[2] in (1, 3):
            if jnp.issubdtype(pixels.dtype, jnp.floating):
                pixels = _whole_pixels(pixels.astype(np.float32))
            if pixels.dtype == np.uint8:
                return np.broadcast_to(pixels, (*pixels.shape[:2], 3))
        what = f"{image.dtype} {image.shape}"
    raise InputError(
        "image: must be a path, or uint8 (height, width, 3) RGB, grey (height, width), or floats "
        f"from 0 to 1, not {what}"
    )


def _whole_pixels(image: Float32[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
    """Returns floats as uint8; see `pixels_of`."""
    low, high = image.min(), image.max()
    whole = np.rint(image)
    exact = bool((whole == image).all())
    if low >= 0 and high <= 1 and (not exact or high == 0):
        return np.rint(image * 255).astype(np.uint8)
    if low >= 0 and 1 < high <= 255 and exact:
        return whole.astype(np.uint8)
    raise InputError(
        f"image: floats from {low:g} to {high:g}{' alone' if exact and high == 1 else ''}; give "
        "uint8, or floats from 0 to 1, or whole numbers from 0 to 255, so that it is clear which"
    )


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
