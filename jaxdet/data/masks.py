"""Masks of objects: from an annotation's `segmentation` to bitmaps of the resized image.

A bitmap is uint8, 1 in the object and 0 elsewhere; `h, w` the image's size in original pixels,
`H, W` in resized ones.
"""

from typing import Annotated, Any, NamedTuple

import cv2
import msgspec
import numpy as np
from jaxtyping import Bool, Int64, UInt8
from pycocotools import mask as coco_mask

from jaxdet.data.image import MAX_PIXELS

# A larger one is a typing error; the COCO API counts fifths of a pixel in 32 bits.
_Coordinate = Annotated[float, msgspec.Meta(ge=-1e6, le=1e6)]
_Polygon = Annotated[list[_Coordinate], msgspec.Meta(min_length=6)]
_Polygons = Annotated[list[_Polygon], msgspec.Meta(min_length=1)]

# Of an outline, in sides of its image: the COCO API makes a list of all of its points.
MAX_LENGTH = 1000


class _RunLengths(msgspec.Struct):
    """COCO's RLE: lengths of runs of 0, 1, 0, ... down the columns, or those as text."""

    size: tuple[int, int]  # (height, width)
    counts: str | list[Annotated[int, msgspec.Meta(ge=0)]]


class Segmentations(NamedTuple):
    """The `segmentation` of many annotations: JSON, decoded one by one."""

    text: bytes  # of all, joined
    offsets: Int64[np.ndarray, " K_plus_1"]  # that of i: offsets[i] to offsets[i + 1]

    @classmethod
    def joined(cls, texts: list[Any]) -> "Segmentations":
        """Returns those of annotations in the same order."""
        return cls(b"".join(texts), np.cumsum([0, *(len(memoryview(text)) for text in texts)]))

    def keeping(self, kept: Bool[np.ndarray, " K"]) -> "Segmentations":
        """Returns some of them."""
        ends = zip(self.offsets[:-1][kept], self.offsets[1:][kept], strict=True)
        return self.joined([self.text[start:end] for start, end in ends])

    def bitmap(self, place: int, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
        """Returns one's bitmap; see `bitmap_of`."""
        return bitmap_of(self.text[slice(*self.offsets[place : place + 2])], size)


def bitmap_of(text: bytes, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Returns the bitmap of a segmentation, as the COCO API draws it in an image of `size` (h, w).

    The text is JSON: polygons ([[x, y, x, y, ...], ...], in pixels) or RLE.  Raises a `ValueError`,
    of one line, if it is neither or does not fit the image.
    """
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"images over {MAX_PIXELS} pixels are refused")
    shape = msgspec.json.decode(text, type=_Polygons | _RunLengths)  # its errors are ValueErrors
    if isinstance(shape, list):
        for polygon in shape:
            _check_polygon(polygon, size)
        counts = coco_mask.merge(coco_mask.frPyObjects(shape, *size))["counts"].decode()
    elif shape.size != size:
        raise ValueError(f"RLE of {shape.size[1]} x {shape.size[0]} pixels")
    else:
        counts = shape.counts
    # Not by the COCO API's own function, which leaves pixels unset where runs are missing.
    counts = _counts_of(counts) if isinstance(counts, str) else counts
    if min(counts, default=0) < 0 or sum(counts) != size[0] * size[1]:
        raise ValueError(f"RLE of {sum(counts)} pixels")
    runs = np.arange(len(counts)) % 2
    return np.repeat(runs.astype(np.uint8), counts).reshape(size[::-1]).T


def _check_polygon(polygon: list[float], size: tuple[int, int]) -> None:
    if len(polygon) % 2:
        raise ValueError(f"polygon of {len(polygon)} numbers, which are no pairs")
    points = np.array(polygon).reshape(-1, 2)
    length = abs(np.diff(points, axis=0, append=points[:1])).max(axis=1).sum()
    if length > MAX_LENGTH * sum(size):
        raise ValueError(f"polygon whose outline is {length:.0f} pixels long")


def _counts_of(text: str) -> list[int]:
    """Returns the run lengths that COCO's text holds.

    A number is characters of five bits each, from chr(48) on, the lowest first, with a sixth bit
    where more follow, and the last one's highest bit as the sign; from the fourth number on it is
    the difference to the one before last.
    """
    counts, number, shift = list[int](), 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise ValueError("RLE whose text is none")
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            number -= (bits & 16) << (shift - 4)
            counts.append(number + (counts[-2] if len(counts) > 2 else 0))
            number = shift = 0
    return counts


def resize_bitmap(
    bitmap: UInt8[np.ndarray, "h w"], size: tuple[int, int], kind: str = "opencv"
) -> UInt8[np.ndarray, "H W"]:
    """Resizes to (H, W) by the nearest pixel, as the system did that resized the image so.

    `float` is PyTorch's rule, whose ratio of sides is float32; any other `kind` OpenCV's.
    """
    if kind != "float":
        return cv2.resize(bitmap, size[::-1], interpolation=cv2.INTER_NEAREST)
    rows, columns = map(_nearest, bitmap.shape, size)
    return bitmap[:, columns][rows]  # five times as fast as in one step


def rle_of(bitmap: np.ndarray) -> dict[str, Any]:
    """Returns a bitmap as COCO's run lengths: `size` [height, width] and `counts`, text."""
    run = coco_mask.encode(np.asfortranarray(bitmap, np.uint8))
    return {"size": run["size"], "counts": run["counts"].decode("ascii")}


def pack(bitmap: UInt8[np.ndarray, "H W"], flip: bool) -> UInt8[np.ndarray, "H bytes"]:
    """Returns a bitmap, mirrored perhaps, as eight pixels of a row a byte (`Batch.masks`)."""
    # A view that runs backward would be packed twenty times as slowly.
    return np.packbits(np.asarray(cv2.flip(bitmap, 1), np.uint8) if flip else bitmap, axis=1)


def _nearest(old: int, new: int) -> Int64[np.ndarray, " new"]:
    ratio = np.float32(old) / np.float32(new)
    return np.minimum((np.arange(new, dtype=np.float32) * ratio).astype(np.int64), old - 1)
