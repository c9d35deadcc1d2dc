"""From a detector with classes and masks to results, files and drawings."""

import contextlib
import dataclasses
import io
import json
from functools import partial

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from tiny_coco import NUM_IMAGES, write_coco

import jaxdet
from jaxdet import cli
from jaxdet.checkpoint import Checkpoints
from jaxdet.config import Config, DataConfig, DetectionConfig, ModelConfig
from jaxdet.data.load import load_dataset
from jaxdet.data.masks import bitmap_of
from jaxdet.detectors import build
from jaxdet.inference import export
from jaxdet.inference.predict import run_predict
from jaxdet.inference.predictor import make_predictor
from jaxdet.inference.results import score_of
from jaxdet.inference.single import Result
from jaxdet.types import Detector, Predictions

NAMES = ("cup", "thing", "cat")
# The first is an annotated box of `write_coco`'s, the second lies beyond the image, the third is
# no detection; in pixels of an image of 64 x 48.
BOXES = np.float32([(4, 5, 23, 20), (80, 8, 96, 40), (0, 0, 9, 9)])
SCORES, LABELS, VALID = (
    np.float32([0.9, 0.75, 0]),
    np.int32([1, 2, 0]),
    np.array([True, True, False]),
)
MASKS = np.float32([[[0.9, 0.1], [0.9, 0.1]]] * 3)  # the left half


def fixed_detector(config: Config) -> Detector:
    """Finds the same in any image, its boxes moved by the one parameter."""

    def predict(params, images):
        size = images.image_size[:, None, ::-1] / jnp.float32([[[64, 48]]])
        boxes = jnp.tile(size, 2) * BOXES[None] + params["bias"]
        rows = images.image.shape[:1]
        fixed = (SCORES, LABELS, VALID, MASKS)
        return Predictions(boxes, *(jnp.broadcast_to(x, (*rows, *x.shape)) for x in fixed))

    def init(key):
        return {"bias": jnp.zeros(())}

    return Detector(init, lambda params, batch: ({}, {}), predict, lambda path: True)


@pytest.fixture(autouse=True)
def fixed(monkeypatch):
    monkeypatch.setitem(build.DETECTORS, "fixed", fixed_detector)


CONFIG = Config(
    name="fixed",
    model=ModelConfig(detector="fixed", class_names=NAMES),
    data=DataConfig(image_scale=(64, 64), num_workers=0),
)
PARAMS = {"bias": jnp.zeros(())}
IMAGE = np.zeros((96, 128, 3), np.uint8)


def bitmap(rle):
    return bitmap_of(json.dumps(rle).encode(), tuple(rle["size"]))


def require_same(found: Result, expected: Result) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_results_are_in_the_images_own_pixels():
    predict = make_predictor(CONFIG, fixed_detector(CONFIG), PARAMS)
    found = predict(IMAGE)
    np.testing.assert_array_equal(found.boxes, 2 * BOXES[:2])
    np.testing.assert_array_equal(found.labels, [1, 2])
    assert found.class_names == ("thing", "cat")
    assert found.masks.shape == (2, 96, 128)
    assert found.masks.dtype == bool
    rows, columns = np.nonzero(found.masks[0])  # 39 x 31 pixels, without the middle
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 40, 8, 26)
    assert not found.masks[1].any()
    fast = dataclasses.replace(CONFIG.model, detector="fast_rcnn")
    with pytest.raises(jaxdet.InputError, match="works on a file of proposals"):
        dataclasses.replace(predict, config=dataclasses.replace(CONFIG, model=fast))(IMAGE)
    one, two = predict([IMAGE, IMAGE[:48]], rle=True)
    np.testing.assert_array_equal([bitmap(rle) for rle in one.masks], found.masks)
    assert two.masks[0]["size"] == [48, 128]


@pytest.mark.parametrize("convention", ["detectron2", "mmdet1"])
def test_what_is_empty_goes_where_it_does_there(convention):
    """Also across an export."""
    model = dataclasses.replace(CONFIG.model, convention=convention)
    detections = DetectionConfig(drop_empty=convention == "detectron2", mask_paste="centres")
    data = dataclasses.replace(CONFIG.data, resize="pillow")
    config = dataclasses.replace(CONFIG, model=model, detections=detections, data=data)
    found = make_predictor(config, fixed_detector(config), {"bias": jnp.float32(-5)})(IMAGE)
    if convention == "mmdet1":
        assert len(found.boxes) == len(found.masks) == 2
    else:
        np.testing.assert_array_equal(found.boxes, [[0, 0, 36, 30]])
        assert len(found.scores) == len(found.labels) == len(found.masks) == 1
        assert found.class_names == ("thing",)


