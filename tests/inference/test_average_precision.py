"""Average precision of the reference's own detections, and `detections.json`."""

import contextlib
import dataclasses
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO

from jaxdet.data.coco import load_coco
from jaxdet.inference import average_precision
from jaxdet.inference.average_precision import FIGURES, coco_records, evaluate_detections
from jaxdet.inference.single import Result
from jaxdet.ops.boxes import CONVENTIONS

NO_FIGURE = -1  # the COCO API's


@pytest.fixture(scope="module")
def expected(golden):
    return golden("detection_eval")


@pytest.fixture(scope="module")
def dataset(expected, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    path = folder / "annotations.json"
    path.write_text(str(expected["annotations_json"]))
    names = [c["name"] for c in json.loads(path.read_text())["categories"]]
    return load_coco(path, folder, class_names=names, masks=True)


@pytest.fixture
def results(expected, dataset):
    """In the data set's order of images, best first, each with the mask that goes by its score."""
    records = json.loads(str(expected["results_json"]))
    masks = {record["score"]: record["segmentation"] for record in records}
    found = {}
    for i, image_id in enumerate((100, 93)):
        order = np.argsort(-expected[f"dets{i}"][:, 4])
        boxes, scores = np.split(expected[f"dets{i}"][order], [4], axis=1)
        scores, labels = scores[:, 0], expected[f"labels{i}"][order].astype(np.int32)
        names = tuple(dataset.class_names[label] for label in labels)
        rles = [masks[score] for score in scores.astype(float).tolist()]
        found[image_id] = Result(boxes, scores, labels, names, rles)
    return [found[image_id] for image_id in dataset.image_ids.tolist()]


def row(figures):
    assert tuple(figures) == FIGURES
    return [NO_FIGURE if value is None else value for value in figures.values()]


def test_figures_are_the_references(dataset, results, expected):
    """To the last bit: the same API on the same numbers."""
    found = evaluate_detections(dataset, results)
    np.testing.assert_array_equal(row(found["bbox"]), expected["stats_bbox"])
    np.testing.assert_array_equal(row(found["segm"]), expected["stats_segm"])
    for kind in ("bbox", "segm"):
        by_class = [figures[kind] for figures in found["per_class"].values()]
        present = [value for value in by_class if value is not None]
        assert np.mean(present) == pytest.approx(found[kind]["AP"], abs=1e-12)
    titles = [title for title, _, _ in average_precision.tables(found)]
    assert titles == ["COCO API", "AP by class"]


def test_newer_systems_size_a_detection_by_its_mask(dataset, results, expected):
    """The same boxes, said in the newer convention; small, medium and large then differ."""
    newer = [x._replace(boxes=x.boxes + np.array([0, 0, 1, 1], np.float32)) for x in results]
    newer_set = dataclasses.replace(dataset, convention=CONVENTIONS["mmdet2"])
    found = evaluate_detections(newer_set, newer)
    np.testing.assert_array_equal(row(found["segm"]), expected["stats_segm_area_from_mask"])
    assert row(found["segm"]) != expected["stats_segm"].tolist()


def test_records_are_the_references(dataset, results, expected, tmp_path):
    def ordered(records):
        return sorted(records, key=lambda record: (record["image_id"], record["score"]))

    records = coco_records(dataset, results)
    assert ordered(records) == ordered(json.loads(str(expected["results_json"])))
    (tmp_path / "detections.json").write_text(json.dumps(records))
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = COCO(dataset.source).loadRes(str(tmp_path / "detections.json"))
    assert len(loaded.anns) == len(records) == 52


def test_nothing_found(dataset):
    nothing = Result(*(np.zeros(s, np.float32) for s in ((0, 4), 0)), np.zeros(0, np.int32), (), [])
    found = evaluate_detections(dataset, [nothing] * 2)
    assert found["bbox"]["AP"] == found["segm"]["AR@100"] == 0.0
    assert coco_records(dataset, [nothing] * 2) == []
