"""Proposals from files, through data sets and batches."""

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from tiny_coco import write_coco

from jaxdet import cli
from jaxdet.config import Config, DataConfig, ModelConfig, RoIConfig
from jaxdet.data.load import load_dataset
from jaxdet.data.pipeline import eval_batches, train_batches
from jaxdet.data.sampler import flips
from jaxdet.errors import InputError
from jaxdet.inference import proposal_files
from jaxdet.inference.given import load_splits
from jaxdet.inference.single import Result

LIMIT = 8


@pytest.fixture
def config(tmp_path):
    """Of Fast R-CNN on tiny_coco, whose annotation file is turned: its images are 6, 5, ..., 1."""
    root = write_coco(tmp_path / "coco")
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    content["images"].reverse()
    path.write_text(json.dumps(content))
    return Config(
        model=ModelConfig(detector="fast_rcnn", class_names=("thing",)),
        data=DataConfig(root=str(root), image_scale=(128, 96), num_workers=0),
        rois=RoIConfig(max_given=LIMIT),
    )


def boxes_of(image_id):
    """Twelve boxes for most images, best first; some leave the image; none for image 4."""
    rng = np.random.default_rng(image_id)
    corner = rng.uniform(-5, 50, (0 if image_id == 4 else 12, 2))
    return np.concatenate([corner, corner + rng.uniform(2, 30, corner.shape)], 1, dtype=np.float32)


def with_scores(boxes):
    return np.concatenate([boxes, np.linspace(1, 0, len(boxes))[:, None]], 1, dtype=np.float32)


def write(folder, kind, config):
    """Writes the boxes as jaxdet does, or Detectron, or the toolbox: in its file's order."""
    if isinstance(kind, str) and kind != "detectron":
        found = [with_scores(boxes_of(i)) for i in range(1, 7)]
        dataset = load_dataset(config, "train")
        proposal_files.write(folder, kind, dataset, [Result(x[:, :4], x[:, 4]) for x in found])
        return str(folder / f"proposals.{kind}")
    path = folder / "proposals.pkl"
    if kind == "detectron":  # in any order
        ids = [3, 1, 2, 6, 4, 5]
        boxes = [boxes_of(i)[::-1] for i in ids]
        scores = [np.linspace(0, 1, len(x), dtype=np.float32) for x in boxes]
        path.write_bytes(pickle.dumps({"boxes": boxes, "scores": scores, "indexes": ids}, 2))
        return str(path)
    boxes = [boxes_of(i) if kind == 4 else with_scores(boxes_of(i)) for i in range(6, 0, -1)]
    path.write_bytes(pickle.dumps(boxes, protocol=4 if kind == 4 else 2))
    return str(path)


@pytest.mark.parametrize("kind", ["npz", "json", "pkl", "detectron", 2, 4])
def test_every_kind_of_file_gives_each_image_its_own(config, tmp_path, kind):
    (dataset,) = load_splits(config, ("train",), [write(tmp_path, kind, config)])
    for i in range(6):
        expected = boxes_of(int(dataset.image_ids[i]))[:LIMIT]
        if kind == "json":  # x, y, width, height: a corner is a sum
            np.testing.assert_allclose(dataset.given.of(i), expected, rtol=2e-7)
        else:
            np.testing.assert_array_equal(dataset.given.of(i), expected, strict=True)


