"""The few image shapes that programs are compiled for.

A resized image touches one of two borders: its short side is the scale's short side, or its
long side is the scale's long side.  A bucket is a point of that border, rounded up to multiples
of 32: the common aspect ratios 4:3 and 3:2, the widest image that still has the full short
side, a square, and a panorama of half the height.  The portrait buckets are the same, turned.

At COCO's (1333, 800) the buckets are 800 x 800, 800 x 1088, 800 x 1216, 800 x 1344 and
672 x 1344.  Over `COMMON_SIZES` they hold 0.3 % more pixels than images padded to their own
multiple of 32 do.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from jaxdet.data.image import padded_size, rescale_size

Size = tuple[int, int]  # (height, width)

# COCO's most frequent image sizes, as (height, width).
COMMON_SIZES: tuple[Size, ...] = (
    (480, 640),
    (427, 640),
    (426, 640),
    (425, 640),
    (428, 640),
    (424, 640),
    (360, 640),
    (375, 500),
    (333, 500),
    (334, 500),
    (640, 640),
    (612, 612),
    (640, 480),
    (640, 427),
    (640, 426),
    (640, 425),
    (500, 375),
    (500, 333),
)


def bucket_sizes(image_scale: Sequence[int]) -> tuple[Size, ...]:
    """Returns all buckets of a scale, the smallest first.

    Args:
        image_scale: Bounds of the long and the short side in pixels, in either order.

    Returns:
        Multiples of 32.  Every image that obeys the scale fits into at least one.
    """
    long, short = max(image_scale), min(image_scale)
    # Half a pixel is what rounding can add to the long side.
    widths = [short, min(short * 4 / 3 + 0.5, long), min(short * 3 / 2 + 0.5, long), long]
    landscape = {padded_size((short, int(width))) for width in widths}
    landscape.add(padded_size((min((long + 1) // 2, short), long)))
    both = landscape | {(width, height) for height, width in landscape}
    return tuple(sorted(both, key=lambda size: (size[0] * size[1], size)))


def bucket_of(size: Size, buckets: Sequence[Size]) -> Size:
    """Returns the smallest bucket that holds a size.

    Raises:
        ValueError: None does; the size does not obey the buckets' scale.
    """
    for height, width in buckets:
        if size[0] <= height and size[1] <= width:
            return height, width
    raise ValueError(f"no bucket holds {size[0]} x {size[1]}: {list(buckets)}")


def buckets_of(
    sizes: Int64[np.ndarray, "images 2"], buckets: Sequence[Size]
) -> Int64[np.ndarray, " images"]:
    """Returns the position of the smallest bucket that holds each (height, width)."""
    fits = np.all(sizes[:, None, :] <= np.array(buckets), axis=-1)  # [images, buckets]
    if not np.any(fits, axis=1).all():
        raise ValueError("a size fits into no bucket")
    return fits.argmax(axis=1)


def padding_waste(sizes: Sequence[Size], image_scale: Sequence[int]) -> float:
    """Pixels of the buckets over pixels of each image's own multiple of 32, less one."""
    buckets = bucket_sizes(image_scale)
    own = [padded_size(rescale_size(size, tuple(image_scale))[0]) for size in sizes]
    held = [bucket_of(size, buckets) for size in own]
    return sum(h * w for h, w in held) / sum(h * w for h, w in own) - 1
