from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdet.config import DataConfig
from jaxdet.data.buckets import bucket_sizes
from jaxdet.data.dataset import Dataset
from jaxdet.data.sampler import Sampler, flips, image_seeds, steps_per_epoch
from jaxdet.errors import InputError

SCALE = (1333, 800)


def make_dataset(sizes, boxes_per_image, crowds=()):
    """Images of (height, width) with so many boxes; those of images in `crowds` are crowds."""
    owner = np.repeat(np.arange(len(sizes)), boxes_per_image)
    iscrowd = np.isin(owner, crowds)
    count = len(owner)
    return Dataset(
        source="made.json",
        image_dir=Path("nowhere"),
        file_names=tuple(f"{i}.jpg" for i in range(len(sizes))),
        image_ids=1000 + 7 * np.arange(len(sizes)),
        heights=np.array(sizes, np.int32)[:, 0],
        widths=np.array(sizes, np.int32)[:, 1],
        offsets=np.concatenate([[0], np.cumsum(boxes_per_image)]).astype(np.int64),
        annotation_ids=np.arange(count),
        category_ids=np.ones(count, np.int64),
        xywh=np.tile([1.0, 2.0, 20.0, 10.0], (count, 1)),
        area=np.full(count, 200.0),
        iscrowd=iscrowd,
        ignore=np.zeros(count, bool),
    )


MIXED = make_dataset(
    [(480, 640)] * 10 + [(640, 480)] * 5 + [(31, 640), (640, 640), (480, 640), (300, 600)],
    [2] * 10 + [1] * 5 + [1, 3, 0, 1],
    crowds=[18],
)


def sampler(dataset=MIXED, global_batch=4, seed=0, **options):
    data = DataConfig(image_scale=SCALE, **options)
    return Sampler(dataset, data, global_batch=global_batch, seed=seed)


def epoch(plan, number):
    count = plan.steps_per_epoch
    return [plan[step] for step in range(number * count, (number + 1) * count)]


def test_an_epoch_visits_every_trainable_image():
    plan = sampler()
    # 11 wide ones (0-9 and 18) fill 3 batches, 6 others (10-14 and 16) fill 2.
    assert plan.steps_per_epoch == 5 == steps_per_epoch(MIXED, DataConfig(), global_batch=4)
    for number in range(3):
        seen = np.concatenate([indices for indices, _ in epoch(plan, number)])
        assert len(seen) == 20
        # 15 has a side under 32, 17 no annotation, 18 only a crowd.
        assert set(seen) == set(range(10)) | set(range(10, 15)) | {16}


def test_every_batch_is_of_one_aspect_group_and_fits_its_bucket():
    plan = sampler()
    for indices, bucket in epoch(plan, 0):
        wide = MIXED.widths[indices] > MIXED.heights[indices]
        assert wide.all() or not wide.any()
        assert (plan.sizes[indices] <= np.array(bucket)).all()
        smaller = [b for b in bucket_sizes(SCALE) if b[0] * b[1] < bucket[0] * bucket[1]]
        assert not any((plan.sizes[indices] <= np.array(b)).all() for b in smaller)


def test_an_image_without_a_usable_box_gives_way_to_one_of_its_group():
    plan = sampler()
    wide = [indices for indices, _ in epoch(plan, 0) if indices[0] < 10]
    # 11 places for images, one of them for 18, and the first drawn once more to make 12.
    assert np.bincount(np.concatenate(wide), minlength=19)[18] == 0
    assert np.concatenate(wide).shape == (12,)


def test_keep_empty_trains_on_images_without_boxes():
    seen = np.concatenate([indices for indices, _ in epoch(sampler(keep_empty=True), 0)])
    assert set(seen) == set(range(19)) - {15}


def test_epochs_differ_and_seeds_decide():
    plan = sampler()
    first, second = (np.concatenate([indices for indices, _ in epoch(plan, e)]) for e in (0, 1))
    assert not np.array_equal(first, second)
    again = np.concatenate([indices for indices, _ in epoch(sampler(), 0)])
    np.testing.assert_array_equal(first, again)
    other = np.concatenate([indices for indices, _ in epoch(sampler(seed=1), 0)])
    assert not np.array_equal(first, other)


