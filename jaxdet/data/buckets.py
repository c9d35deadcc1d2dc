"""The few image shapes that programs are compiled for, and batches of one.

A resized image touches one of two borders: its short side is the scale's short side, or its
long side is the scale's long side.  A bucket is a point of that border, rounded up to multiples
of 32: the common aspect ratios 4:3 and 3:2, on whichever border they are, the widest image that
still has the full short side, a square, and a panorama of half the height.  The portrait buckets
are the same, turned.

At COCO's (1333, 800) the buckets are 800 x 800, 800 x 1088, 800 x 1216, 800 x 1344 and
672 x 1344.  Over COCO's most frequent sizes they hold 0.3 % more pixels than images padded to
their own multiple of 32 do.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64, UInt8

from jaxdet.config import DataConfig
from jaxdet.data.image import padded_size, resize, resized_size
from jaxdet.types import Batch

FILLER_SIZE = 32

Size = tuple[int, int]  # (height, width)


def bucket_sizes(image_scale: Sequence[int]) -> tuple[Size, ...]:
    """Returns all buckets of a scale, the smallest first; their sides are multiples of 32.

    `image_scale` bounds the long and the short side in pixels, in either order.  Every image that
    obeys it fits into at least one.
    """
    long, short = max(image_scale), min(image_scale)
    # Half a pixel is what rounding can add to a side.
    landscape = {padded_size((short, short)), padded_size((short, long))}
    for ratio in (4 / 3, 3 / 2):
        sides = min(long / ratio + 0.5, short), min(short * ratio + 0.5, long)
        landscape.add(padded_size((int(sides[0]), int(sides[1]))))
    landscape.add(padded_size((min((long + 1) // 2, short), long)))
    both = landscape | {(width, height) for height, width in landscape}
    return tuple(sorted(both, key=lambda size: (size[0] * size[1], size)))


def bucket_of(size: Size, buckets: Sequence[Size]) -> Size:
    """Returns the smallest bucket that holds a size; see `buckets_of`."""
    return buckets[int(buckets_of(np.array([size]), buckets)[0])]


def buckets_of(
    sizes: Int64[np.ndarray, "images 2"], buckets: Sequence[Size]
) -> Int64[np.ndarray, " images"]:
    """Returns, for every (height, width), the position of the smallest bucket that holds it.

    Raises `ValueError` if none does; the size does not obey the buckets' scale.
    """
    fits = np.all(sizes[:, None, :] <= np.array(buckets), axis=-1)  # [images, buckets]
    lost = sizes[~fits.any(axis=1)]
    if len(lost):
        raise ValueError(f"no bucket holds {lost[0, 0]} x {lost[0, 1]}: {list(buckets)}")
    return fits.argmax(axis=1)


def empty_batch(
    bucket: Size, rows: int, dtype: str, boxes: int = 1, has_classes: bool = False, given: int = 0
) -> Batch:
    """Returns a batch with a filler, a black image of 32 x 32 pixels, in every row.

    `dtype` is that of pixels, `boxes` and `given` are how many boxes and proposals an image may
    have; it has proposals if that is not 0.
    """
    return Batch(
        image=np.zeros((rows, *bucket, 3), dtype),
        image_size=np.full((rows, 2), FILLER_SIZE, np.int32),
        pad_size=np.full((rows, 2), FILLER_SIZE, np.int32),
        scale=np.ones((rows, 2), np.float32),
        boxes=np.zeros((rows, boxes, 4), np.float32),
        box_mask=np.zeros((rows, boxes), bool),
        seed=np.zeros(rows, np.uint32),
        index=np.full(rows, -1, np.int32),
        labels=np.zeros((rows, boxes), np.int32) if has_classes else None,
        proposals=np.zeros((rows, given, 4), np.float32) if given else None,
        proposal_mask=np.zeros((rows, given), bool) if given else None,
    )


def put_image(
    batch: Batch,
    row: int,
    image: UInt8[np.ndarray, "h w 3"],
    data: DataConfig,
    index: int = 0,
    flip: bool = False,
) -> None:
    """Writes an image into an empty row, resized and perhaps mirrored."""
    (height, width), batch.scale[row] = resized_size(image.shape[:2], data)
    resized = resize(image, (height, width), data.resize)
    batch.image[row, :height, :width] = resized[:, ::-1] if flip else resized
    batch.image_size[row] = height, width
    batch.pad_size[row] = padded_size((height, width), data.pad_multiple)
    batch.index[row] = index


def batch_of_one(
    image: UInt8[np.ndarray, "h w 3"], data: DataConfig, buckets: Sequence[Size], index: int = 0
) -> Batch:
    """Returns an image, resized and put into its bucket (the smallest first), without boxes."""
    size, _ = resized_size(image.shape[:2], data)
    batch = empty_batch(bucket_of(size, buckets), 1, data.pixel_dtype)
    put_image(batch, 0, image, data, index)
    return batch
