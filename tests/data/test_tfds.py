import json
import sys
from collections.abc import Sequence
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from jaxdet.data.coco import load_coco
from jaxdet.data.tfds import boxes_in_pixels, load_tfds
from jaxdet.errors import InputError

IMAGES = [(9, 33, 47), (4, 50, 64), (7, 40, 21)]  # id, height, width
BOXES = {9: [[1.23, 4.56, 20.01, 10.1], [0, 0, 47, 33]], 7: [[3, 4, 5, 6]]}


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """The set as COCO keeps it."""
    root = tmp_path_factory.mktemp("coco")
    annotations = []
    for number, height, width in IMAGES:
        image = np.full((height, width, 3), 20 * number, np.uint8)
        (root / f"{number}.jpg").write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
        for box in BOXES.get(number, []):
            annotations.append(
                {
                    "id": len(annotations) + 50,
                    "image_id": number,
                    "bbox": box,
                    "area": 40,
                    "iscrowd": int(box[0] == 0),
                }
            )
    images = [{"id": i, "height": h, "width": w, "file_name": f"{i}.jpg"} for i, h, w in IMAGES]
    path = root / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return load_coco(path, root)


class Records(Sequence):
    """The same as TFDS gives it: another order, boxes as float32 fractions."""

    def __init__(self, coco):
        self.coco = coco
        self.reads = 0

    def __len__(self):
        return len(self.coco)

    def __getitem__(self, position):
        self.reads += 1
        index = len(self) - 1 - position
        rows = self.coco.rows(index)
        height, width = float(self.coco.heights[index]), float(self.coco.widths[index])
        x, y, w, h = self.coco.xywh[rows].T
        fractions = np.stack([y / height, x / width, (y + h) / height, (x + w) / width], -1)
        count = len(x)
        return {
            "image": self.coco.path_of(index).read_bytes(),
            "image/filename": self.coco.file_names[index].encode(),
            "image/id": int(self.coco.image_ids[index]),
            "objects": {
                "area": list(self.coco.area[rows].astype(np.int64)),
                "bbox": list(fractions.astype(np.float32)),
                "id": list(self.coco.annotation_ids[rows]),
                "is_crowd": list(self.coco.iscrowd[rows]),
                "label": [position] * count,
            },
        }


@pytest.fixture
def records(coco, monkeypatch, tmp_path):
    """A stand-in for tensorflow_datasets with a prepared folder at tmp_path."""
    records = Records(coco)
    folder = tmp_path / "coco/2017/1.1.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")

    def builder_from_directory(path):
        assert path == folder

        def as_data_source(split, decoders):
            assert split == "validation"
            assert decoders == {"image": "as stored"}
            return records

        features = {"objects": {"label": SimpleNamespace(names=["person", "dog"])}}
        info = SimpleNamespace(features=features)
        return SimpleNamespace(as_data_source=as_data_source, info=info)

    module = SimpleNamespace(
        builder_from_directory=builder_from_directory,
        decode=SimpleNamespace(SkipDecoding=lambda: "as stored"),
    )
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", module)
    monkeypatch.setenv("JAXDET_CACHE", str(tmp_path / "cache"))
    return records


def assert_equals_coco(dataset, coco):
    assert dataset.file_names == coco.file_names
    for field in (
        *("image_ids", "heights", "widths", "offsets", "annotation_ids", "xywh", "area"),
        *("iscrowd", "ignore", "usable"),
    ):
        np.testing.assert_array_equal(getattr(dataset, field), getattr(coco, field), strict=True)
    for index in range(len(coco)):
        np.testing.assert_array_equal(dataset.read(index), coco.read(index))


def test_records_equal_those_of_the_coco_directory(records, coco, tmp_path):
    assert_equals_coco(load_tfds("val", tmp_path), coco)


def test_categories_are_positions_among_the_names_of_the_set(records, tmp_path):
    """The images with boxes are the first record and the second."""
    dataset = load_tfds("val", tmp_path, ("dog", "cat", "person"))
    assert dataset.class_ids.tolist() == [1, 3, 0]
    assert dataset.labels.tolist() == [0, 2, 2]
    with pytest.raises(InputError, match=r"of category 1, 'dog', which config"):
        load_tfds("val", tmp_path, ("person", "unicorn"))


def test_the_second_time_no_record_is_read(records, coco, tmp_path):
    load_tfds("val", tmp_path)
    assert records.reads == 3
    dataset = load_tfds("val", tmp_path)
    assert records.reads == 3
    assert_equals_coco(dataset, coco)


def test_a_damaged_cache_is_made_anew_and_an_unwritable_one_named(records, coco, tmp_path):
    load_tfds("val", tmp_path)
    (cached,) = (tmp_path / "cache").iterdir()
    for length in (0, 100, 2000):
        cached.write_bytes(cached.read_bytes()[:length])
        assert_equals_coco(load_tfds("val", tmp_path), coco)
    assert records.reads == 7 * 3  # by each of four loads, and by the comparisons
    cached.unlink()
    cached.parent.rmdir()
    cached.parent.touch()
    with pytest.raises(InputError, match="cache: cannot be made"):
        load_tfds("val", tmp_path)


def test_boxes_are_restored_to_a_hundredth_of_a_pixel():
    rng = np.random.default_rng(0)
    width, height = 640, 427
    x, y = np.round(rng.uniform(0, 300, (2, 500)), 2)
    w, h = np.round(rng.uniform(0.01, 120, (2, 500)), 2)
    fractions = np.stack([y / height, x / width, (y + h) / height, (x + w) / width], axis=-1)
    stored = fractions.astype(np.float32).astype(np.float64)
    restored = boxes_in_pixels(stored, (height, width))
    np.testing.assert_array_equal(restored, np.stack([x, y, w, h], axis=-1))


def test_what_is_missing_is_said(records, monkeypatch, tmp_path):
    with pytest.raises(InputError, match="elsewhere/coco/2017: no prepared data set there"):
        load_tfds("val", tmp_path / "elsewhere")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(InputError, match="needs tensorflow-datasets; pip install"):
        load_tfds("val", tmp_path)


def test_a_format_without_random_access_is_refused(records, monkeypatch, tmp_path):
    def as_data_source(**_):
        raise NotImplementedError("Random access is not supported.\nPossible causes: ...")

    module = sys.modules["tensorflow_datasets"]
    builder = SimpleNamespace(as_data_source=as_data_source)
    monkeypatch.setattr(module, "builder_from_directory", lambda _: builder)
    with pytest.raises(InputError, match=r"1\.1\.0: Random access is not supported\.$"):
        load_tfds("val", tmp_path)
