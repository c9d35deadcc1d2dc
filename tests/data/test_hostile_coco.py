"""A valid COCO file changed anywhere loads with sane arrays, or is one line that names the file."""

import contextlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limited import read_each

from jaxdet.config import DataConfig
from jaxdet.data.coco import load_coco
from jaxdet.data.image import resize_boxes, resized_size
from jaxdet.data.images import Stored
from jaxdet.errors import InputError

CAT = {"category_id": 3}
VALID = {
    "info": {"year": 2017},
    "images": [
        {"id": 30, "file_name": "b.jpg", "height": 40, "width": 60},
        {"id": 10, "file_name": "sub/a.jpg", "height": 50, "width": 20},
    ],
    "annotations": [
        {"id": 1, "image_id": 10, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0, **CAT},
        {"id": 2, "image_id": 30, "bbox": [5.5, 6.25, 10, 20], "ignore": 1, **CAT},
        {"id": 3, "image_id": 10, "bbox": [0, 0, 9, 9], **CAT},
    ],
    "categories": [{"id": 3, "name": "cat"}],
}
OUTLINES = (
    [[0, 0, 9, 9, 0, 9.5], [1, 1, 2, 1, 2, 2]],
    {"size": [40, 60], "counts": [5, 7, 2388]},
    {"size": [50, 20], "counts": "57ln0"},
)
for _annotation, _outline in zip(VALID["annotations"], OUTLINES, strict=True):
    _annotation["segmentation"] = _outline
TEXT = json.dumps(VALID)

# As JSON text, so that literals no Python value gives are among them.
NUMBERS = [
    *("NaN", "Infinity", "-Infinity", "1e308", "-1e308", "1e400", "1" + 400 * "0", "9" * 5000),
    *(str(2**70), str(2**63), str(2**63 - 1), str(-(2**63)), str(2**53 + 1), "-0.0", "5e-324"),
    *("1e6", "1000001", "0", "-1", "0.5", "1.0"),
]
STRINGS = [
    *("", ".", "..", "/etc/passwd", "../x.jpg", "a/../../x", "C:\\\\x", "\\\\\\\\host\\\\x", "~/x"),
    *("a\\u0000b", "a\\nb", "a\\u001b[2J", "a\\u0085b", "a\\u2028b", "\\ud800", "\\u202egpj.x"),
    *("ä漢字🙂.jpg", "x" * 5000, "10", "NaN"),
]
VALUES = st.sampled_from(
    [
        *NUMBERS,
        *(f'"{text}"' for text in STRINGS),
        *("null", "true", "false", "[]", "{}", "[[]]", '{"id": 1}', "[1, 2, 3]", "[1, 2, 3, NaN]"),
        *("[1e308, 1e308, 1e308, 1e308]", "[999999, 999999, 1000000, 1000000]"),
        *("[-5, -5, 1000, 1000]", "[70, 70, 5, 5]", "[0, 0, 0, 0]", "[" * 60 + "]" * 60),
    ]
)


def places(value, path=()):
    """The path of every value within."""
    yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*path, key))


PLACES = [path for path in places(VALID) if path]


@st.composite
def documents(draw):
    """The valid one with some values replaced, left out, or there twice."""
    content = json.loads(TEXT)
    stand_ins = []
    for path in draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=3)):
        item = content
        try:
            for key in path[:-1]:
                item = item[key]
            action = draw(st.integers(0, 9))
            if action == 0:
                del item[path[-1]]
            elif action == 1 and isinstance(item, list):
                item.insert(path[-1], item[path[-1]])
            else:
                stand_ins.append(draw(VALUES))
                item[path[-1]] = f"@{len(stand_ins) - 1}@"
        except (KeyError, IndexError, TypeError):  # an earlier change took the place away
            continue
    text = json.dumps(content, ensure_ascii=False)
    for number, value in enumerate(stand_ins):
        text = text.replace(f'"@{number}@"', value)
    return text.encode()


@st.composite
def damaged_bytes(draw):
    """The valid text with a piece cut out, doubled, or replaced by any bytes."""
    data = TEXT.encode()
    start, end = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
    middle = draw(st.sampled_from([b"", data[start:end] * 2]) | st.binary(max_size=8))
    return draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf"])) + data[:start] + middle + data[end:]


def check(folder, data: bytes) -> None:
    path = folder / "hostile.json"
    path.write_bytes(data)
    load_both_ways(path, folder)


def read(path) -> None:
    """Called in the child that `limited` starts."""
    load_both_ways(Path(path), Path(path).parents[1])


