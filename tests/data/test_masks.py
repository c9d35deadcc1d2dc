"""Masks from segmentations to the packed bitmaps of a batch, against the reference's own data path.

mask_data.npz: a COCO file (polygons, a crowd, a box too thin) through the 2018 toolbox.
mask_resize_torchvision.npz: torchvision's resizing of bitmaps.
"""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from reference_weights import seeded_image
from tiny_coco import write_coco

from jaxdet.config import Config, DataConfig, ModelConfig
from jaxdet.data.check import check_images
from jaxdet.data.coco import coco_paths, load_coco
from jaxdet.data.findings import Findings
from jaxdet.data.load import load_dataset
from jaxdet.data.masks import bitmap_of, resize_bitmap, rle_of
from jaxdet.data.pipeline import eval_batches, train_batches
from jaxdet.data.shapes import draw
from jaxdet.errors import InputError

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("flip", [0, 1])
def test_boxes_labels_and_bitmaps_are_the_references(tmp_path, flip):
    golden = np.load(GOLDEN / "mask_data.npz")
    for i, size in enumerate(golden["image_hw"]):
        cv2.imwrite(str(tmp_path / f"{i}.png"), seeded_image(*size, int(golden["seed"]) + i))
    path = tmp_path / "instances.json"
    path.write_text(str(golden["json"]))
    names = [category["name"] for category in json.loads(path.read_text())["categories"]]
    dataset = load_coco(path, tmp_path, class_names=names, masks=True)
    data = DataConfig(image_scale=tuple(golden["scale"].tolist()), flip=float(flip), num_workers=0)
    with train_batches(dataset, data, global_batch=1, seed=0, num_steps=2) as batches:
        rows = {int(dataset.image_ids[b.index[0]]): b for b, _ in batches}
    for i, image_id in enumerate((100, 93)):
        batch, one = rows[image_id], f"{i}_flip{flip}"
        count = batch.box_mask.sum()
        # The reference multiplies boxes in float64 before it rounds: a unit in the last place.
        np.testing.assert_allclose(batch.boxes[0, :count], golden[f"boxes{one}"], rtol=2e-7)
        np.testing.assert_array_equal(batch.labels[0, :count], golden[f"labels{one}"] - 1)
        shape = golden[f"masks{one}_shape"]
        masks = np.unpackbits(golden[f"masks{one}_packed"])[: shape.prod()].reshape(shape)
        found = np.unpackbits(batch.masks[0], axis=-1)
        np.testing.assert_array_equal(found[:count, : shape[1], : shape[2]], masks)
        assert found.sum() == masks.sum()  # zero elsewhere
        assert found.shape[1:] == batch.image.shape[1:3]


def test_bitmaps_beside_float_images_are_resized_as_by_torchvision():
    golden = np.load(GOLDEN / "mask_resize_torchvision.npz")
    height, width = golden["project_hw"]
    size = tuple(golden["resize_mask_hw"].tolist())
    yy, xx = np.mgrid[:height, :width] + 0.5
    found = []
    for x1, y1, x2, y2 in golden["project_mask_boxes"].astype(np.float64):
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        ellipse = ((xx - x) / (x2 - x)) ** 2 + ((yy - y) / (y2 - y)) ** 2 < 1
        bitmap = (ellipse & ~((xx > x) & (yy < y))).astype(np.uint8)
        found.append(resize_bitmap(bitmap, size, "float"))
    np.testing.assert_array_equal(np.packbits(found), golden["resize_mask_packed"])


@pytest.mark.parametrize(
    ("old", "new", "place", "source"), [(20, 108, 81, 14), (48, 152, 95, 29), (55, 405, 81, 10)]
)
def test_the_ratio_of_sides_is_float32_beside_float_images(old, new, place, source):
    """PyTorch 2.13's answers; the exact ratio, and OpenCV, take the next pixel."""
    row = np.arange(old, dtype=np.uint8)[None]
    assert resize_bitmap(row, (1, new), "float")[0, place] == source
    assert resize_bitmap(row, (1, new))[0, place] == source + 1 == place * old / new


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_run_lengths_in_both_forms_are_the_bitmap(height, width, seed):
    rng = np.random.default_rng(seed)
    bitmap = (rng.random((height, width)) < rng.random()).astype(np.uint8)
    text = coco_mask.encode(np.asfortranarray(bitmap))["counts"].decode()
    flat = bitmap.T.ravel()
    edges = np.flatnonzero(np.diff(flat, prepend=0, append=1 - flat[-1:]))
    for counts in (text, np.diff(edges, prepend=0).tolist()):
        rle = json.dumps({"size": [height, width], "counts": counts}).encode()
        np.testing.assert_array_equal(bitmap_of(rle, (height, width)), bitmap)


