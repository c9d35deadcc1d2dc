"""What `python -m jaxdet.zoo --measure` measures."""

import json
import os
from dataclasses import dataclass, replace

import cv2
import jax
import numpy as np
import pytest
from zoo_cases import shapes_of

from jaxdet.checkpoint import Checkpoints
from jaxdet.config import Config
from jaxdet.data.coco import coco_paths, load_coco
from jaxdet.environment import environment, peak_memory
from jaxdet.errors import InputError
from jaxdet.programs import Programs
from jaxdet.zoo import measure as measure_lib
from jaxdet.zoo.measure import first_images, measure, measure_apart, seconds_per_step


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """A COCO folder with four images of 64 x 64 pixels and two boxes each."""
    root = tmp_path_factory.mktemp("coco")
    (root / "annotations").mkdir()
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        folder = root / f"{split}2017"
        folder.mkdir()
        images, annotations = [], []
        for i in range(1, 5):
            name = f"{i}.png"
            cv2.imwrite(str(folder / name), rng.integers(0, 255, (64, 64, 3), np.uint8))
            images.append({"id": i, "file_name": name, "height": 64, "width": 64})
            for j, box in enumerate(([4, 4, 30, 30], [20 + i, 16, 24, 40])):
                record = {"id": 2 * i + j, "image_id": i, "category_id": 1, "iscrowd": 0}
                annotations.append({**record, "bbox": box, "area": box[2] * box[3]})
        categories = [{"id": 1, "name": "thing"}]
        value = {"images": images, "annotations": annotations, "categories": categories}
        path = root / "annotations" / f"instances_{split}2017.json"
        path.write_text(json.dumps(value))
    return root


@pytest.fixture(scope="module")
def config(coco) -> Config:
    """A network that compiles in seconds."""
    config = Config(name="tiny")
    model = replace(
        config.model, depth=18, stem_channels=8, num_stages=1, fpn_channels=0, head_channels=8
    )
    data = replace(
        config.data, root=str(coco), image_scale=(64, 64), images_per_device=1, num_workers=0
    )
    return replace(config, model=model, data=data)


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test moves."""
    now = [100.0]
    monkeypatch.setattr(measure_lib.time, "perf_counter", lambda: now[0])
    return now


def test_steps_are_timed_without_what_compiles(clock):
    """Loading takes 0.25 s and a step 1 s; the first of each width takes 60 s more."""
    widths = iter([32, 32, 64, 32, 64, 64, 96])
    step, seen = Programs(jax.jit(lambda batch: batch)), set()

    def run():
        width = next(widths)
        clock[0] += 1.25
        if width not in seen:
            clock[0] += 60
            step.seconds += 60
        seen.add(width)
        return np.float32(width)

    assert seconds_per_step(run, step, 5) == pytest.approx(1.25)
    assert next(widths) == 96


def test_the_first_images_keep_their_annotations(coco):
    whole = load_coco(*coco_paths(coco, "val"))
    part = first_images(whole, 3)
    assert len(part) == 3
    assert part.num_boxes.tolist() == [2, 2, 2]
    for i in range(3):
        np.testing.assert_array_equal(part.boxes_of(i), whole.boxes_of(i))
        ids = [x.annotation_ids[x.rows(i)] for x in (part, whole)]
        np.testing.assert_array_equal(*ids)
    assert len(first_images(whole, 9)) == 4


def test_a_checkpoint_over_all_images_gives_every_figure(config, tmp_path):
    shapes = shapes_of(config.model)
    params = jax.tree.map(lambda x: np.full(x.shape, 0.01, np.float32), shapes)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, params, None, {})
    result = measure(config, str(tmp_path), steps=1)
    assert (result["config"], result["checkpoint"]) == ("tiny", str(tmp_path))
    assert result["images_per_step"] == len(jax.devices())
    assert result["num_images"] == 4
    for name in ("seconds_per_step", "images_per_second", "memory_gb"):
        assert result[name] > 0
    assert result["memory_of"] == "process"  # the processor keeps no count of its own
    assert set(result["seconds_per_image"]) == {"data", "forward", "post"}
    assert 0 <= result["AR1000"] <= 100
    assert 0 <= result["AR1000_fast"] <= 100
    assert json.loads(json.dumps(result)) == result


@pytest.mark.slow
def test_recall_needs_a_checkpoint_and_training_can_be_left_out(config):
    result = measure(config, steps=0, num_images=2)
    assert result["num_images"] == 2
    assert result["images_per_second"] > 0
    for name in ("checkpoint", "seconds_per_step", "memory_gb", "memory_of", "AR1000"):
        assert result[name] is None


@pytest.mark.slow
def test_fast_rcnn_is_given_proposals(config, tmp_path):
    model = replace(config.model, detector="fast_rcnn", class_names=("thing",), box_channels=8)
    fast = replace(config, model=replace(model, num_stages=4, fpn_channels=8))
    boxes = np.tile(np.float32([[4, 4, 40, 40], [9, 9, 60, 30]]), (4, 1))
    ids = np.arange(1, 5)
    np.savez(tmp_path / "own.npz", image_id=ids, count=[2] * 4, boxes=boxes, scores=boxes[:, 0])
    files = [str(tmp_path / "own.npz")] * 2
    result = measure(fast, steps=1, proposals=files)
    assert result["seconds_per_step"] > 0
    assert result["num_images"] == 4
    with pytest.raises(InputError, match="--proposals: fast_rcnn needs a file of the val and"):
        measure(fast, steps=1)


@dataclass(frozen=True)
class Deadly(Config):
    """Ends the process that it is sent to."""

    def __reduce__(self):
        return os._exit, (1,)


def test_what_goes_wrong_in_the_other_process_is_one_line(config):
    nowhere = replace(config, data=replace(config.data, root="/nowhere"))
    with pytest.raises(InputError, match=r"^/nowhere/annotations/instances_val2017.json: [^\n]*$"):
        measure_apart(nowhere)
    with pytest.raises(InputError, match=r"^tiny: the process that measured it was killed[^\n]*$"):
        measure_apart(Deadly("tiny"))


def test_environment_is_ready_for_json():
    value = environment()
    assert json.loads(json.dumps(value)) == value
    assert value["devices"]["count"] == 8
    assert {"jaxdet", "python", "jax", "jaxlib", "numpy"} <= set(value["versions"])
    assert 1 <= value["cores"] <= 100_000


def test_memory_of_the_process_grows_with_what_it_holds():
    before, owner = peak_memory()
    assert owner == "process"  # the CPU's devices keep no count
    held = np.ones(400_000_000 // 8)  # written, so that it is resident
    assert peak_memory()[0] >= max(before, 0.4)
    del held
