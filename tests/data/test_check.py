"""Every fault once, and nothing else; the loader's rules are those of the loader."""

import copy
import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_json import change_anywhere
from tiny_coco import write_coco

from jaxdet.config import Config, DataConfig
from jaxdet.data.check import (
    boxes_as_trained,
    check_annotations,
    check_images,
    check_training,
    fitting_scales,
)
from jaxdet.data.coco import coco_paths, load_coco
from jaxdet.data.findings import MAX_LINES, Findings
from jaxdet.data.image import resize_boxes, resized_size
from jaxdet.data.sampler import Sampler
from jaxdet.data.tfds import TfdsDataset
from jaxdet.errors import InputError

SCALE = (64, 64)


def annotation(number, image, bbox=(4, 5, 20, 16), **others):
    return {"id": number, "image_id": image, "category_id": 1, "bbox": list(bbox), **others}


def image(number, name="0.png", height=48, width=64):
    return {"id": number, "file_name": name, "height": height, "width": width}


@pytest.fixture
def root(tmp_path):
    return write_coco(tmp_path / "coco")


def edit(root, images=(), annotations=(), **lists):
    """Adds to the training split's file."""
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    content["images"] += images
    content["annotations"] += annotations
    path.write_text(json.dumps(content | lists))


def check(root, keep_empty=False):
    """All findings of the training split: {what: lines}, faults and warnings."""
    findings = Findings()
    dataset = load_coco(*coco_paths(root, "train"), findings)
    check_images(dataset, findings)
    check_annotations(dataset, findings)
    check_training(dataset, findings, DataConfig(image_scale=SCALE, keep_empty=keep_empty), 4)
    return dataset, lines_of(findings.faults), lines_of(findings.warnings)


def lines_of(kinds):
    for what, kind in kinds.items():
        assert kind["what"] == what
        assert kind["count"] == len(kind["examples"])
        assert not any("\n" in line for line in kind["examples"])
    return {what: kind["examples"] for what, kind in kinds.items()}


def test_a_clean_set_has_neither_faults_nor_warnings(root):
    _, faults, warnings = check(root)
    assert faults == warnings == {}


MALFORMED = ("malformed images", "malformed annotations")


def test_faults_of_the_annotation_file_are_all_told_once(root):
    edit(
        root,
        images=[
            image(1, "1.png"),
            image(10, "../0.png"),
            image(11, "/etc/passwd"),
            image(12, height=0),
            image(13, width=10**30),
            {"id": 14, "height": 48, "width": 64},
            "no image",
        ],
        annotations=[
            annotation(1, 1),
            annotation(100, 999),
            annotation(101, 1, [1, 2, -3, 4]),
            annotation(102, 1, [1, 2, float("nan"), 4]),
            annotation(103, 1, [1, 2, 3]),
            annotation(104, 1, [1, 2, 3, 10**400]),
            annotation(105, 1, area=float("inf")),
            annotation(106, 1, iscrowd="no"),
            annotation("x107", 1),
            annotation(108, 10),  # of an image that is left out: not a fault of its own
            5,
        ],
    )
    dataset, faults, warnings = check(root)
    assert len(dataset) == 6
    assert len(dataset.area) == 9
    assert warnings == {}
    assert {
        what: [line[: line.index(": ")] for line in faults.pop(what)] for what in MALFORMED
    } == {
        "malformed images": [
            "images[7] (id 10)",
            "images[8] (id 11)",
            "images[9] (id 12)",
            "images[10] (id 13)",
            "images[11] (id 14)",
            "images[12]",
        ],
        "malformed annotations": [
            *(f"annotations[{i - 90}] (id {i})" for i in range(101, 107)),
            "annotations[17]",
            "annotations[19]",
        ],
    }
    assert faults == {
        "repeated image ids": ["image id 1 occurs more than once"],
        "repeated annotation ids": ["annotation id 1 occurs more than once"],
        "annotations of unknown images": [
            "annotation 100 belongs to image 999, which is not in 'images'"
        ],
    }


