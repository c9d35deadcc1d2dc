import multiprocessing
import shutil

import numpy as np
import pytest

from jaxdet.data import shapes
from jaxdet.data.coco import coco_paths, load_coco
from jaxdet.data.shapes import SHAPES_CLASSES, Pose, mask_of
from jaxdet.errors import InputError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXDET_CACHE", str(tmp_path_factory.mktemp("cache")))
        return shapes.make_shapes()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXDET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_set_is_coco_with_everything_that_coco_has(root, split):
    dataset = load_coco(*coco_paths(root, split))
    assert len(dataset) == shapes.NUM_IMAGES[split]
    assert 0 < dataset.iscrowd.sum() < 0.1 * len(dataset.iscrowd)
    assert 0 < dataset.ignore.sum() < 0.1 * len(dataset.ignore)
    assert 0 < (dataset.num_annotations == 0).sum() < 0.1 * len(dataset)
    assert 3 < dataset.num_boxes.mean() < 6
    landscape = dataset.widths > dataset.heights
    assert 0.5 < landscape.mean() < 0.9
    sides = np.sqrt(dataset.area[dataset.usable])
    assert np.percentile(sides, 10) < 20
    assert np.percentile(sides, 90) > 50


def test_every_image_can_be_read_and_holds_its_boxes(root):
    dataset = load_coco(*coco_paths(root, "val"))
    for index in range(len(dataset)):
        height, width, _ = dataset.read(index).shape
        boxes = dataset.corners(dataset.xywh[dataset.rows(index)])
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2] <= width - 1).all()
        assert (boxes[:, 3] <= height - 1).all()


def test_images_depend_on_split_and_number_alone():
    first, first_found = shapes.draw("train", 7)
    shapes.draw("train", 8)
    again, again_found = shapes.draw("train", 7)
    np.testing.assert_array_equal(first, again)
    assert first_found == again_found
    assert not np.array_equal(first, shapes.draw("val", 7)[0])


def test_boxes_are_tight_around_what_is_visible():
    canvas = shapes._Canvas(np.random.default_rng(0), (60, 80))
    below = np.zeros((60, 80), bool)
    below[10:30, 20:60] = True
    above = np.zeros((60, 80), bool)
    above[5:40, 55:70] = True
    record = {"category_id": 1, "iscrowd": 0, "ignore": 0}
    canvas._paint(below, record)
    assert canvas._fits(above)
    canvas._paint(above, record)
    found = [(a["bbox"], a["area"]) for a in canvas.annotations()]
    assert found == [([20, 10, 35, 20], 700), ([55, 5, 15, 35], 525)]
    below[10:30, 20:60] = True
    assert not canvas._fits(below)  # would hide all of the first


def test_outlines_fill_their_box():
    for kind, name in enumerate(SHAPES_CLASSES):
        mask = mask_of(kind, Pose(30.0, 20.0, 24.0, 15.0, 0.0), (41, 61))
        columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        assert abs(columns[0] - 6) <= 3, name
        assert abs(columns[-1] - 54) <= 3, name
        assert abs(rows[0] - 5) <= 2, name
        assert abs(rows[-1] - 35) <= 3, name


def test_a_second_call_takes_what_is_there(root, monkeypatch):
    monkeypatch.setenv("JAXDET_CACHE", str(root.parent))
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert shapes.make_shapes() == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_a_process_that_loses_the_race_takes_the_winner(root, monkeypatch, cache):
    monkeypatch.setattr(shapes, "NUM_IMAGES", {"train": 1, "val": 1})
    write = shapes._write_split

    def write_slowly(folder, split, count):
        write(folder, split, count)
        if split == "val":  # another process finishes first
            shutil.copytree(folder, cache / root.name)
            (cache / root.name / "winner").touch()

    monkeypatch.setattr(shapes, "_write_split", write_slowly)
    assert (shapes.make_shapes() / "winner").exists()
    assert [path.name for path in cache.iterdir()] == [root.name]


def test_nothing_is_left_of_a_failed_attempt(monkeypatch, cache):
    def fill_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shapes, "_write_split", fill_disk)
    with pytest.raises(InputError, match=r"shapes-\w+: cannot be written: No space left"):
        shapes.make_shapes()
    assert not cache.exists()


def test_a_cache_that_is_a_file_is_refused(cache):
    cache.touch()
    with pytest.raises(InputError, match="JAXDET_CACHE may name"):
        shapes.make_shapes()


def _make_shapes(_):
    return shapes.make_shapes()


@pytest.mark.slow
def test_two_processes_at_once_make_one_set(cache):
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        made = pool.map(_make_shapes, range(2))
    assert made[0] == made[1]
    assert list(cache.iterdir()) == [made[0]]
