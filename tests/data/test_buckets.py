import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.images import COMMON_SIZES
from jaxdet.config import DataConfig
from jaxdet.data.buckets import bucket_of, bucket_sizes, buckets_of
from jaxdet.data.image import padded_size, resized_size, resized_sizes


def test_buckets_of_coco():
    landscape = [size for size in bucket_sizes((1333, 800)) if size[1] >= size[0]]
    assert landscape == [(800, 800), (800, 1088), (672, 1344), (800, 1216), (800, 1344)]


def test_small_scales_have_few_buckets():
    assert bucket_sizes((160, 128)) == ((96, 160), (160, 96), (128, 128), (128, 160), (160, 128))
    square = ((416, 800), (800, 416), (544, 800), (800, 544), (608, 800), (800, 608), (800, 800))
    assert bucket_sizes((800, 800)) == square
    assert bucket_of((120, 160), bucket_sizes((160, 144))) == (128, 160)  # 4:3


def test_buckets_waste_little():
    buckets = bucket_sizes((1333, 800))
    own = [padded_size(resized_size(size, DataConfig())[0]) for size in COMMON_SIZES]
    held = [bucket_of(size, buckets) for size in own]
    assert np.prod(held, axis=1).sum() < 1.01 * np.prod(own, axis=1).sum()


@given(
    st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    st.tuples(st.integers(32, 2000), st.integers(32, 2000)),
    st.sampled_from(["opencv", "pillow", "float"]),
)
def test_every_image_fits_into_the_smallest_bucket_that_can_hold_it(size, scale, rule):
    buckets = bucket_sizes(scale)
    data = DataConfig(image_scale=scale, resize=rule)
    resized, _ = resized_size(size, data)
    held_by = bucket_of(resized, buckets)
    assert held_by[0] % 32 == held_by[1] % 32 == 0
    own = padded_size(resized)
    assert own[0] <= held_by[0]
    assert own[1] <= held_by[1]
    many, _ = resized_sizes(np.array([size]), data)
    assert tuple(many[0]) == resized
    assert buckets[buckets_of(many, buckets)[0]] == held_by


def test_what_disobeys_the_scale_fits_nowhere():
    with pytest.raises(ValueError, match="no bucket holds 801 x 801"):
        bucket_of((801, 801), bucket_sizes((1333, 800)))
    with pytest.raises(ValueError, match="no bucket holds 801 x 801"):
        buckets_of(np.array([[800, 800], [801, 801]]), bucket_sizes((1333, 800)))