def test_faults_of_images(root):
    folder = root / "train2017"
    (folder / "0.png").unlink()
    (folder / "1.png").write_text("no image")
    data = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(data[: len(data) // 2])
    image = cv2.imencode(".jpg", np.zeros((64, 48, 3), np.uint8))[1].tobytes()
    (folder / "3.png").write_bytes(image)
    (folder / "4.png").unlink()
    (folder / "4.png").mkdir()
    image = cv2.imencode(".jpg", np.zeros((48, 64, 3), np.uint8))[1].tobytes()
    (folder / "5.png").write_bytes(image[:-9])
    _, faults, warnings = check(root)
    assert warnings == {}
    said = {what: [line.split(": ")[:2] for line in lines] for what, lines in faults.items()}
    assert said == {
        "unreadable images": [[f"image {i + 1}", f"{folder}/{i}.png"] for i in range(6)],
    }


def test_progress_counts_every_image(root, monkeypatch):
    # Threads need no semaphore of the system's, which a read-only /dev/shm has no place for.
    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", None)
    seen = []
    dataset = load_coco(*coco_paths(root, "train"))
    check_images(dataset, Findings(), seen.append)
    assert seen == [1, 2, 3, 4, 5, 6]


def test_images_in_tfds_are_decoded_too(root):
    dataset = load_coco(*coco_paths(root, "train"))
    records = [{"image": dataset.path_of(i).read_bytes()} for i in range(6)]
    records[3]["image"] = records[3]["image"][:-30]
    findings = Findings()
    same = {name: getattr(dataset, name) for name in dataset.__dataclass_fields__}
    tfds = TfdsDataset(**same | {"source": "tfds"}, records=records, positions=np.arange(6)[::-1])
    check_images(tfds, findings)
    assert lines_of(findings.faults) == {
        "unreadable images": [
            "image 3: tfds: 2.png: image cannot be decoded; it is damaged or cut off"
        ]
    }


@pytest.mark.parametrize(
    ("bbox", "is_fault"),
    [
        ([0, 0, 64, 48], False),
        ([64, 10, 8, 8], True),
        ([-8, 10, 7, 8], True),
        ([10, 30, 8, 40], True),
        ([10, 30, 8, 36], False),
        ([-2, 10, 30, 8], False),
    ],
)
def test_boxes_outside_their_image(root, bbox, is_fault):
    edit(root, annotations=[annotation(50, 2, bbox)])
    _, faults, warnings = check(root)
    line = (
        f"annotation 50 of image 2 (1.png, 64 x 48): bbox [{', '.join(map(str, bbox))}], "
        f"area {bbox[2] * bbox[3]:g}"
    )
    assert faults == ({"boxes mostly outside their image": [line]} if is_fault else {})
    assert warnings == {}


def test_degenerate_boxes_crowds_and_ignored_ones(root):
    extra = [
        annotation(50, 2, [1, 2, 0, 5]),
        annotation(51, 2, [1, 2, 5, 0.5]),
        annotation(52, 2, area=0),
        annotation(53, 2, [1, 2, 5, 0.5], iscrowd=1),
        annotation(54, 2, ignore=1),
        annotation(55, 2, ignore=1, iscrowd=1),
    ]
    edit(root, annotations=extra)
    dataset, faults, warnings = check(root)
    assert faults == {}
    (lines,) = warnings.values()
    assert [line.split(" of ")[0] for line in lines] == [f"annotation {i}" for i in (50, 51, 52)]
    assert lines[2].endswith("bbox [4, 5, 20, 16], area 0")
    assert dataset.usable.sum() == 9


@pytest.mark.parametrize("categories", [{}, None, [], [None], [{"id": 2**62}, {"id": -(2**62)}]])
def test_categories_do_no_harm(root, categories):
    edit(root, categories=categories)
    assert check(root)[1:] == ({}, {})


def test_images_that_share_a_file(root):
    edit(root, images=[image(9, "3.png")], annotations=[annotation(50, 9)])
    _, faults, warnings = check(root)
    assert faults == {}
    assert warnings == {"images that share a file": ["image 9 has the file of image 4, 3.png"]}


def dropping_set(root):
    """The six images and one for each reason not to train on it."""
    for name, size in (("tall", (64, 48)), ("thin", (31, 64)), ("plain", (48, 64))):
        cv2.imwrite(str(root / "train2017" / f"{name}.png"), np.zeros((*size, 3), np.uint8))
    edit(
        root,
        images=[
            image(20, "thin.png", 31, 64),
            image(21, "plain.png"),
            image(22, "tall.png", 64, 48),
        ],
        annotations=[annotation(50, 20), annotation(51, 22, iscrowd=1)],
    )
    for i in range(2):
        cv2.imwrite(str(root / "train2017" / f"crowd{i}.png"), np.zeros((48, 64, 3), np.uint8))
        edit(
            root,
            images=[image(30 + i, f"crowd{i}.png")],
            annotations=[annotation(60 + i, 30 + i, iscrowd=1)],
        )


def test_dropped_images_and_why(root):
    dropping_set(root)
    _, faults, warnings = check(root)
    assert faults == {}
    assert {what.split(":")[0]: lines for what, lines in warnings.items()} == {
        "images with a side under 32 pixels": ["image 20 (thin.png)"],
        "images without annotations": ["image 21 (plain.png)"],
        "images with only crowds, ignored or degenerate boxes": [
            "image 30 (crowd0.png)",
            "image 31 (crowd1.png)",
        ],
        "images of an orientation in which none has a box to train on": ["image 22 (tall.png)"],
    }
    _, faults, warnings = check(root, keep_empty=True)
    assert faults == {}
    assert list(warnings.values()) == [["image 20 (thin.png)"]]


@pytest.mark.parametrize("keep_empty", [False, True])
def test_the_plan_is_what_the_schedule_does(root, keep_empty):
    dropping_set(root)
    dataset = load_coco(*coco_paths(root, "train"))
    data = DataConfig(image_scale=SCALE, keep_empty=keep_empty)
    findings = Findings()
    plan = check_training(dataset, findings, data, 4)
    sampler = Sampler(dataset, data, global_batch=4, seed=0)
    visited = np.concatenate([sampler[i][0] for i in range(sampler.steps_per_epoch)])
    assert plan["images"] == len(set(visited.tolist()))
    left_out = sum(kind["count"] for kind in findings.warnings.values())
    assert plan["images"] + left_out == len(dataset)
    assert plan["steps_per_epoch"] == sampler.steps_per_epoch
    assert plan["global_batch"] == 4


def test_nothing_to_train_on_is_a_fault(root):
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"annotations": []}))
    dataset, faults, warnings = check(root)
    assert list(faults) == ["nothing to train on"]
    assert len(warnings["images without annotations: not trained on"]) == 6
    assert boxes_as_trained(dataset, DataConfig(image_scale=SCALE))[0].shape == (0, 4)


