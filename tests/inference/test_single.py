"""Arrays given as images: odd ones are read, others are one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet.config import Config, DataConfig, DetectionConfig, ModelConfig
from jaxdet.data.buckets import batch_of_one, bucket_sizes
from jaxdet.errors import InputError
from jaxdet.inference.single import pixels_of, result_of
from jaxdet.types import Predictions

SCALE = (96, 64)
BUCKETS = bucket_sizes(SCALE)
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def batch_of(image):
    return batch_of_one(pixels_of(image), DataConfig(image_scale=SCALE), BUCKETS)


@pytest.mark.parametrize(
    "image",
    [
        IMAGE.astype(np.int64),
        IMAGE.astype(np.uint16),
        IMAGE.astype(bool),
        IMAGE.astype(object),
        IMAGE[..., :2],
        np.concatenate([IMAGE, IMAGE[..., :1]], axis=2),
        IMAGE.transpose(2, 0, 1),
        IMAGE[None],
        IMAGE[:0],
        IMAGE[:, :0],
        np.zeros((0, 0, 3), np.uint8),
        np.zeros((0, 0), np.float32),
        IMAGE.astype(np.complex64),
        np.uint8(3),
        np.array(["street.jpg"]),
        None,
        3,
        b"street.jpg",
        IMAGE.tolist(),
        [],
    ],
    ids=lambda image: f"{getattr(image, 'dtype', type(image).__name__)}{np.shape(image)}",
)
def test_what_is_no_image_is_one_line(image):
    with pytest.raises(InputError, match=r"image: must be .* uint8 \(height, width, 3\)") as caught:
        batch_of(image)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


GREY = np.repeat(IMAGE[..., :1], 3, axis=2)
FORMS = {
    "grey": (IMAGE[..., 0], GREY),
    "one channel": (IMAGE[..., :1], GREY),
    "from 0 to 1": (IMAGE / np.float32(255), IMAGE),
    "float64": (IMAGE / 255, IMAGE),
    "whole numbers": (IMAGE.astype(np.float32), IMAGE),
    "grey whole numbers": (IMAGE[..., 0].astype(np.float16), GREY),
    "black": (IMAGE * np.float32(0), IMAGE * 0),
    "jax": (jnp.asarray(IMAGE), IMAGE),
    "bfloat16": (jnp.asarray(IMAGE, jnp.bfloat16), IMAGE),
}


@pytest.mark.parametrize(("image", "pixels"), FORMS.values(), ids=FORMS)
def test_grey_float_and_jax_arrays_are_the_same_pixels(image, pixels):
    found = pixels_of(image)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize(
    ("image", "what"),
    [
        (IMAGE * 0.5, "from 0 to 127.5"),  # between whole numbers
        ((IMAGE > 99) * 1.0, "from 0 to 1 alone"),  # black and white, or nearly black
        (IMAGE * 257.0, "from 0 to 65535"),
        (IMAGE / 127.5 - 1, "from -1 to 1"),
        (IMAGE / 255 * 1.01, "from 0 to 1.01"),
        (np.where(IMAGE == 7, np.nan, IMAGE / 255), "from nan to nan"),
        (np.where(IMAGE == 7, np.inf, IMAGE), "from 0 to inf"),
    ],
)
def test_floats_that_may_mean_either_are_refused(image, what):
    match = f"^image: floats {what}; give uint8, or floats from 0 to 1, or whole numbers"
    with pytest.raises(InputError, match=match):
        pixels_of(image)


def test_a_traced_image_is_told_of_the_pure_function():
    with pytest.raises(InputError, match="trace the predictor's `apply`"):
        jax.jit(pixels_of)(IMAGE)


VIEWS = {
    "mirrored": IMAGE[:, ::-1],
    "upside down": IMAGE[::-1],
    "BGR": IMAGE[..., ::-1],
    "every other pixel": IMAGE[::2, ::2],
    "turned": IMAGE.transpose(1, 0, 2),
    "Fortran order": np.asfortranarray(IMAGE),
    "a part": IMAGE[5:30, 7:50],
    "repeated": np.broadcast_to(IMAGE[:1], IMAGE.shape),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_views_are_read_like_copies_and_left_alone(view):
    copy = np.array(view, order="C")
    for a, b in zip(batch_of(view), batch_of(copy), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(view, copy)


def test_a_read_only_image_is_read():
    image = IMAGE.copy()
    image.flags.writeable = False
    np.testing.assert_array_equal(batch_of(image).image, batch_of(IMAGE).image)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 100_000), (3, 2)])
def test_any_size_becomes_at_least_a_pixel_in_a_bucket(size):
    batch = batch_of(np.full((*size, 3), 7, np.uint8))
    height, width = batch.image_size[0]
    assert batch.image.shape[1:3] in BUCKETS
    assert (batch.image[0, :height, :width] == 7).all()
    assert not batch.image[0, height:].any()
    assert not batch.image[0, :, width:].any()
    assert (batch.pad_size % 32 == 0).all()


@pytest.mark.parametrize(
    ("convention", "resize"),
    [("mmdet3", "opencv"), ("detectron2", "pillow"), ("torchvision", "float")],
)
def test_boxes_come_back_as_in_each_system(convention, resize, golden):
    """To the last bit: their own detections, before and after."""
    names = "size", "resized_size", "resized", "boxes"
    size, resized_size, resized, boxes = (
        golden("detection_boxes")[f"{convention}_{name}"] for name in names
    )
    config = Config(
        model=ModelConfig(convention=convention, class_names=("one",)),
        data=DataConfig(resize=resize, box_scale="actual"),
        detections=DetectionConfig(drop_empty=convention == "detectron2"),
    )
    count = len(resized)
    columns = np.ones(count, np.float32), np.zeros(count, np.int32), np.ones(count, bool)
    predictions = Predictions(resized[None], *(column[None] for column in columns))
    batch = batch_of(IMAGE)._replace(
        image_size=resized_size[None].astype(np.int32),
        scale=(resized_size / size)[None, ::-1].astype(np.float32),
    )
    found = result_of(predictions, batch, config, tuple(size.tolist()))
    np.testing.assert_array_equal(found.boxes, boxes)
