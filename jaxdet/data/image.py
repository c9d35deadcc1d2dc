"""From an image's file to what the network takes, in NumPy and OpenCV.

Glossary: `h, w` the image's size in pixels; `f` the scale, resized pixels per original pixel.
Boxes are inclusive corners x1, y1, x2, y2.  OpenCV does the reading and resizing because the
reference did, and its bilinear filter on uint8 is its own.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, Int64, UInt8

from jaxdet.data.headers import FORMATS, is_sideways, is_whole, stored_size
from jaxdet.errors import InputError
from jaxdet.files import open_regular
from jaxdet.ops.boxes import clip
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


class MissingImageError(InputError):
    """The file is not there."""


class OtherSizeError(InputError):
    """The image is not of the size that was annotated."""


def read_image(
    path: str | Path, expected_size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an image as RGB, the way OpenCV's colour mode does.

    EXIF rotation is applied; grey is repeated, alpha dropped, 16 bits cut to the upper 8, CMYK
    converted, and the first frame of an animation taken.

    Args:
        path: a JPEG, PNG, WebP, BMP, GIF or TIFF file.
        expected_size: (height, width) that the annotations claim.

    Raises:
        InputError: the file is absent, of another format, damaged, larger than `MAX_BYTES` or
            `MAX_PIXELS`, or not of the expected size.
    """
    with _opened(path) as file:
        data = file.read()
    return decode_image(data, str(path), expected_size)


def decode_image(
    data: bytes, name: str, expected_size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes what `read_image` reads; messages call it `name`.

    Raises:
        InputError: as `read_image`.
    """
    _size_within_limit(io.BytesIO(data), name)
    image = _decode(data, name)
    size = image.shape[:2]
    if expected_size is not None and size != tuple(expected_size):
        raise OtherSizeError(
            f"{name}: image of {size[1]} x {size[0]} pixels, "
            f"annotated as {expected_size[1]} x {expected_size[0]}"
        )
    return image


def read_size(path: str | Path) -> tuple[int, int]:
    """Returns (height, width) of what `read_image` gives, from the header where that is enough.

    Raises:
        InputError: as `read_image`; a damaged body may be found later.
    """
    with _opened(path) as file:
        return size_of(file, str(path))


def size_of(file: io.BufferedIOBase, name: str) -> tuple[int, int]:
    """Returns `read_size` of an open file; messages call it `name`.

    Raises:
        InputError: no image of a known format, or one of more than `MAX_PIXELS`.
    """
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


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[io.BufferedIOBase]:
    try:
        with open_regular(path, MAX_BYTES) as file:
            yield file
    except FileNotFoundError:
        raise MissingImageError(f"{path}: no such image") from None
    except OSError as error:
        raise InputError(f"{path}: image cannot be read ({error.strerror or error})") from None


def _decode(data: bytes, name: str) -> UInt8[np.ndarray, "h w 3"]:
    image = None
    if is_whole(data):
        with contextlib.suppress(cv2.error):
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"{name}: image cannot be decoded; it is damaged or cut off")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def rescale_size(
    size: tuple[int, int], image_scale: tuple[int, ...]
) -> tuple[tuple[int, int], float]:
    """Returns the largest size within the scale that keeps the aspect ratio.

    Args:
        size: (h, w).
        image_scale: upper bounds of the long and the short side, in either order.

    Returns:
        The new (h, w), at least 1 pixel each, and f = min(long / max(h, w), short / min(h, w)).
    """
    f = min(max(image_scale) / max(size), min(image_scale) / min(size))
    height, width = (max(1, int(side * f + 0.5)) for side in size)
    return (height, width), f


def rescale_sizes(
    sizes: Int64[np.ndarray, "n 2"], image_scale: tuple[int, ...]
) -> Int64[np.ndarray, "n 2"]:
    """Returns the new sizes of `rescale_size`, of many images at once."""
    f = np.minimum(max(image_scale) / sizes.max(axis=1), min(image_scale) / sizes.min(axis=1))
    return np.maximum(1, (sizes * f[:, None] + 0.5).astype(np.int64))


def padded_size(size: tuple[int, int]) -> tuple[int, int]:
    """Rounds (h, w) up to multiples of 32: what the network sees of an image."""
    height, width = (-(-side // STRIDE) * STRIDE for side in size)
    return height, width


def resize(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """Resizes to (height, width), bilinearly and rounded to uint8 as OpenCV does."""
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def resize_boxes(
    boxes: Float32[np.ndarray, "n 4"], f: float, size: tuple[int, int], flip: bool = False
) -> Float32[np.ndarray, "n 4"]:
    """Turns boxes of the original image into boxes of the resized one.

    In the reference's order: multiplies by f itself (not by the ratio of the rounded sizes),
    mirrors, clips to [0, w - 1] x [0, h - 1].

    Args:
        boxes: in original pixels.
        f: of `rescale_size`.
        size: (h, w) of the resized image.
        flip: mirror them, as the resized image is.
    """
    boxes = boxes * np.float32(f)
    if flip:
        boxes = mirror(boxes, size[1])
    return clip(boxes, np.array(size, np.float32))


def pad_to(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """Pads with zeros to the right and below, up to (height, width)."""
    padded = np.zeros((*size, 3), np.uint8)
    padded[: image.shape[0], : image.shape[1]] = image
    return padded
