import dataclasses
import json
import multiprocessing
import os
import signal

import cv2
import jax
import numpy as np
import pytest
from tiny_coco import annotated

from jaxdet.config import DataConfig
from jaxdet.data import loader as loader_lib
from jaxdet.data.coco import load_coco
from jaxdet.data.loader import Element, batches_from
from jaxdet.data.pipeline import eval_batches, max_boxes, train_batches
from jaxdet.data.sampler import draw_scale, flips, image_seeds
from jaxdet.errors import InputError
from jaxdet.types import Batch

SCALE = (96, 64)
SIZES = [(48, 64), (64, 48), (40, 80), (50, 50), (48, 70), (90, 45), (33, 99), (64, 96), (60, 60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Nine images, each of its own grey, with a white object in its annotated box."""
    root = tmp_path_factory.mktemp("images")
    images, annotations = [], []
    for i, (height, width) in enumerate(SIZES):
        image = np.full((height, width, 3), 10 * i, np.uint8)
        image[10:30, 5:25] = 255
        good, data = cv2.imencode(".png", image)
        assert good
        (root / f"{i}.png").write_bytes(data.tobytes())
        images.append({"id": 100 + i, "file_name": f"{i}.png", "height": height, "width": width})
        if i != 7:  # the last but one is empty
            box = {"image_id": 100 + i, "bbox": [5, 10, 20, 20], "area": 400, "iscrowd": 0}
            annotations.append({"id": i + 1, **box})
    (root / "a.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return root


@pytest.fixture(scope="module")
def dataset(folder):
    return load_coco(folder / "a.json", folder)


def data_of(**changes) -> DataConfig:
    return dataclasses.replace(DataConfig(image_scale=SCALE, num_workers=0), **changes)


def train_loader(dataset, data: DataConfig, **options):
    return train_batches(dataset, data, **{"global_batch": 4, "seed": 0, "num_steps": 9, **options})


def train(dataset, data=data_of(), **options):  # noqa: B008 - frozen
    with train_loader(dataset, data, **options) as loader:
        return [batch for batch, _ in loader]


def evaluate(dataset, data=data_of(), **options):  # noqa: B008 - frozen
    with eval_batches(dataset, data, **{"batch_size": 2, **options}) as loader:
        return [batch for batch, _ in loader]


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b, strict=True)


def test_a_row_is_the_resized_image_and_its_boxes(dataset):
    (batch,) = [b for b in evaluate(dataset, batch_size=1) if b.index[0] == 0]
    # 48 x 64 at (96, 64): f = 64 / 48, so 64 x 85, padded by itself to 64 x 96.
    assert batch.image.shape == (1, 64, 96, 3)
    assert batch.image.dtype == np.uint8
    assert batch.image_size.tolist() == [[64, 85]]
    assert batch.pad_size.tolist() == [[64, 96]]
    assert (batch.scale[0] == np.float32(64 / 48)).all()
    assert (batch.image[0, :, 85:] == 0).all()
    assert batch.image[0, 20, 20].tolist() == [255] * 3
    assert batch.image[0, 60, 80].tolist() == [0] * 3
    corners = np.array([5, 10, 24, 29], np.float32) * np.float32(64 / 48)
    np.testing.assert_array_equal(batch.boxes[0, 0], corners)
    assert batch.box_mask.tolist() == [[True] + [False] * 7]
    assert (batch.boxes[0, 1:] == 0).all()


def test_pad_size_is_the_images_own_and_not_the_buckets(dataset):
    for batch in train(dataset):
        rounded = -(-batch.image_size // 32) * 32
        np.testing.assert_array_equal(batch.pad_size, rounded)
        assert (batch.pad_size <= np.array(batch.image.shape[1:3])).all()


def test_training_mirrors_an_image_with_its_boxes(dataset):
    mirrored = 0
    for batch in train(dataset):
        for row, index in enumerate(batch.index):
            (height, width), f = batch.image_size[row], np.tile(batch.scale[row], 2)
            x1, y1, x2, y2 = np.array([5, 10, 24, 29], np.float32) * f
            flip = flips(batch.seed[row : row + 1], 0.5)[0]
            if flip:
                x1, x2 = width - 1 - x2, width - 1 - x1
            np.testing.assert_allclose(batch.boxes[row, 0], [x1, y1, x2, y2], rtol=1e-6)
            # The white object is where the box is, and the image is the right one.
            assert (
                batch.image[row, int(y1 + 4) : int(y2 - 3), int(x1 + 4) : int(x2 - 3)] > 250
            ).all()
            assert batch.image[row, height - 1, width // 2].tolist() == [10 * index] * 3
            mirrored += flip
    assert 0 < mirrored < 36


def test_flip_probability(dataset):
    never, always = (train(dataset, data_of(flip=flip)) for flip in (0.0, 1.0))
    for one, other in zip(never, always, strict=True):
        for row in range(4):
            width = one.image_size[row, 1]
            np.testing.assert_array_equal(
                one.image[row, :, :width], other.image[row, :, :width][:, ::-1]
            )


def test_resuming_gives_the_rest_of_the_run(dataset):
    whole = train(dataset)
    assert len(whole) == 9
    for start in (1, 4, 9):
        assert_same(train(dataset, start_step=start), whole[start:])


def test_hosts_divide_the_global_batch(dataset):
    whole = train(dataset)
    halves = [train(dataset, host=(i, 2)) for i in (0, 1)]
    joined = [
        jax.tree.map(lambda *leaves: np.concatenate(leaves), a, b)
        for a, b in zip(*halves, strict=True)
    ]
    assert_same(joined, whole)
    with pytest.raises(InputError, match="batch of 4 cannot be divided among 3 hosts"):
        train(dataset, host=(0, 3))


def test_an_epoch_trains_on_every_annotated_image(dataset):
    def seen(batches):
        return {int(i) for batch in batches for i in batch.index}

    # Four wide images and four others; the empty one makes a second wide batch.
    assert seen(train(dataset)[:2]) == set(range(9)) - {7}
    assert seen(train(dataset, data_of(keep_empty=True))[:3]) == set(range(9))


def test_an_unreadable_image_is_replaced_and_counted(folder, dataset, tmp_path, caplog):
    for i in range(9):
        (tmp_path / f"{i}.png").write_bytes((folder / f"{i}.png").read_bytes())
    (tmp_path / "0.png").write_text("garbage")
    broken = load_coco(folder / "a.json", tmp_path)
    with train_loader(broken, data_of()) as loader:
        batches, lines = zip(*loader, strict=True)
    skipped = sum(map(len, lines))
    planned = train(dataset)
    expected = sum((b.index == 0).sum() for b in planned)
    assert skipped == expected == len(caplog.records) > 0
    assert f"image skipped: {tmp_path}/0.png: not a JPEG" in caplog.messages[0]
    for batch, plan in zip(batches, planned, strict=True):
        same = plan.index != 0
        np.testing.assert_array_equal(batch.image[same], plan.image[same])
        assert (batch.index[~same] == 2).all()  # the next wide one that is not empty
        assert batch.image.shape == plan.image.shape


@pytest.mark.parametrize("short_sides", [(), (40, 64)])
def test_any_image_stands_in_where_no_other_has_the_shape(folder, tmp_path, short_sides):
    """One image of nine is higher than wide, and cut off: others are made smaller to fit."""
    (tmp_path / "5.png").write_bytes((folder / "5.png").read_bytes()[:60])
    content = json.loads((folder / "a.json").read_text())
    high = [3, 8, 1]  # not wider than high, as is 5
    content["images"] = [image for i, image in enumerate(content["images"]) if i not in high]
    kept = {image["id"] for image in content["images"]}
    rows = [row for row in content["annotations"] if row["image_id"] in kept]
    (tmp_path / "a.json").write_text(json.dumps({**content, "annotations": rows}))
    for image in content["images"]:
        if image["file_name"] != "5.png":
            path = tmp_path / image["file_name"]
            path.write_bytes((folder / path.name).read_bytes())
    dataset, data = load_coco(tmp_path / "a.json", tmp_path), data_of(train_short_sides=short_sides)
    with train_loader(dataset, data, global_batch=1, num_steps=20) as loader:
        batches, lines = zip(*loader, strict=True)
    stand_ins = [batch for batch, said in zip(batches, lines, strict=True) if said]
    assert stand_ins
    for batch in stand_ins:
        (height, width), bucket = batch.image_size[0], batch.image.shape[1:3]
        assert bucket == (96, 64)
        assert (height <= 64) & (width == 64)
        assert (batch.boxes[0, 0, 2:] < (width, height)).all()
        assert batch.box_mask[0, 0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"train_short_sides": (40, 64)}, {(96, 40), (96, 64)}),
        ({"train_short_sides": (40, 64), "train_long_sides": (70, 96)}, {(70, 40), (96, 64)}),
        ({"multiscale_mode": "range"}, {None}),
    ],
)
def test_scales_are_drawn_from_those_given(changes, expected):
    seeds = image_seeds(0, 0, np.arange(200))
    assert {draw_scale(data_of(**changes), seeds[[i]]) for i in range(200)} == expected


def test_a_range_of_scales_is_drawn_evenly_and_apart_from_the_flip():
    """As the reference does it: any whole number, both ends included, each side by itself."""
    sides = {"train_short_sides": (40, 64), "train_long_sides": (70, 96)}
    data, seeds = data_of(**sides, multiscale_mode="range"), image_seeds(0, 1, np.arange(5000))
    longs, shorts = np.array([draw_scale(data, seeds[[i]]) for i in range(5000)]).T
    for drawn, (low, high) in ((longs, (70, 96)), (shorts, (40, 64))):
        counts = np.bincount(drawn, minlength=high + 1)[low:]
        assert counts.min() > 0.6 * counts.mean()
        assert (drawn.min(), drawn.max()) == (low, high)
    together = np.corrcoef([longs, shorts, flips(seeds, 0.5)])
    assert abs(together[np.triu_indices(3, 1)]).max() < 0.05


def test_images_of_several_scales_are_in_the_buckets_of_the_largest(dataset):
    data = data_of(train_short_sides=(32, 64), multiscale_mode="range")
    batches, single = train(dataset, data), train(dataset)
    shapes = [batch.image.shape for batch in batches]
    assert shapes == [batch.image.shape for batch in single]
    sizes = np.concatenate([batch.image_size for batch in batches])
    assert len({*sizes.min(axis=1).tolist()}) > 8
    for batch, other in zip(batches, single, strict=True):
        np.testing.assert_array_equal(batch.index, other.index)
        assert (batch.image_size <= other.image_size).all()
    again = train(dataset, data, start_step=5)
    for batch, other in zip(batches[5:], again, strict=True):
        np.testing.assert_array_equal(batch.image, other.image)


def test_a_folder_without_any_readable_image_is_refused(folder, tmp_path):
    broken = load_coco(folder / "a.json", tmp_path)
    with pytest.raises(InputError, match=r"none of the 8 images tried can be .* No such file"):
        train(broken)


def test_evaluation_sees_every_image_once(dataset):
    for batch_size in (1, 2, 4, 16):
        batches = evaluate(dataset, batch_size=batch_size)
        seen = np.concatenate([b.index for b in batches])
        assert sorted(seen[seen >= 0]) == list(range(9))
        assert all(len(b.index) == batch_size for b in batches)
        pixels = [b.image[0].size for b in batches]
        assert pixels == sorted(pixels, reverse=True)


def test_fillers_are_harmless(dataset):
    fillers = 0
    for batch in evaluate(dataset, batch_size=4):
        filler = batch.index < 0
        fillers += filler.sum()
        assert (batch.image[filler] == 0).all()
        assert (batch.image_size[filler] == 32).all()
        assert (batch.pad_size[filler] == 32).all()
        assert (batch.scale[filler] == 1).all()
        assert not batch.box_mask[filler].any()
    assert fillers > 0


def test_evaluation_is_divided_among_hosts(dataset):
    parts = [evaluate(dataset, batch_size=4, host=(i, 2)) for i in (0, 1)]
    assert [b.image.shape for b in parts[0]] == [b.image.shape for b in parts[1]]
    seen = np.concatenate([b.index for part in parts for b in part])
    assert sorted(seen[seen >= 0]) == list(range(9))


def test_an_unreadable_image_stops_evaluation(folder, tmp_path):
    for i in range(9):
        (tmp_path / f"{i}.png").write_bytes((folder / f"{i}.png").read_bytes())
    (tmp_path / "4.png").write_bytes((folder / "4.png").read_bytes()[:60])
    broken = load_coco(folder / "a.json", tmp_path)
    with pytest.raises(InputError, match=r"4\.png: image cannot be decoded") as error:
        evaluate(broken)
    assert "\n" not in str(error.value)


def test_max_boxes_is_a_multiple_of_eight(dataset):
    assert max_boxes(dataset) == 8
    assert max_boxes(annotated([])) == 8


@pytest.mark.slow
def test_loader_processes_give_the_same_batches(dataset):
    assert_same(train(dataset, data_of(num_workers=2)), train(dataset))
    assert_same(evaluate(dataset, data_of(num_workers=2)), evaluate(dataset))


@pytest.mark.slow
def test_an_error_of_a_loader_process_comes_out_as_it_went_in(folder, tmp_path):
    broken = load_coco(folder / "a.json", tmp_path)
    with pytest.raises(
        InputError, match=rf"^{tmp_path}/\d\.png: cannot be read: No such file or directory$"
    ) as error:
        evaluate(broken, data_of(num_workers=2))
    assert not getattr(error.value, "__notes__", [])


@pytest.mark.slow
def test_a_killed_loader_process_is_replaced(dataset, caplog):
    expected = train(dataset)
    with train_loader(dataset, data_of(num_workers=2)) as loader:
        batches = [next(loader).batch]
        for process in multiprocessing.active_children():
            os.kill(process.pid, signal.SIGKILL)
        batches += [batch for batch, _ in loader]
    assert_same(batches, expected)
    assert "a loader process was killed" in caplog.text


class _Numbers:
    """Batches that hold nothing but their step."""

    def __len__(self):
        return 1000

    def __getitem__(self, step):
        return Element(Batch(*(np.array(step) for _ in Batch._fields)), ())


@pytest.fixture
def killed_after(monkeypatch):
    """Loader processes that are killed whenever they made so many batches."""

    def until_killed(source, batches, ahead):
        yield from (source[i] for i in range(min(batches, len(source))))
        if batches < len(source):
            raise RuntimeError("Grain worker process 0 was terminated unexpectedly")

    monkeypatch.setattr(loader_lib, "_in_background", until_killed)
    return lambda batches: batches_from(_Numbers(), batches)


@pytest.mark.slow
def test_loader_processes_killed_now_and_then_end_no_run(killed_after):
    with killed_after(10) as loader:
        assert [int(batch.index) for batch, _ in loader] == list(range(1000))


def test_loader_processes_killed_all_the_time_end_a_run(killed_after):
    with (
        killed_after(0) as loader,
        pytest.raises(InputError, match=r"keep being killed, .*; set fewer config\.data\.num_w"),
    ):
        next(loader)


class _Broken:
    """A source with a fault that no restart can mend."""

    def __len__(self):
        return 3

    def __getitem__(self, step):
        raise RuntimeError("a bug")


def test_other_errors_are_not_hidden():
    with batches_from(_Broken(), 0) as loader, pytest.raises(RuntimeError, match="a bug"):
        next(loader)