@pytest.mark.parametrize("drop_empty", [False, True])
def test_an_exported_detector_gives_the_same(drop_empty, tmp_path):
    detections = DetectionConfig(drop_empty=drop_empty, mask_paste="border")
    model = dataclasses.replace(CONFIG.model, convention="torchvision")
    config = dataclasses.replace(CONFIG, detections=detections, model=model)
    params = {"bias": np.float32(-3.25)}
    export.write_exported(config, params, tmp_path / "x.zip")
    exported = jaxdet.load_exported(tmp_path / "x.zip")
    live = make_predictor(config, fixed_detector(config), params)
    for image in (IMAGE, IMAGE[:50], IMAGE[:, :40]):
        require_same(exported(image), live(image))
        assert exported(image, rle=True)[-1] == live(image, rle=True)[-1]


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("coco"))


@pytest.fixture
def checkpoint(tmp_path):
    with Checkpoints(tmp_path / "run") as checkpoints:
        checkpoints.save(0, {"bias": np.zeros((), np.float32)}, None, {})
    return tmp_path / "run"


def test_evaluation_writes_what_the_coco_api_loads(coco, checkpoint, tmp_path, capsys):
    config = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, root=str(coco)))
    result = cli.run_eval(config, tmp_path, checkpoint, save_proposals=False)
    # Six of the nine boxes are found, with nothing wrong of their class: 67 of 101 recalls.
    assert result["bbox"]["AP"] == pytest.approx(67 / 101)
    assert result["per_class"]["thing"] == {"bbox": result["bbox"]["AP"]}
    assert result["per_class"]["cat"] == {"bbox": None}  # none is annotated
    summary = load_dataset(config, "val").summary
    assert json.loads((tmp_path / "eval.json").read_text()) == {**result, "data": summary}
    assert result["checkpoint"] == str(checkpoint)
    assert score_of(result) == ("box AP", result["bbox"]["AP"])  # what the best checkpoint is by
    assert "AP50" in capsys.readouterr().out
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(coco / "annotations" / "instances_val2017.json"))
        loaded = truth.loadRes(str(tmp_path / "detections.json"))
    assert len(loaded.anns) == 2 * NUM_IMAGES
    first = loaded.anns[1]
    assert (first["image_id"], first["category_id"], first["bbox"]) == (1, 1, [4, 5, 20, 16])
    assert coco_mask.area(first["segmentation"]) == 10 * 16
    image = cv2.imread(str(tmp_path / "detections.png"))
    assert image.shape[1] > 1000
    page = (tmp_path / "report.html").read_text()
    assert f"<title>fixed: box AP {100 * 67 / 101:.1f}</title>" in page
    assert '<th scope="row">thing</th>' in page
    assert not (tmp_path / "proposals.png").exists()


def test_prediction_writes_labels_and_masks(checkpoint, tmp_path):
    cv2.imwrite(str(tmp_path / "x.png"), IMAGE)
    predict = partial(run_predict, checkpoint=checkpoint, images=[str(tmp_path / "x.png")])
    predict(CONFIG, out=tmp_path / "out", draw=True)
    record = json.loads((tmp_path / "out" / "x.json").read_text())
    fields = ["image", "width", "height", "boxes", "scores"]
    assert list(record) == [*fields, "labels", "category_ids", "class_names", "masks"]
    assert record["labels"] == [1, 2]
    assert record["category_ids"] == [2, 3]  # 1, 2, ...: not all are COCO's classes
    assert record["class_names"] == ["thing", "cat"]
    assert bitmap(record["masks"][0]).sum() == 19 * 31
    drawn = cv2.imread(str(tmp_path / "out" / "x.png"))
    assert drawn[..., 0].max() > 0  # there is a mask, its box and its label
    assert drawn.shape == (420, 560, 3)
    animals = dataclasses.replace(CONFIG.model, class_names=("cup", "cat", "toothbrush"))
    predict(dataclasses.replace(CONFIG, model=animals), out=tmp_path / "out", draw=False)
    record = json.loads((tmp_path / "out" / "x.json").read_text())
    assert record["category_ids"] == [17, 90]
