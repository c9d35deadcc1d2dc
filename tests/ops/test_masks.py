"""Mask targets against the systems' own, a point-by-point RoIAlign, and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet.ops.masks import mask_targets

KINDS = pytest.mark.parametrize("kind", ["crop", "binary", "soft"])
TARGETS = jax.jit(mask_targets, static_argnums=(5, 6))


@pytest.fixture(scope="module")
def ops(golden):
    return golden("mask_targets")


def in_bucket(packed, height, width):
    """Bitmaps in a bucket of (height, width)."""
    more = height - packed.shape[1], width // 8 - packed.shape[2]
    return np.pad(packed, ((0, 0), (0, more[0]), (0, more[1])))


@pytest.mark.parametrize("size", [28, 14])
def test_crop_is_the_2018_toolboxs(ops, size):
    packed, hw = in_bucket(ops["crop_bitmaps"], 256, 384), ops["crop_hw"]
    found = TARGETS(packed, ops["crop_boxes"], ops["crop_matched"], hw, hw, size, "crop")
    wanted = np.unpackbits(ops[f"crop_targets{size}"], axis=-1, count=size)
    np.testing.assert_array_equal(found, wanted)


def test_crop_of_odd_boxes_is_the_2018_toolboxs(ops):
    """A fraction of a pixel, the image's last pixel, one column, all of the image."""
    four, hw = np.arange(4, dtype=np.int32), ops["crop_hw"]
    found = TARGETS(ops["crop_bitmaps"], ops["crop_odd_boxes"], four, hw, hw, 14, "crop")
    wanted = np.unpackbits(ops["crop_odd_targets14"], axis=-1, count=14)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("size", [28, 14])
def test_crop_of_noise_is_opencvs(ops, size):
    """Sides of 1, 2, `size`, twice that and others, by OpenCV 5.0: every rounding shows."""
    boxes, hw = ops["noise_boxes"], np.array([120, 160])
    first = np.zeros(len(boxes), np.int32)
    found = TARGETS(ops["noise_bitmaps"], boxes, first, hw, hw, size, "crop")
    wanted = np.unpackbits(ops[f"noise_targets{size}"], axis=-1, count=size)
    np.testing.assert_array_equal(found, wanted)


def test_binary_is_mmdets_and_detectron2s(ops):
    packed, hw = in_bucket(ops["binary_bitmaps"], 256, 384), ops["binary_hw"]
    found = TARGETS(packed, ops["binary_boxes"], ops["binary_matched"], hw, hw, 28, "binary")
    wanted = np.unpackbits(ops["binary_targets28"], axis=-1, count=28)
    np.testing.assert_array_equal(found, wanted)


def test_soft_is_torchvisions(ops):
    packed, hw = in_bucket(ops["soft_bitmaps"], 256, 384), ops["soft_hw"]
    pad = np.array([160, 200])
    found = TARGETS(packed, ops["soft_boxes"], ops["soft_matched"], hw, pad, 28, "soft")
    # Coordinates over 128 px are 1.5e-5 apart, and a point's weight moves by as much.
    np.testing.assert_allclose(np.ravel(found)[ops["soft_idx"]], ops["soft_val"], atol=2e-5)
    np.testing.assert_allclose(found.sum((1, 2)), ops["soft_sums"], rtol=2e-6)


def roi_align(bitmap, x1, y1, width, height, size):
    """The mean over a bin's points of the bitmap, point by point in float64."""
    out = np.zeros((size, size))
    counts = max(int(np.ceil(height / size)), 0), max(int(np.ceil(width / size)), 0)
    for i, j in np.ndindex(size, size):
        for k, m in np.ndindex(counts):
            y = y1 + (i + (k + 0.5) / counts[0]) * height / size
            x = x1 + (j + (m + 0.5) / counts[1]) * width / size
            if not (-1 <= y <= bitmap.shape[0] and -1 <= x <= bitmap.shape[1]):
                continue
            y, x = (np.clip(c, 0, n - 1) for c, n in zip((y, x), bitmap.shape, strict=True))
            low = int(y), int(x)
            corners = bitmap[low[0] : low[0] + 2, low[1] : low[1] + 2]
            down, across = (np.array([1 - c % 1, c % 1]) for c in (y, x))
            mean = down[: corners.shape[0]] @ corners @ across[: corners.shape[1]]
            out[i, j] += mean / np.prod(counts)
    return out


ODD = np.array(
    [
        [10, 10, 10, 10],  # empty
        [3, 4, 4, 5],  # one pixel
        [-20, -30, -5, -2],  # outside
        [-7.3, -9.1, 30.7, 11.9],  # partly outside
        [-200, -300, 500, 400],  # far larger than the image
        [12.2, 0, 12.9, 49.5],  # thin
        [0, 0, 70, 50],  # the image
        [33.3, 20.1, 70, 50],  # its corner
        [7.123, 6.456, 35.123, 34.456],  # a pixel a bin
        [1.1, 2.2, 29.2, 30.3],  # and a little more: two points a bin
    ],
    np.float32,
)


@pytest.mark.parametrize("kind", ["binary", "soft"])
def test_roi_align_point_by_point(kind):
    bitmap = np.random.default_rng(0).random((50, 70)) < 0.5
    packed = in_bucket(np.packbits(bitmap, axis=-1)[None], 64, 96)
    first, hw = np.zeros(len(ODD), np.int32), np.array([50, 70])
    found = np.asarray(TARGETS(packed, ODD, first, hw, hw, 14, kind))
    for box, target in zip(ODD, found, strict=True):
        # The number of points depends on sides as float32 has them.
        if kind == "soft":
            sides = np.maximum(box[2:] - box[:2], 1)
            wanted = roi_align(bitmap, *box[:2].astype(float), *sides.astype(float), 14)
            # Coordinates up to 500 px, in float32.
            np.testing.assert_allclose(target, wanted, atol=1e-4)
        else:
            box = np.clip(box, 0, [70, 50, 70, 50]).astype(np.float32) - np.float32(0.5)
            sides = box[2:] - box[:2]
            wanted = roi_align(bitmap, *box[:2].astype(float), *sides.astype(float), 14)
            clear = abs(wanted - 0.5) > 1e-4
            np.testing.assert_array_equal(target[clear], wanted[clear] >= 0.5)


@KINDS
def test_targets_do_not_depend_on_the_bucket(ops, kind):
    arrays = ops["soft_boxes"], ops["soft_matched"], ops["soft_hw"], np.array([160, 208])
    small, large = (in_bucket(ops["soft_bitmaps"], *hw) for hw in ((160, 208), (320, 512)))
    first, second = (TARGETS(packed, *arrays, 28, kind) for packed in (small, large))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("transform", [lambda f, **_: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize(("kind", "inside"), [("crop", 0), ("binary", 1), ("soft", 1)])
def test_the_first_pixel_is_the_highest_bit(transform, kind, inside):
    packed = jnp.asarray([[[64, 1]]], jnp.uint8)  # one row, whose pixels 1 and 15 are set
    boxes = jnp.asarray([[x, 0, x + inside, inside] for x in (1.0, 6, 9, 15)])
    if kind == "soft":  # centres of pixels lie at whole coordinates
        boxes -= 0.5
    arrays = packed, boxes, jnp.zeros(4, jnp.int32), jnp.array([1, 16]), jnp.array([1, 16])
    found = transform(mask_targets, static_argnums=(5, 6))(*arrays, 1, kind)
    assert found.ravel().tolist() == [1, 0, 0, 1]