def test_steps_can_be_looked_up_in_any_order():
    forward, backward = sampler(), sampler()
    steps = list(range(17))
    there = {k: forward[k] for k in steps}
    for k in reversed(steps):
        np.testing.assert_array_equal(backward[k][0], there[k][0])
        assert backward[k][1] == there[k][1]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([(480, 640), (640, 480), (500, 500), (20, 90)]), st.integers(0, 2)
        ),
        min_size=1,
        max_size=30,
    ),
    st.integers(1, 7),
    st.integers(-5, 2**70),
)
def test_schedules_of_any_data_set(images, global_batch, seed):
    sizes, boxes = zip(*images, strict=True)
    dataset = make_dataset(list(sizes), list(boxes))
    expected = {i for i, (size, n) in enumerate(images) if n and min(size) >= 32}
    if not expected:
        with pytest.raises(InputError, match=r"made\.json: no image to train on"):
            sampler(dataset, global_batch, seed)
        return
    plan = sampler(dataset, global_batch, seed)
    steps = epoch(plan, 2)
    assert all(indices.shape == (global_batch,) for indices, _ in steps)
    seen = np.concatenate([indices for indices, _ in steps])
    assert set(seen) == expected
    # Repeats only fill up the last batch of either group.
    assert len(seen) - len(expected) < 2 * global_batch


def test_a_group_of_crowds_alone_is_left_out():
    dataset = make_dataset([(480, 640), (640, 480)], [1, 1], crowds=[1])
    assert sampler(dataset).steps_per_epoch == 1
    assert set(sampler(dataset)[0][0]) == {0}


def test_crowds_alone_are_named():
    dataset = make_dataset([(480, 640), (20, 640)], [1, 2], crowds=[0, 1])
    said = r"of 3 annotations 3 are crowds, 0 .* and 0 under a pixel; of 2 images 1 have a side un"
    with pytest.raises(InputError, match=said):
        sampler(dataset)


def test_replacements_are_the_next_of_the_group_that_fit():
    plan = sampler()
    assert plan.replacements(3, (800, 1088))[:9].tolist() == [4, 5, 6, 7, 8, 9, 0, 1, 2]
    assert plan.replacements(12, (1088, 800))[:5].tolist() == [13, 14, 16, 10, 11]


def test_image_seeds_depend_on_each_of_their_three_parts():
    ids = np.arange(5000)
    base = image_seeds(0, 0, ids)
    assert len(np.unique(base)) > 4990
    for other in (image_seeds(1, 0, ids), image_seeds(0, 1, ids), image_seeds(-1, 0, ids)):
        assert (base == other).mean() < 0.01
    np.testing.assert_array_equal(image_seeds(0, 0, ids[77:78]), base[77:78])
    # Neighbouring epochs and ids must not be the same numbers shifted.
    assert len(np.intersect1d(base, image_seeds(0, 1, ids))) < 10


def test_image_seeds_stay_the_same_for_ever():
    """A change would break the resuming of old runs."""
    seeds = image_seeds(3, 2, np.array([139, 581_929]))
    assert seeds.tolist() == [880796893, 469464506]


def test_flips_come_with_their_probability():
    seeds = image_seeds(0, 0, np.arange(20_000))
    assert abs(flips(seeds, 0.5).mean() - 0.5) < 0.015
    assert abs(flips(seeds, 0.1).mean() - 0.1) < 0.01
    assert not flips(seeds, 0.0).any()
    assert flips(seeds, 1.0).all()
    # Not the seed's own top or bottom bit, which the sampler may use.
    assert abs(np.corrcoef(flips(seeds, 0.5), seeds >> np.uint32(31))[0, 1]) < 0.05
    assert abs(np.corrcoef(flips(seeds, 0.5), seeds & np.uint32(1))[0, 1]) < 0.05
