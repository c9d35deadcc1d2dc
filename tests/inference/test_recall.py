import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tiny_coco import annotated

from jaxdet.inference import recall as metrics
from jaxdet.inference.single import Result
from jaxdet.ops.boxes import iou


def truth(boxes, crowd=(), ignore=(), area=None):
    """An image of `annotated`; areas are those of the boxes unless given; flags by index."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    flags = [np.isin(np.arange(len(boxes)), list(chosen)) for chosen in (crowd, ignore)]
    areas = sides.prod(axis=1) if area is None else np.asarray(area, np.float64)
    xywh = np.concatenate([boxes[:, :2], sides], axis=1)
    return xywh, areas, *flags


def scored(*rows):
    return pair(np.asarray(rows, np.float32).reshape(-1, 5))


def pair(rows):
    return Result(rows[:, :4], rows[:, 4])


def random_image(rng, count, with_flags=False):
    """Boxes in a 300 pixel image; proposals scatter around them and elsewhere."""
    corner, side = rng.uniform(0, 200, (count, 2)), rng.uniform(4, 140, (count, 2))
    boxes = np.concatenate([corner, corner + side], axis=1)
    around = np.repeat(boxes, 20, axis=0) + rng.normal(0, 6, (20 * count, 4))
    corner, side = rng.uniform(0, 200, (60, 2)), rng.uniform(4, 140, (60, 2))
    proposals = np.concatenate([around, np.concatenate([corner, corner + side], axis=1)])
    proposals[:, 2:] = np.maximum(proposals[:, 2:], proposals[:, :2])
    # Few distinct scores, so that equal ones are common.
    scores = rng.integers(0, 40, (len(proposals), 1)) / 40
    crowd = np.flatnonzero(rng.random(count) < 0.2) if with_flags else ()
    ignore = np.flatnonzero(rng.random(count) < 0.2) if with_flags else ()
    rows = np.concatenate([proposals, scores], axis=1).astype(np.float32)
    return truth(boxes.astype(np.float32), crowd, ignore), pair(rows)


def test_fast_recall_equals_the_reference(golden):
    ops = golden("ops")
    boxes = [ops[f"eval_gt{i}"] for i in range(5)]
    proposals = [pair(ops[f"eval_proposals{i}"]) for i in range(5)]
    recall = metrics.fast_recall(boxes, proposals, (100, 300, 1000), ops["recall_thresholds"])
    np.testing.assert_array_equal(recall, ops["recalls_100_300_1000"])
    np.testing.assert_array_equal(recall.mean(axis=1), ops["ar"])
    np.testing.assert_array_equal(metrics.THRESHOLDS, ops["recall_thresholds"])


def test_iou_counts_both_corners():
    # 100 pixels against the upper 50 of them; without the +1 it would be 36 / 81.
    found = iou(np.float32([[0, 0, 9, 9]]), np.float32([[0, 0, 9, 4], [10, 0, 19, 9]]))
    np.testing.assert_array_equal(found, np.float32([[0.5, 0.0]]))


def test_fast_recall_gives_a_proposal_to_one_box_only():
    # 100 and 120 pixels.  The first proposal (100 pixels) fits both: IoU 1 and 5/6.
    boxes = [np.float32([[0, 0, 9, 11], [0, 0, 9, 9]])]
    one = metrics.fast_recall(boxes, [scored([0, 0, 9, 9, 0.5])])
    np.testing.assert_array_equal(one, np.full((3, 10), 0.5))
    # The second (80 pixels) is left for the larger box: 80 / 120 = 0.667.
    two = metrics.fast_recall(boxes, [scored([0, 0, 9, 7, 0.9], [0, 0, 9, 9, 0.5])])
    np.testing.assert_array_equal(two[0], [1.0] * 4 + [0.5] * 6)


def test_fast_recall_looks_at_the_best_scores_only():
    boxes = [np.float32([[0, 0, 9, 9]]), np.float32([[0, 0, 9, 9]])]
    proposals = [
        scored([50, 50, 59, 59, 0.1], [0, 0, 9, 9, 0.9]),  # hit, ranked first
        scored([50, 50, 59, 59, 0.9], [0, 0, 9, 9, 0.1]),  # hit, ranked second
    ]
    recall = metrics.fast_recall(boxes, proposals, (1, 2), np.array([0.5]))
    np.testing.assert_array_equal(recall, [[0.5], [1.0]])


def test_fast_recall_counts_boxes_without_any_proposal():
    boxes = [np.float32([[0, 0, 9, 9]]), np.float32([[5, 5, 9, 9]]), np.zeros((0, 4), np.float32)]
    proposals = [scored([0, 0, 9, 9, 0.9]), scored(), scored([1, 1, 2, 2, 0.3])]
    np.testing.assert_array_equal(metrics.fast_recall(boxes, proposals), np.full((3, 10), 0.5))
    assert np.isnan(metrics.fast_recall(boxes[2:], proposals[2:])).all()


def test_coco_recall_by_hand():
    gt = [
        truth([[0, 0, 9, 9], [100, 0, 139, 39], [0, 100, 199, 299]], crowd=[2]),
        truth([[0, 0, 9, 9]], ignore=[0]),
    ]
    proposals = [
        scored(
            [0, 0, 9, 6, 0.9],  # 70 of 100 pixels: found at 0.50 ... 0.70
            [100, 0, 139, 39, 0.8],  # exact
            [0, 100, 199, 299, 0.7],  # the crowd: neither right nor wrong
        ),
        scored([40, 40, 49, 49, 0.9]),  # misses; `ignore` does not excuse it
    ]
    result = metrics.coco_recall(annotated(gt), proposals)
    np.testing.assert_allclose(result.recall, [[2 / 3] * 5 + [1 / 3] * 5] * 3, rtol=1e-12)
    np.testing.assert_allclose(result.by_size[0], [0.5] * 5 + [0.0] * 5)  # the two of 100 pixels
    np.testing.assert_array_equal(result.by_size[1], np.ones(10))  # the one of 1600
    assert np.isnan(result.by_size[2]).all()  # only the crowd is larger
    assert result.num_boxes == 3
    assert result.num_by_size == (2, 1, 0)


def test_coco_sizes_go_by_area_and_borders_count_twice():
    gt = [truth([[0, 0, 199, 199], [300, 0, 331, 31]], area=[50.0, 1024.0])]
    result = metrics.coco_recall(annotated(gt), [scored([0, 0, 199, 199, 0.5])])
    np.testing.assert_array_equal(result.by_size[0], np.full(10, 0.5))
    np.testing.assert_array_equal(result.by_size[1], np.zeros(10))
    assert result.num_by_size == (2, 1, 0)


def test_coco_limits_count_by_score():
    filler = [[200 + i, 200, 210 + i, 210, 0.9] for i in range(100)]
    gt = [truth([[0, 0, 9, 9]])]
    result = metrics.coco_recall(annotated(gt), [scored([0, 0, 9, 9, 0.5], *filler)])
    np.testing.assert_array_equal(result.recall.mean(axis=1), [0, 1, 1])


def test_coco_recall_equals_cocoeval_with_every_detection():
    """Leaving out detections that can match nothing changes no figure."""
    rng = np.random.default_rng(1)
    images = [random_image(rng, count, with_flags=True) for count in (0, 1, 5, 9, 14, 20)]
    gt, proposals = [image[0] for image in images], [image[1] for image in images]
    result = metrics.coco_recall(annotated(gt), proposals)
    recall = plain_cocoeval(gt, proposals)  # [T, areas, limits]
    np.testing.assert_array_equal(result.recall, recall[:, 0, :].T)
    np.testing.assert_array_equal(result.by_size, recall[:, 1:, 2].T)
    assert 0.2 < result.recall[0].mean() < result.recall[2].mean() < 0.95


def plain_cocoeval(gt, proposals):
    annotations, detections = [], []
    for image_id, (image, found) in enumerate(zip(gt, proposals, strict=True), start=1):
        for xywh, area, crowd, ignore in zip(*image, strict=True):
            flags = {"iscrowd": int(crowd), "ignore": int(ignore), "area": float(area)}
            box = {"bbox": xywh.tolist(), "category_id": 1}
            annotations.append({**flags, **box, "id": len(annotations) + 1, "image_id": image_id})
        for (x1, y1, x2, y2), score in zip(*(x.tolist() for x in found[:2]), strict=True):
            box = {"bbox": [x1, y1, x2 - x1 + 1, y2 - y1 + 1], "category_id": 1}
            detections.append({**box, "image_id": image_id, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        api = COCO()
        images = [{"id": image_id} for image_id in range(1, len(gt) + 1)]
        api.dataset = {"images": images, "categories": [{"id": 1}], "annotations": annotations}
        api.createIndex()
        run = COCOeval(api, api.loadRes(detections), "bbox")
        run.params.useCats = 0
        run.params.maxDets = [100, 300, 1000]
        run.evaluate()
        run.accumulate()
    return run.eval["recall"][:, 0]


def test_evaluate_proposals_fields():
    gt = [truth([[0, 0, 9, 9], [20, 20, 69, 69]], ignore=[1]), truth([])]
    proposals = [scored([0, 0, 9, 7, 0.5]), scored([0, 0, 5, 5, 0.5])]
    result = metrics.evaluate_proposals(annotated(gt), proposals)
    by_iou = {f"0.{50 + 5 * i}": 0.5 if i <= 6 else 0.0 for i in range(10)}
    assert result["recall_by_iou"] == {"100": by_iou, "300": by_iou, "1000": by_iou}
    assert result["AR@100"] == result["AR@300"] == result["AR@1000"] == pytest.approx(0.35)
    assert result["recall_by_size"] == {"small": pytest.approx(0.7), "medium": 0.0, "large": None}
    assert result["boxes_by_size"] == {"small": 1, "medium": 1, "large": 0}
    # The fast way leaves the ignored box out; float32 0.8 is below its 0.8000000000000003.
    assert result["fast"]["AR@1000"] == pytest.approx(0.7)
    assert result["fast"]["num_boxes"] == 1
    assert (result["num_images"], result["num_boxes"]) == (2, 2)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


@pytest.mark.parametrize("images", [0, 1])
def test_nothing_to_find_gives_none(images):
    result = metrics.evaluate_proposals(annotated([truth([])] * images), [scored()] * images)
    assert result["AR@1000"] is None
    assert result["fast"]["AR@100"] is None
    assert result["recall_by_size"] == {"small": None, "medium": None, "large": None}
    assert result["num_boxes"] == 0


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError, match="zip"):
        metrics.coco_recall(annotated([truth([])]), [])
    with pytest.raises(ValueError, match="zip"):
        metrics.fast_recall([], [scored()])


def test_nothing_is_printed(capsys):
    metrics.evaluate_proposals(annotated([truth([[0, 0, 9, 9]])]), [scored([0, 0, 9, 9, 0.5])])
    assert capsys.readouterr() == ("", "")


def test_table_shows_percent():
    gt = [truth([[0, 0, 9, 9], [20, 20, 69, 69]])]
    result = metrics.evaluate_proposals(annotated(gt), [scored([0, 0, 9, 9, 0.5])])
    rows = metrics.table_rows(json.loads(json.dumps(result)))
    assert rows[:2] == [("AR, COCO API", *["50.0"] * 3), ("AR, fast", *["50.0"] * 3)]
    assert ("recall at IoU 0.95", "50.0", "50.0", "50.0") in rows
    assert rows[-3] == ("AR, small (1 boxes)", "", "", "100.0")
    assert rows[-1] == ("AR, large (0 boxes)", "", "", "-")