def test_batches_hold_them_as_boxes_of_the_resized_image(config, tmp_path):
    (dataset,) = load_splits(config, ("train",), [write(tmp_path, 2, config)])
    with eval_batches(dataset, config.data, batch_size=4) as batches:
        evaluated = [batch for batch, _ in batches]
    with train_batches(dataset, config.data, global_batch=6, seed=0, num_steps=3) as batches:
        trained = [batch for batch, _ in batches]
    seen = set()
    for is_train, batch in [*((False, b) for b in evaluated), *((True, b) for b in trained)]:
        assert batch.images.proposals is batch.proposals
        for row, index in enumerate(batch.index.tolist()):
            flip = is_train and bool(flips(batch.seed[row : row + 1], 0.5)[0])
            boxes = dataset.given.of(index) * 2 if index >= 0 else np.zeros((0, 4))
            if flip:
                x1, y1, x2, y2 = boxes.T
                boxes = np.stack([127 - x2, y1, 127 - x1, y2], axis=1)
            boxes = np.clip(boxes, 0, [127, 95, 127, 95])
            assert batch.proposal_mask[row].tolist() == [i < len(boxes) for i in range(LIMIT)]
            np.testing.assert_array_equal(batch.proposals[row, : len(boxes)], boxes)
            assert not batch.proposals[row, len(boxes) :].any()
            seen.add((index, flip))
    assert {(3, False), (-1, False)} <= seen
    assert any(flip for _, flip in seen)
    # Image 4, at position 3, has none: it is evaluated, and others train in its place.
    assert not any(3 in batch.index for batch in trained)


def test_what_is_no_file_of_these_images_is_one_line(config, tmp_path):
    path = Path(write(tmp_path, 2, config))
    boxes = pickle.loads(path.read_bytes())
    other = tmp_path / "other.npz"
    arrays = dict(np.load(write(tmp_path, "npz", config)))
    cases = [
        (pickle.dumps(boxes[1:]), "of 5 images, not of the 6 of .*instances_train2017.json"),
        (pickle.dumps(3), "neither a list with an array for each image nor"),
        (pickle.dumps({}), "a dict, but not Detectron's"),
        (
            pickle.dumps({"boxes": boxes, "scores": boxes, "ids": [1, 2, 3, 4, 5, 6]}),
            "'scores' of image 1 are not one for each box",
        ),
        (b'[{"image_id": 9, "bbox": [1, 2, 3, 4], "score": 1}]', "of image 9, which is not in"),
        (b'[{"image_id": 1, "bbox": [1, 2, 3], "score": 1}]', r"length 4.*\[0\]\.bbox"),
        (b'{"annotations": []}', "Expected `array`, got `object`"),
        (
            pickle.dumps([*boxes[1:], [1, 2]]),
            r"entry 5 is no array of floats, \[n, 4\] or \[n, 5\]",
        ),
        (pickle.dumps([*boxes[1:], boxes[0] * np.nan]), "boxes of image 1 are not finite"),
        (pickle.dumps(print), "cannot be used as proposals: it asks for 'builtins.print'"),
        (path.read_bytes()[:-40], "cannot be used as proposals: "),
        (b"", "cannot be used as proposals: it ends too early"),
        ({"image_id": arrays["image_id"] + 1}, r"of 6 images, not of .*json; image 1 is in one of"),
        ({"count": arrays["count"] + 1}, r"\(60, 4\) boxes, and counts that add up to 66"),
        ({"boxes": np.full((60, 4), "x")}, "cannot be used as proposals: "),
        ({"boxes": arrays["boxes"][:, :3]}, r"\(60, 3\) boxes"),
    ]
    for content, said in cases:
        if isinstance(content, dict):
            np.savez(other, **{**arrays, **content})
        else:
            other.write_bytes(content)
        with pytest.raises(InputError, match=said) as error:
            load_splits(config, ("train",), [str(other)])
        assert str(error.value).startswith(f"{other}: ")
        assert "\n" not in str(error.value)


def test_files_are_asked_for_and_refused(config, tmp_path):
    with pytest.raises(InputError, match=r"fast_rcnn needs a file of the train and of the"):
        cli.run_train(config, tmp_path, "", ["one.npz"])
    with pytest.raises(InputError, match=r"needs a file of the val images, as val; an RPN writes"):
        cli.run_eval(config, tmp_path, "", False)
    dataset = dataclasses.replace(load_dataset(config, "train"), file_order=None)
    with pytest.raises(InputError, match=r"_format=pkl: its order is an annotation file's, and"):
        proposal_files.require_order("pkl", dataset)
    with pytest.raises(InputError, match="rpn makes its own; leave the flag out"):
        load_splits(Config(data=config.data), ("train",), ["some.npz"])
    with pytest.raises(InputError, match=r"none\.npz: cannot be read: No such file"):
        load_splits(config, ("train",), [str(tmp_path / "none.npz")])