def test_no_sound_image_at_all(root):
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    for each in content["images"]:
        each["height"] = 0
    path.write_text(json.dumps(content))
    dataset, faults, _ = check(root)
    assert len(dataset) == 0
    assert set(faults) == {"malformed images", "nothing to train on"}
    assert boxes_as_trained(dataset, DataConfig(image_scale=SCALE))[0].shape == (0, 4)


def test_boxes_are_those_of_the_loader(root):
    rng = np.random.default_rng(0)
    extra = [annotation(100 + i, 1 + i % 6, rng.uniform(0, 50, 4).round(2)) for i in range(60)]
    extra.append(annotation(99, 3, iscrowd=1))
    edit(root, annotations=extra)
    dataset, data = load_coco(*coco_paths(root, "train")), DataConfig(image_scale=(133, 80))
    boxes, sizes = boxes_as_trained(dataset, data)
    expected = []
    for i in range(6):
        (height, width), f = resized_size((48, 64), data)
        expected.append(resize_boxes(dataset.boxes_of(i), f, (height, width)))
    np.testing.assert_array_equal(boxes, np.concatenate(expected), strict=True)
    assert (sizes == (height, width)).all()


def test_only_so_many_lines_are_kept_but_all_are_counted():
    findings = Findings()
    for _ in range(2):
        findings.add("bad things", np.ones(MAX_LINES - 20, bool))
    findings.add("nothing", [])
    (kind,) = findings.faults.values()
    assert kind["count"] == 2 * (MAX_LINES - 20)
    assert len(kind["examples"]) == MAX_LINES
    assert kind["examples"][-1] == "19"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("shared"))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_what_loads_has_no_fault_and_what_is_refused_has_one(shared, data):
    """The check and the loader agree on any file; the check survives what it finds."""
    path = shared / "annotations" / "instances_train2017.json"
    value = copy.deepcopy(json.loads(path.read_text()))
    change_anywhere(value, data)
    fuzzed = shared / "fuzz.json"
    fuzzed.write_text(json.dumps(value))
    findings = Findings()
    try:
        strict = load_coco(fuzzed, shared / "train2017")
    except InputError:
        strict = None
    try:
        collected = load_coco(fuzzed, shared / "train2017", findings)
    except InputError:
        assert strict is None
        return
    assert (strict is None) == bool(findings.faults)
    if strict is not None:
        for name in strict.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(strict, name), getattr(collected, name))
    check_annotations(collected, findings)
    check_training(collected, findings, DataConfig(image_scale=SCALE), 4)
    boxes, _ = boxes_as_trained(collected, DataConfig(image_scale=SCALE))
    assert np.isfinite(boxes).all()


def test_12_bit_data_in_16_bits_are_told(root):
    """What is read of them are the upper eight bits, which hold four of the twelve."""
    dark = np.random.default_rng(0).integers(0, 4096, (48, 64, 3), np.uint16)
    cv2.imwrite(str(root / "train2017" / "3.png"), dark)
    _, faults, warnings = check(root)
    (lines,) = warnings.values()
    assert (faults, lines) == ({}, [f"image 4: {root}/train2017/3.png"])


@pytest.mark.parametrize(("side", "scales"), [(4, []), (6, [1.0]), (10, [2.0]), (46, [11.2])])
def test_scales_that_fit_are_proposed(root, side, scales):
    """Of squares: anchors have scales of 4, 8, ... pixels, and 32 covers (32 / 46)^2 = 0.48."""
    boxes = [annotation(i + 1, 1 + i % 6, (1, 1, side, side)) for i in range(30)]
    path = root / "annotations" / "instances_train2017.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": boxes}))
    config = Config(data=DataConfig(image_scale=(64, 48)))
    found = fitting_scales(load_coco(*coco_paths(root, "train")), config)
    assert found == (scales, float(len(scales)))