def load_both_ways(path, folder) -> None:
    with one_line(path):
        check_boxes(load_coco(path, folder), folder)
    with one_line(path):
        dataset = load_coco(path, folder, class_names=("dog", "cat"), masks=True)
        assert (dataset.labels == 1).all()
        for index in range(len(dataset)):
            rows, size = dataset.rows(index), (dataset.heights[index], dataset.widths[index])
            assert all(dataset.bitmap(i).shape == size for i in range(rows.start, rows.stop))
            masks = list(dataset.masks_of(index))
            assert len(masks) == len(dataset.boxes_of(index))
            assert all(mask.max() <= 1 for mask in masks)


@contextlib.contextmanager
def one_line(path):
    try:
        yield
    except InputError as error:
        line = str(error)
        assert line.startswith(f"{path}: ")
        assert line.splitlines() == [line]
        assert len(line) <= 1200


def check_boxes(dataset, folder) -> None:
    assert dataset.image_ids.dtype == dataset.annotation_ids.dtype == np.int64
    assert (np.diff(dataset.image_ids) > 0).all()
    assert np.isfinite(dataset.xywh).all()
    assert np.isfinite(dataset.area).all()
    for index in range(len(dataset)):
        assert os.path.normpath(dataset.path_of(index)).startswith(f"{folder}{os.sep}")
        image = int(dataset.heights[index]), int(dataset.widths[index])
        size, f = resized_size(image, DataConfig())
        boxes = resize_boxes(dataset.boxes_of(index), f, size)
        last = np.array([size[1] - 1, size[0] - 1] * 2)
        assert ((boxes >= 0) & (boxes <= last)).all()  # false for NaN
        assert (boxes[:, 2:] >= boxes[:, :2]).all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("coco")


def test_the_unchanged_file_loads(folder):
    (folder / "valid.json").write_text(TEXT)
    dataset = load_coco(folder / "valid.json", folder, class_names=("dog", "cat"), masks=True)
    assert [len(list(dataset.masks_of(index))) for index in range(2)] == [2, 0]  # one is ignored
    assert dataset.num_annotations.tolist() == [2, 1]


@pytest.mark.parametrize("documents", [documents(), damaged_bytes()], ids=["values", "bytes"])
def test_a_changed_file_loads_sanely_or_is_refused(folder, documents):
    settings(max_examples=300, deadline=None)(given(documents)(lambda data: check(folder, data)))()


@pytest.mark.slow
@pytest.mark.parametrize("documents", [documents(), damaged_bytes()], ids=["values", "bytes"])
def test_many_changed_files_load_sanely_or_are_refused_within_limits(tmp_path, documents):
    cases = []
    settings(max_examples=10_000, deadline=None)(
        given(documents)(lambda case: cases.append(case))
    )()
    assert len(cases) > 9000
    read_each("test_hostile_coco:read", TEXT.encode(), cases, tmp_path)


@pytest.mark.parametrize("value", NUMBERS + [f'"{text}"' for text in STRINGS])
def test_each_hostile_value_in_each_place(folder, value):
    for path in PLACES:
        content = json.loads(TEXT)
        item = content
        for key in path[:-1]:
            item = item[key]
        item[path[-1]] = "@"
        check(folder, json.dumps(content).replace('"@"', value).encode())


def test_pipes_and_bombs_of_brackets_are_refused_at_once(folder):
    os.mkfifo(folder / "pipe.json")
    with pytest.raises(InputError, match="not a regular file"):
        load_coco(folder / "pipe.json", folder)
    for data in (b"[" * 10**6, b'{"a":' * 10**6, TEXT.encode()[:-1] + b"," + b'"x":[' * 10**5):
        check(folder, data)


def test_links_that_leave_the_image_folder_are_refused(tmp_path):
    """A folder that is itself a link, and links within, are fine; so are a user's own images."""
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    pixel = b"BM:\0\0\0\0\0\0\x006\0\0\0(\0\0\0\1\0\0\0\1\0\0\0\1\0\x18\0" + bytes(24) + b"\1\2\3\0"
    (outside / "real.bmp").write_bytes(pixel)
    (inside / "own.bmp").write_bytes(pixel)
    (inside / "a.bmp").symlink_to(outside / "real.bmp")
    (inside / "b.bmp").symlink_to("own.bmp")
    (inside / "c.bmp").symlink_to("c.bmp")
    (tmp_path / "link").symlink_to(inside)
    images = [
        {"id": i, "file_name": f"{name}.bmp", "height": 1, "width": 1}
        for i, name in enumerate("abc")
    ]
    path = tmp_path / "coco.json"
    path.write_text(json.dumps({"images": images, "annotations": []}))
    for image_dir in (inside, tmp_path / "link"):
        dataset = load_coco(path, image_dir)
        with pytest.raises(InputError, match=r"a\.bmp: a link out of"):
            dataset.read(0)
        assert dataset.read(1).tolist() == [[[3, 2, 1]]]
        with pytest.raises(InputError, match=r"c\.bmp"):
            dataset.read(2)
    assert Stored(str(inside / "a.bmp")).read().tolist() == [[[3, 2, 1]]]
