"""From an image's file to what the network takes, in NumPy, OpenCV and Pillow.

Glossary: `h, w` the image's size in pixels; a scale is resized pixels per original pixel.
OpenCV or Pillow resizes as the reference did: each one's bilinear filter on uint8 is its own.
"""

import contextlib
import io
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, Int64, UInt8
from PIL import Image

from jaxdet.config import DataConfig
from jaxdet.data.headers import FORMATS, is_sideways, is_whole, stored_size, with_end
from jaxdet.errors import InputError
from jaxdet.files import open_regular
from jaxdet.ops.boxes import MMDET1, BoxConvention, clip
from jaxdet.ops.boxes import flip as mirror

# 600 MB as RGB; a file that claims more is taken for a decompression bomb.
MAX_PIXELS = 200_000_000

# Four 16-bit channels of the largest image; a larger file is not opened.
MAX_BYTES = 8 * MAX_PIXELS

# The network's deepest level sees every 32nd pixel.
STRIDE = 32

# What OpenCV prints about a broken file is said by the InputError, on one line.
_set_log_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel  # 4.x, 5.x
_set_log_level(0)


def read_image(
    path: str | Path, expected_size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an image as RGB, the way OpenCV's colour mode does.

    EXIF rotation is applied; grey is repeated, alpha dropped, 16 bits cut to the upper 8, CMYK
    converted, and the first frame of an animation taken.  Raises `InputError` if the file is
    absent, not of `FORMATS`, damaged, larger than `MAX_BYTES` or `MAX_PIXELS`, or not of the
    (height, width) that annotations claim.
    """
    with open_regular(path, MAX_BYTES) as file:
        data = file.read()
    return decode_image(data, str(path), expected_size)


def decode_image(
    data: bytes, name: str, expected_size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes what `read_image` reads, with its errors; messages call it `name`."""
    _size_within_limit(io.BytesIO(data), name)
    image = _decode(data, name)
    size = image.shape[:2]
    if expected_size is not None and size != tuple(expected_size):
        turned = size == expected_size[::-1] and is_sideways(io.BytesIO(data))
        raise InputError(
            f"{name}: image of {size[1]} x {size[0]} pixels, annotated as {expected_size[1]} x "
            f"{expected_size[0]}{'; its EXIF turns it: annotate it as turned' if turned else ''}"
        )
    return image


def read_size(path: str | Path) -> tuple[int, int]:
    """Returns (height, width) of what `read_image` gives, from the header where that is enough.

    Errors are those of `read_image`; a damaged body may be found later.
    """
    with open_regular(path, MAX_BYTES) as file:
        return size_of(file, str(path))


def size_of(file: io.BufferedIOBase, name: str) -> tuple[int, int]:
    """Returns `read_size` of an open file; messages call it `name`."""
    height, width = _size_within_limit(file, name)
    sideways = is_sideways(file)
    if sideways is None:
        file.seek(0)
        height, width, _ = _decode(file.read(), name).shape
    return (width, height) if sideways else (height, width)


def _size_within_limit(file: io.BufferedIOBase, name: str) -> tuple[int, int]:
    size = stored_size(file)
    if size is None:
        raise InputError(f"{name}: not a {FORMATS} image, or cut off within its header")
    if size[0] * size[1] > MAX_PIXELS:
        raise InputError(
            f"{name}: {size[1]} x {size[0]} pixels; images over {MAX_PIXELS} are refused"
        )
    return size


def _decode(data: bytes, name: str) -> UInt8[np.ndarray, "h w 3"]:
    image = kind = None
    data = with_end(data)
    if is_whole(data):
        with contextlib.suppress(cv2.error):
            pixels = np.frombuffer(data, np.uint8)
            image = cv2.imdecode(pixels, cv2.IMREAD_COLOR)
            kind = None if image is not None else cv2.imdecode(pixels, cv2.IMREAD_UNCHANGED)
    if kind is not None:
        raise InputError(f"{name}: samples are {kind.dtype}; save it with 8 or 16 bits, unsigned")
    if image is None:
        raise InputError(f"{name}: image cannot be decoded; it is damaged or cut off")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def is_deep(path: str | Path) -> bool:
    """Returns whether a file that can be read has samples of 16 bits."""
    stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return stored is not None and stored.dtype == np.uint16


def resized_sizes(
    sizes: Int64[np.ndarray, "n 2"], data: DataConfig
) -> tuple[Int64[np.ndarray, "n 2"], Float32[np.ndarray, "n 2"]]:
    """Returns what images are resized to, and how many pixels become one: the scale of boxes.

    The aspect ratio is kept, and `data.image_scale` bounds the long and the short side; how sides
    are rounded, and whether the scale is what was asked for or what rounding left, is the config's.
    Sizes are (height, width), given in original pixels, returned of at least 1; scales are (x, y).
    """
    resized, factor = _exact_sides(sizes, data)
    resized = np.maximum(resized.astype(np.int64), 1)
    nominal, actual = factor[:, None].repeat(2, axis=1), (resized / sizes)[:, ::-1]
    scale = actual if data.box_scale == "actual" else nominal
    return resized, scale.astype(np.float32)


def _exact_sides(sizes: np.ndarray, data: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """Returns sides before they are cut off to whole pixels, and the factor asked for."""
    long, short = max(data.image_scale), min(data.image_scale)
    if data.resize != "pillow":
        factor = np.minimum(long / sizes.max(axis=1), short / sizes.min(axis=1))
        return sizes * factor[:, None] + (0.5 if data.resize == "opencv" else 0.0), factor
    # The short side is made exact, then both are scaled down if the long one is too long.
    factor = short / sizes.min(axis=1)
    sides = np.where(sizes == sizes.min(axis=1)[:, None], short, sizes * factor[:, None])
    down = np.minimum(long / sides.max(axis=1), 1)
    return sides * down[:, None] + 0.5, factor * down


def padded_size(size: tuple[int, int], multiple: int = STRIDE) -> tuple[int, int]:
    """Rounds (h, w) up to multiples: what the network sees of an image."""
    height, width = (-(-side // multiple) * multiple for side in size)
    return height, width


def resized_size(
    size: tuple[int, int], data: DataConfig
) -> tuple[tuple[int, int], Float32[np.ndarray, "2"]]:
    """Returns `resized_sizes` of one image."""
    resized, scale = resized_sizes(np.array([size]), data)
    return (int(resized[0, 0]), int(resized[0, 1])), scale[0]


def resize(
    image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int], kind: str = "opencv"
) -> UInt8[np.ndarray, "H W 3"] | Float32[np.ndarray, "H W 3"]:
    """Resizes to (height, width), bilinearly.

    `opencv` rounds to uint8 as OpenCV does; so does `pillow`, whose filter also averages where it
    shrinks; `float` gives float32, as PyTorch's interpolation does.
    """
    height, width = size
    if kind == "pillow":
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    pixels = image.astype(np.float32) if kind == "float" else image
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)


def resize_boxes(
    boxes: Float32[np.ndarray, "n 4"],
    scale: Float32[np.ndarray, "2"],
    size: tuple[int, int],
    flip: bool = False,
    convention: BoxConvention = MMDET1,
) -> Float32[np.ndarray, "n 4"]:
    """Turns boxes of the original image into boxes of the resized one, of `size` (h, w).

    In the reference's order: multiplies by `resized_sizes`' scale, mirrors if the image is, clips.
    """
    boxes = boxes * np.tile(scale, 2)
    if flip:
        boxes = mirror(boxes, size[1], convention)
    return clip(boxes, np.array(size, np.float32), convention)
