import contextlib
import copy
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_json import change_anywhere
from PIL import Image

from jaxdet.data.coco import coco_paths, load_coco
from jaxdet.data.findings import Findings
from jaxdet.errors import InputError


def content():
    return {
        "images": [
            {"id": 30, "file_name": "b.jpg", "height": 40, "width": 60},
            {"id": 10, "file_name": "sub/a.jpg", "height": 50, "width": 20},
            {"id": 20, "file_name": "c.jpg", "height": 33, "width": 44},
        ],
        "annotations": [
            {"id": 1, "image_id": 10, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0},
            {"id": 2, "image_id": 30, "bbox": [5.5, 6.25, 10, 20], "area": 99.5, "iscrowd": 0},
            {"id": 3, "image_id": 10, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 1},
            {"id": 4, "image_id": 10, "bbox": [0, 0, 9, 9], "area": 81, "ignore": 1},
            {"id": 5, "image_id": 10, "bbox": [0, 0, 9, 9], "area": 0},
            {"id": 6, "image_id": 10, "bbox": [0, 0, 0.5, 9], "area": 4},
            {"id": 7, "image_id": 10, "bbox": [4, 4, 1, 1], "category_id": 7},
        ],
    }


@pytest.fixture
def load(tmp_path):
    """Writes a value or a text as annotation file and loads it."""

    def write_and_load(value):
        text = value if isinstance(value, (str, bytes)) else json.dumps(value)
        path = tmp_path / "instances.json"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return load_coco(path, tmp_path)

    return write_and_load


def test_images_are_in_the_order_of_their_ids(load, tmp_path):
    dataset = load(content())
    assert len(dataset) == 3
    assert dataset.image_ids.tolist() == [10, 20, 30]
    assert dataset.heights.tolist() == [50, 33, 40]
    assert dataset.widths.tolist() == [20, 44, 60]
    assert dataset.path_of(0) == tmp_path / "sub/a.jpg"


def test_boxes_become_inclusive_corners(load):
    dataset = load(content())
    np.testing.assert_array_equal(dataset.boxes_of(2), [[5.5, 6.25, 14.5, 25.25]])
    assert dataset.boxes_of(2).dtype == np.float32
    assert dataset.boxes_of(1).shape == (0, 4)


def test_training_uses_no_crowd_ignored_or_empty_box(load):
    dataset = load(content())
    np.testing.assert_array_equal(dataset.boxes_of(0), [[1, 2, 3, 5], [4, 4, 4, 4]])
    assert dataset.num_annotations.tolist() == [6, 0, 1]
    assert dataset.num_boxes.tolist() == [2, 0, 1]


def test_evaluation_sees_every_annotation(load):
    dataset = load(content())
    rows = dataset.rows(0)
    assert dataset.annotation_ids[rows].tolist() == [1, 3, 4, 5, 6, 7]
    assert dataset.iscrowd[rows].tolist() == [False, True, False, False, False, False]
    assert dataset.ignore[rows].tolist() == [False, False, True, False, False, False]
    # The last one has no area: it gets that of its box.
    assert dataset.area[rows].tolist() == [12, 81, 81, 0, 4, 1]
    np.testing.assert_array_equal(dataset.xywh[rows][0], [1, 2, 3, 4])
    np.testing.assert_array_equal(dataset.corners(dataset.xywh[rows])[4], [0, 0, -0.5, 8])


def test_outlines_are_skipped_whatever_their_form(load):
    plain, outlined = content(), content()
    forms = [[[1.5, 2, -3e-7, 4]], [], [[0, 0], [1, 2]], {"counts": [1, 2], "size": [5, 6]}]
    for form, annotation in zip(forms, outlined["annotations"], strict=False):
        annotation["segmentation"] = form
    outlined["images"][0]["caption"] = 'a "segmentation": [1, 2] in a text'
    by_record = copy.deepcopy(outlined)  # which the fast decoder refuses
    by_record["annotations"][0]["note"] = float("nan")
    for style in ({}, {"separators": (",", ":")}, {"indent": 1}, {"sort_keys": True}):
        for value in (outlined, by_record):
            np.testing.assert_array_equal(
                load(json.dumps(value, **style)).xywh, load(plain).xywh, strict=True
            )


