"""The hook for augmentation: what it is given, what it may return, and what ends a run."""

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from jaxdet.config import DataConfig, load_file, parse
from jaxdet.data.coco import load_coco
from jaxdet.data.pipeline import train_batches
from jaxdet.errors import InputError

SIZES = {5: (48, 64), 6: (64, 48), 7: (40, 60)}
HEAD = "import numpy as np\ndef augment(image, boxes, labels, masks, rng):\n    "
NOISE = "return image + rng.integers(0, 50, 3, np.uint8), boxes, labels, masks"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Images of a white object on noise, whose outline is its box; one box leaves its image."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    images, rows = [], []
    for i, (height, width) in SIZES.items():
        image = rng.integers(0, 200, (height, width, 3), np.uint8)
        image[8:30, 6:26] = 255
        cv2.imwrite(str(root / f"{i}.png"), image)
        images.append({"id": i, "file_name": f"{i}.png", "height": height, "width": width})
        for box, label in (([6, 8, 20, 22], 1), ([30.5, -2, 14.25, 30], 2)):
            x, y, w, h = box
            outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            rows.append(
                {
                    "id": len(rows) + 1,
                    "image_id": i,
                    "bbox": box,
                    "area": w * h,
                    "category_id": label,
                    "iscrowd": 0,
                    "segmentation": outline,
                }
            )
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    content = {"images": images, "annotations": rows, "categories": categories}
    (root / "a.json").write_text(json.dumps(content))
    return load_coco(root / "a.json", root, class_names=("a", "b"), masks=True)


def batches(dataset, augment="", **changes):
    data = DataConfig(image_scale=(96, 64), num_workers=0, flip=0.0, augment=augment)
    data = dataclasses.replace(data, **changes)
    with train_batches(dataset, data, global_batch=1, seed=3, num_steps=6) as loader:
        return [element.batch for element in loader]


def written(tmp_path: Path, body: str, head: str = HEAD) -> str:
    """The name of a function that a file of its own holds."""
    (tmp_path / "own.py").write_text(head + body)
    return f"{tmp_path / 'own.py'}:augment"


def same(ours, theirs) -> None:
    for batch, other in zip(ours, theirs, strict=True):
        for name, x in batch._asdict().items():
            if x is not None:
                np.testing.assert_array_equal(x, getattr(other, name), name)


def test_what_it_returns_as_it_came_changes_nothing_but_boxes_that_leave_the_image(
    dataset, tmp_path
):
    name = written(tmp_path, "return image, boxes, labels, masks")
    for plain, batch in zip(batches(dataset), batches(dataset, name), strict=True):
        same([plain._replace(boxes=batch.boxes)], [batch])
        np.testing.assert_allclose(batch.boxes, plain.boxes, rtol=0, atol=1e-5)


def test_a_mirror_image_by_hand_is_the_one_that_flip_makes(dataset, tmp_path):
    """Image, boxes and masks, in whichever convention the data set has its boxes."""
    body = (
        "w = image.shape[1]\n"
        "    boxes = np.stack([w - boxes[:, 2], boxes[:, 1], w - boxes[:, 0], boxes[:, 3]], 1)\n"
        "    return image[:, ::-1], boxes, labels, masks[:, :, ::-1]"
    )
    unscaled = {"image_scale": (64, 48)}  # else pixels are mirrored before they are mixed
    ours = batches(dataset, written(tmp_path, body), **unscaled)
    for batch, flipped in zip(ours, batches(dataset, flip=1.0, **unscaled), strict=True):
        if batch.index[0] < 2:
            same([batch._replace(boxes=flipped.boxes)], [flipped])
            np.testing.assert_allclose(batch.boxes, flipped.boxes, rtol=0, atol=1e-4)


def test_randomness_is_of_seed_epoch_and_image_alone(dataset, tmp_path):
    name = written(tmp_path, NOISE)
    once = batches(dataset, name)
    same(once, batches(dataset, name))
    first, second = ({int(b.index[0]): b for b in part} for part in (once[:3], once[3:]))
    for index, batch in first.items():
        assert (batch.image != second[index].image).any()


