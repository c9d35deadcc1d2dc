"""Masks of detections in the pixels of the original image."""

from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float32


def paste_masks(
    probabilities: Float32[np.ndarray, "n s s"],
    boxes: Float32[np.ndarray, "n 4"],
    size: tuple[int, int],
    kind: Literal["whole", "centres", "border"],
    threshold: float = 0.5,
) -> Bool[np.ndarray, "n h w"]:
    """Returns which pixels of an image of (height, width) belong to each detection.

    - `whole` (the 2018 toolbox): the box is cut to whole pixels, x2 and y2 inside; the mask is
      resized to it by OpenCV; above the threshold.
    - `centres` (mmdet 2 and 3, detectron2): the mask is read bilinearly, 0 outside it, at the
      centre of every pixel within one of the box; at least the threshold.
    - `border` (torchvision): mask and box grow by a border of one 0, then as `whole`.

    What lies outside the image is cut off.  Columns are contiguous, as `rle_of` likes them.

    `probabilities` are those of each detection's own class, over its box; boxes are in pixels of
    the original image.  `centres` looks no further for a threshold below 0.5.
    """
    pasted = np.zeros((len(boxes), size[1], size[0]), bool).transpose(0, 2, 1)
    if kind == "border":
        # About the centre, in torchvision's order of operations.
        side = probabilities.shape[1]
        half = (boxes[:, 2:] - boxes[:, :2]) * np.float32(0.5) * np.float32((side + 2) / side)
        centre = (boxes[:, 2:] + boxes[:, :2]) * np.float32(0.5)
        boxes = np.concatenate([centre - half, centre + half], 1)
        probabilities = np.pad(probabilities, ((0, 0), (1, 1), (1, 1)))
    for out, probability, box in zip(pasted, probabilities, boxes, strict=True):
        if kind == "centres":
            _paste_by_centres(out, probability, box, threshold)
        else:
            _paste_whole(out, probability, box, threshold)
    return pasted


def _paste_whole(out: np.ndarray, probability: np.ndarray, box: np.ndarray, limit: float) -> None:
    x1, y1, x2, y2 = (int(corner) for corner in box)  # towards 0
    tile = cv2.resize(probability, (max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1))) > limit
    tile = tile[max(-y1, 0) :, max(-x1, 0) :]
    place = out[max(y1, 0) :, max(x1, 0) :][: tile.shape[0], : tile.shape[1]]
    place[:] = tile[: place.shape[0], : place.shape[1]]


def _paste_by_centres(
    out: np.ndarray, probability: np.ndarray, box: np.ndarray, limit: float
) -> None:
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
        out[top:bottom, left:right] = tile >= limit


def _bilinear(
    pixels: np.ndarray, first: np.float32, last: np.float32, size: int
) -> Float32[np.ndarray, "p s"]:
    at = (pixels.astype(np.float32) + np.float32(0.5) - first) / (last - first) * size - 0.5
    return np.maximum(1 - abs(at[:, None] - np.arange(size, dtype=np.float32)), 0)