def test_coco_paths_join_the_usual_names(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    path = tmp_path / "annotations/instances_val2017.json"
    path.write_text(json.dumps(content()))
    dataset = load_coco(*coco_paths(tmp_path, "val"))
    assert dataset.path_of(2) == tmp_path / "val2017/b.jpg"
    assert dataset.source == str(path)


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (("images",), ..., "missing required field `images`"),
        (("images",), {}, r"Expected `array`.*\$\.images"),
        (("images",), [], r"of length >= 1.*\$\.images"),
        (("images", 1), 5, r"images\[1\]: Expected `object`"),
        (("images", 1, "file_name"), ..., r"images\[1\] \(id 10\): .* field `file_name`"),
        (
            ("images", 1, "file_name"),
            "/etc/passwd",
            r"images\[1\] \(id 10\): file_name '/etc/passwd' is not a path inside",
        ),
        *(
            (
                ("images", 1, "file_name"),
                name,
                r"images\[1\] \(id 10\): file_name .* not a path inside",
            )
            for name in ("a/../../b.jpg", "..\\b.jpg", "C:b.jpg", "a\0.jpg", "\ud800.jpg")
        ),
        (("images", 1, "height"), "50", r"images\[1\] \(id 10\): Expected `int`.*\$\.height"),
        (("images", 1, "height"), True, r"images\[1\] \(id 10\): Expected `int`.*\$\.height"),
        (("images", 1, "width"), 0, r"images\[1\] \(id 10\): .* >= 1 .*\$\.width"),
        (("images", 1, "width"), 10**7, r"images\[1\] \(id 10\): .* <= 1000000 .*\$\.width"),
        (("images", 1, "width"), 10**30, r"images\[1\] \(id 10\): .* <= 1000000 .*\$\.width"),
        (("images", 1, "id"), 30, "image id 30 occurs more than once"),
        (("images", 1, "id"), "1O", r"images\[1\]: Expected `int`.*\$\.id"),
        (("annotations", 2, "id"), 1, "annotation id 1 occurs more than once"),
        (("annotations", 2, "image_id"), 11, "annotation 3 belongs to image 11"),
        (("annotations", 2, "image_id"), 99, "annotation 3 belongs to image 99"),
        (("annotations", 2, "bbox"), ..., r"annotations\[2\] \(id 3\): .* field `bbox`"),
        (("annotations", 2, "bbox"), [1, 2, 3], r"\(id 3\): .*of length 4.*\$\.bbox"),
        (("annotations", 2, "bbox"), [1, 2, 3, None], r"\(id 3\): .*`float`.*\$\.bbox\[3\]"),
        (("annotations", 2, "bbox"), "1234", r"\(id 3\): .*`array`.*\$\.bbox"),
        (("annotations", 2, "bbox", 1), float("nan"), r"\(id 3\): .*`float`.*\$\.bbox\[1\]"),
        (("annotations", 2, "bbox", 1), float("inf"), r"\(id 3\): .*`float`.*\$\.bbox\[1\]"),
        (("annotations", 2, "bbox", 1), 10**400, r"\(id 3\): .*out of range.*\$\.bbox\[1\]"),
        (("annotations", 2, "bbox", 1), 1e300, r"\(id 3\): .* <= 1000000.*\$\.bbox\[1\]"),
        (("annotations", 2, "bbox", 2), -1, r"\(id 3\): .* >= 0.*\$\.bbox\[2\]"),
        (("annotations", 2, "area"), float("nan"), r"\(id 3\): .*`float`.*\$\.area"),
        (("annotations", 2, "area"), "9", r"\(id 3\): .*`float.*\$\.area"),
        (("annotations", 2, "iscrowd"), "no", r"\(id 3\): .*`bool.*\$\.iscrowd"),
        (("annotations", 2, "ignore"), 0.5, r"\(id 3\): .*`bool.*\$\.ignore"),
    ],
)
def test_bad_content_is_one_line_that_names_the_item(load, where, value, said):
    broken = content()
    *path, last = where
    item = broken
    for key in path:
        item = item[key]
    if value is ...:
        del item[last]
    else:
        item[last] = value
    with pytest.raises(InputError, match=said) as error:
        load(broken)
    assert "instances.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_only_the_first_of_many_faults_is_shown(load):
    broken = content()
    for annotation in broken["annotations"]:
        annotation["image_id"] = 99
    with pytest.raises(
        InputError, match=r"annotation 1 belongs to image 99.* \(and 6 more like it\)"
    ):
        load(broken)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"\xff\xfe\x00", b"\x80\x81", b"[]", b"null", b'"images"', b"[" * 100_000],
    ids=["empty", "cut", "utf16", "bytes", "list", "null", "text", "deep"],
)
def test_what_is_not_coco_is_refused(load, text):
    with pytest.raises(InputError, match=r"instances.json: not a (JSON|COCO) file"):
        load(text)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.json: cannot be read: No such file"):
        load_coco(tmp_path / "none.json", tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        load_coco(tmp_path, tmp_path)
    path = tmp_path / "some.json"
    path.write_text(json.dumps(content()))
    with pytest.raises(InputError, match="elsewhere: no such folder"):
        load_coco(path, tmp_path / "elsewhere")


def ids(value):
    for record in (*value["images"], *value["annotations"]):
        record |= {k: str(v) for k, v in record.items() if k.endswith("id")}


def outlines(value):
    for record in value["annotations"]:
        x, y, w, h = record.pop("bbox")
        record["segmentation"] = [[x, y, x + w, y], [x + w, y + h, x, y + h]]


def each(name, **fields):
    def change(value):
        for record in value[name]:
            record |= fields

    return change


def renamed(start, slash="/"):
    def change(value):
        for record in value["images"]:
            record["file_name"] = start + record["file_name"].replace("/", slash)

    return change


def by_url(value):
    for record in value["images"]:
        record["coco_url"] = f"http://images.cocodataset.org/val2017/{record.pop('file_name')}"


def no_ids(value):
    for record in value["annotations"]:
        del record["id"]


def no_sides(value):
    for record in value["images"]:
        del record["width"]


@pytest.mark.parametrize(
    ("change", "said", "count"),
    [
        (ids, "ids as text", 24),
        (lambda value: value["images"][0].update(id=30.0), "ids as text", 1),
        (no_ids, "annotations without ids", 7),
        (outlines, "annotations without bbox", 7),
        (each("annotations", iscrowd=None), "annotations whose iscrowd is null", 7),
        (each("annotations", category_id=None), "annotations whose category_id is null", 7),
        (each("images", width=-1), "images without sides", 3),
        (no_sides, "images without sides", 3),
        (renamed("", "\\"), "file names with backslashes", 1),
        (renamed("images\\", "\\"), "file names with backslashes", 3),
        (renamed("data/train/"), "folders that are not there", 3),
        (renamed("/home/me/images/"), "folders that are not there", 3),
        (renamed("C:\\me\\"), "folders that are not there", 3),
        (by_url, "named by their coco_url", 3),
    ],
)
def test_clear_dialects_are_read_as_what_they_mean(load, tmp_path, caplog, change, said, count):
    """With a line that counts them; genuine COCO gets none."""
    genuine, other = content(), content()
    for value in (genuine, other):
        for record in value["annotations"]:  # what is null below has its default
            record |= {"iscrowd": 0, "category_id": 0, "area": 99}
        value["images"][1]["file_name"] = "sub/a.png" if change is not by_url else "a.png"
    change(other)
    (tmp_path / "sub").mkdir()
    for record in genuine["images"]:
        path = tmp_path / record["file_name"]
        Image.new("RGB", (record["width"], record["height"])).save(path, "PNG")
    wanted = load(genuine)
    assert caplog.messages == []
    found = load(other)
    (line,) = caplog.messages
    assert f"instances.json: {count} " in line
    assert said in line
    assert found.summary == wanted.summary
    assert found.file_names == wanted.file_names
    assert found.annotation_ids.tolist() == wanted.annotation_ids.tolist()


@pytest.mark.parametrize("name", ["/etc/passwd", "..\\secret.png", "../secret.png"])
def test_names_that_lead_out_are_mended_by_no_file_out_there(load, tmp_path, name):
    (tmp_path.parent / "secret.png").write_bytes(b"")
    value = content()
    value["images"][1]["file_name"] = name
    with pytest.raises(InputError, match="is not a path inside the image folder"):
        load(value)


@pytest.mark.parametrize("name", ["a//etc/hostname", "a", "a/../b.png"])
def test_a_name_without_its_folder_must_be_one_too(load, tmp_path, name):
    (tmp_path / "1.png").write_bytes(b"")
    value = content()
    value["images"][0]["file_name"], value["images"][1]["file_name"] = "a/1.png", name
    inside = ".." not in name
    refused = pytest.raises(InputError, match="is not a path inside the image folder")
    with contextlib.nullcontext() if inside else refused:
        assert name in load(value).file_names


def test_a_file_without_annotations_has_images(load):
    value = content()
    del value["annotations"]
    assert load(value).num_annotations.tolist() == [0, 0, 0]


@settings(max_examples=300)
@given(st.data())
def test_any_json_loads_or_is_refused(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    value = content()
    change_anywhere(value, data)
    path = folder / "fuzz.json"
    path.write_text(json.dumps(value))
    try:
        dataset = load_coco(path, folder)
    except InputError as error:
        said = str(error)
    else:
        said = ""
        for index in range(len(dataset)):
            assert np.isfinite(dataset.boxes_of(index)).all()
    assert "\n" not in said


@given(st.binary(max_size=50))
def test_any_bytes_are_refused(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp()
    (folder / "bytes.json").write_bytes(text)
    with pytest.raises(InputError):
        load_coco(folder / "bytes.json", folder)


def test_an_image_has_no_more_annotations_than_memory(load, tmp_path):
    value = content()
    value["annotations"] = [{"id": i, "image_id": 20, "bbox": [0, 0, 9, 9]} for i in range(5002)]
    with pytest.raises(InputError, match=r"image 20 has over 5000 annotations .* tiles"):
        load(value)
    findings = Findings()
    assert len(load_coco(tmp_path / "instances.json", tmp_path, findings).xywh) == 5000
    assert findings.faults["images with over 5000 annotations"]["count"] == 1