NOT_MASKS = [
    (None, "Expected `object | array`, got `null`"),
    ([], "of length >= 1"),
    ([[1, 2, 3, 4]], "of length >= 6"),
    ([[1, 2, 3, 4, 5, 6, 7]], "polygon of 7 numbers, which are no pairs"),
    ([[1, 2, 3, 4, 5, float("nan")]], "malformed"),
    ([[0, 0, 1e6, 0, 1e6, 1e6]], "polygon whose outline is 3000000 pixels long"),
    ({"size": [64, 48], "counts": [64 * 48]}, "RLE of 48 x 64 pixels"),
    ({"size": [48, 64], "counts": [5, 4]}, "RLE of 9 pixels"),
    ({"size": [48, 64], "counts": [5, -5]}, ">= 0"),
    ({"size": [48, 64], "counts": "\N{SNOWMAN}"}, "RLE whose text is none"),
    ({"size": [48, 64], "counts": "PPPPPPPPPPPPP"}, "RLE whose text is none"),
    ({"size": [48, 64], "counts": "O1"}, "RLE of 0 pixels"),
]


@pytest.fixture
def root(tmp_path):
    """tiny_coco with a rectangle for every mask."""
    root = write_coco(tmp_path / "coco")
    for path in (root / "annotations").iterdir():
        content = json.loads(path.read_text())
        for annotation in content["annotations"]:
            x, y, w, h = annotation["bbox"]
            annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        path.write_text(json.dumps(content))
    return root


def spoil(root, value):
    """Replaces the mask of the second image's second object, annotation 3."""
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"][2]["segmentation"] = value
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(("value", "said"), NOT_MASKS)
def test_what_is_no_mask_is_one_line_and_a_finding(root, value, said):
    path = spoil(root, value)
    dataset = load_coco(*coco_paths(root, "train"), masks=True)
    with pytest.raises(InputError) as error:
        list(dataset.masks_of(1))
    line = str(error.value)
    start = f"{path}: annotation 3 of image 2 (64 x 48 pixels): segmentation is no mask: "
    assert line.startswith(start)
    assert said in line
    assert "\n" not in line
    findings = Findings()
    check_images(dataset, findings)
    (fault,) = findings.faults.values()
    assert (fault["what"], fault["examples"]) == ("segmentations that are no masks", [line])


def test_an_image_with_what_is_no_mask_is_replaced_in_training(root):
    spoil(root, [[1, 2]])
    dataset = load_coco(*coco_paths(root, "train"), masks=True)
    data = DataConfig(image_scale=(64, 64), num_workers=0)
    with train_batches(dataset, data, global_batch=6, seed=0, num_steps=1) as batches:
        batch, skipped = next(batches)
    assert len(skipped) == 1
    assert sorted(set(batch.index.tolist())) == [0, 2, 3, 4, 5]
    np.testing.assert_array_equal(batch.masks.any(axis=(2, 3)), batch.box_mask)


def config_of(root, **data) -> Config:
    model = ModelConfig(detector="mask_rcnn", class_names=("thing",))
    return Config(model=model, data=DataConfig(root=str(root), image_scale=(64, 64), **data))


def test_only_mask_detectors_train_on_masks_and_none_is_evaluated_on_them(root):
    dataset = load_dataset(config_of(root), "train")
    assert dataset.segmentations is not None
    with eval_batches(dataset, DataConfig(image_scale=(64, 64), num_workers=0), batch_size=6) as b:
        assert next(b).batch.masks is None
    (bitmap, _) = dataset.masks_of(1)
    assert bitmap.shape == (48, 64)
    assert bitmap.sum() == coco_mask.area(rle_of(bitmap)) == 20 * 16
    plain = load_dataset(Config(data=config_of(root).data), "train")
    assert plain.segmentations is None


def test_masks_that_are_missing_are_said(root):
    path = root / "annotations" / "instances_train2017.json"
    path.write_text(path.read_text().replace('"segmentation"', '"other"', 1))
    with pytest.raises(InputError, match=r"annotations\[0\] \(id 1\): .* field `segmentation`"):
        load_dataset(config_of(root), "train")
    with pytest.raises(InputError, match=r"tfds has no masks, which mask_rcnn needs; use coco"):
        load_dataset(config_of(root, name="tfds"), "train")


def test_shapes_have_masks_of_what_is_visible():
    image, found = draw("train", 5)
    assert len(found) > 1
    for annotation in found:
        text = json.dumps(annotation["segmentation"]).encode()
        bitmap = bitmap_of(text, image.shape[:2])
        assert bitmap.sum() == annotation["area"]
        assert list(cv2.boundingRect(bitmap)) == list(annotation["bbox"])