@pytest.mark.slow
def test_workers_import_it_again(dataset, tmp_path):
    name = written(tmp_path, NOISE)
    same(batches(dataset, name), batches(dataset, name, num_workers=1))


def test_size_and_objects_may_change(dataset, tmp_path):
    """A crop to the first object, turned: it is made smaller where it does not fit its bucket."""
    body = (
        "x1, y1, x2, y2 = boxes[0].astype(int)\n"
        "    image = np.rot90(image[y1:y2, x1 : x1 + 5])\n"
        "    return image, [[0.0, 1.0, 10.0, 4.0], [1, 1, 1.5, 3]], [1, 0], None"
    )
    no_masks = dataclasses.replace(dataset, segmentations=None)
    for batch in batches(no_masks, written(tmp_path, body)):
        assert (batch.image_size[0] <= batch.image.shape[1:3]).all()
        width = batch.image_size[0, 1]
        assert batch.box_mask.sum() == 1  # the other is under a pixel wide
        assert batch.labels[0, 0] == 1
        np.testing.assert_allclose(batch.boxes[0, 0, 2], 9 * width / 22, rtol=1e-6)
        assert (batch.image[0, : batch.image_size[0, 0], :width] == 255).all()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return image", r"returns something else than \(image, boxes, labels, masks\)"),
        ("return image / 2, boxes, labels, masks", "an image that is not uint8"),
        ("return image[:0], boxes, labels, masks", "an image without pixels"),
        ("return image, boxes + 100, labels, masks", "boxes outside of the image of "),
        ("return image, boxes * np.nan, labels, masks", "boxes outside of the image of "),
        ("return image, boxes[:, ::-1], labels, masks", "boxes that are not x1 y1 x2 y2"),
        ("return image, boxes, labels[:1], masks", r"labels int32\[1\] of 2 boxes"),
        ("return image, boxes, labels + 1, masks", "labels beyond 0 to 1"),
        ("return image, boxes, labels, None", r"masks \[\], not one of each"),
        ("return image, [*boxes] * 9, [*labels] * 9, [*masks] * 9", "18 boxes; there is room for"),
        ("return undefined", r"NameError: .* \(.*own\.py:3\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_what_cannot_be_used_ends_the_run_in_one_line(dataset, tmp_path, body, said):
    """It is no unreadable image, in whose place another comes."""
    with pytest.raises(InputError, match=rf"own\.py:augment: on image [567]: .*{said}") as caught:
        batches(dataset, written(tmp_path, body))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere:augment", "nowhere.py:augment", "json:augment", "x"])
def test_a_function_that_is_not_there_is_one_line(dataset, name):
    with pytest.raises(InputError, match=rf"^config\.data\.augment: {name}: cannot be imported"):
        batches(dataset, name)


def test_a_config_file_may_set_the_function_itself(dataset, tmp_path):
    """It is found again by its file; a run's config.json runs nothing."""
    head = "from jaxdet.configs import base\n" + HEAD
    body = (
        "return image, boxes, labels, masks\n"
        "def get_config():\n"
        "    config = base.rpn('own', depth=18)\n"
        "    config.data.augment = augment\n"
        "    return config\n"
    )
    file = written(tmp_path, body, head).removesuffix(":augment")
    config = parse(load_file(file))
    assert config.data.augment == f"{file}:augment"
    assert len(batches(dataset, config.data.augment)) == 6
    run = tmp_path / "config.json"
    run.write_text(json.dumps(dataclasses.asdict(config)))
    assert parse(load_file(run)).data.augment == ""
    named = load_file(file)
    named.data.augment = "module:function"
    assert parse(named).data.augment == "module:function"
    named.data.augment = lambda *x: x
    with pytest.raises(InputError, match=r"^config\.data\.augment: must be a function on a module"):
        parse(named)
