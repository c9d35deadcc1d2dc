"""The reference's first steps through the whole program: files on disk in, logged losses out."""

import dataclasses
import json
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_weights
from zoo_cases import config_of, forward_batch, golden_config, state_dict_of

from jaxdet.config import Config
from jaxdet.data import buckets, pipeline
from jaxdet.data.load import load_dataset
from jaxdet.detectors.rpn import build_network
from jaxdet.distributed import data_mesh
from jaxdet.training import loop as loop_module
from jaxdet.training.loop import train
from jaxdet.weights import torch_file


def write_coco(root: Path, images: list[np.ndarray], boxes: list[np.ndarray]) -> None:
    """Images (BGR) as PNG files; boxes are x1 y1 x2 y2 in their own pixels, corners included."""
    annotations: list[dict] = []
    for split in ("train", "val"):
        folder = root / f"{split}2017"
        folder.mkdir(parents=True)
        for i, image in enumerate(images):
            cv2.imwrite(str(folder / f"{i}.png"), image)
    for i, own in enumerate(boxes):
        for x1, y1, x2, y2 in own.tolist():
            size = {"bbox": [x1, y1, x2 - x1 + 1, y2 - y1 + 1], "area": (x2 - x1) * (y2 - y1)}
            ids = {"id": len(annotations) + 1, "image_id": i + 1, "category_id": 1, "iscrowd": 0}
            annotations.append({**ids, **size})
    records = [
        {"id": i + 1, "file_name": f"{i}.png", "height": p.shape[0], "width": p.shape[1]}
        for i, p in enumerate(images)
    ]
    categories = [{"id": 1, "name": "thing"}]
    content = {"images": records, "annotations": annotations, "categories": categories}
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        path = root / "annotations" / f"instances_{split}2017.json"
        path.write_text(json.dumps(content))


def golden_images(golden: dict[str, np.ndarray]) -> list[np.ndarray]:
    sizes = np.atleast_2d(golden["source_hw"])
    seed = int(golden["seed"])
    return [reference_weights.seeded_image(*map(int, hw), seed + j) for j, hw in enumerate(sizes)]


def with_data(config: Config, root: Path, scale: np.ndarray) -> Config:
    data = dataclasses.replace(
        config.data, root=str(root), image_scale=tuple(map(int, scale)), num_workers=0, flip=0.0
    )
    return dataclasses.replace(config, data=data)


def test_input_is_the_references_to_the_last_bit(golden, tmp_path):
    """A PNG file through loader and normalisation, against the reference's own input."""
    expected = golden("forward_r50_fpn")
    write_coco(tmp_path, golden_images(expected), [np.array([[10, 10, 50, 50]])])
    config = with_data(config_of("r50_fpn"), tmp_path, expected["scale"])
    dataset = load_dataset(config, "val")
    with pipeline.eval_batches(dataset, config.data, batch_size=1) as loader:
        batch, _ = next(loader)
    np.testing.assert_array_equal(batch.pad_size[0], expected["pad_shape"])
    height, width = map(int, expected["pad_shape"])
    network = build_network(config.model, config.train)
    inputs = jax.tree.map(jnp.asarray, (batch.image, batch.image_size))
    shown = network.apply({}, *inputs, method="normalize")
    value = np.asarray(shown[0, :height, :width]).reshape(-1)[expected["input_idx"]]
    np.testing.assert_array_equal(value, expected["input_val"])
    np.testing.assert_array_equal(
        batch.image[0, :height, :width], forward_batch(expected).image[0, :height, :width]
    )


@pytest.mark.slow
def test_four_steps_from_files(golden, tmp_path, monkeypatch):
    """`train` on two PNG files: the logged losses are the reference's trajectory."""
    expected = golden("train_r50_fpn")
    config = with_data(golden_config("r50_fpn"), tmp_path, expected["scale"])
    config = dataclasses.replace(
        config, train=dataclasses.replace(config.train, num_steps=4, log_every=1)
    )
    images = golden_images(expected)
    factors = [min(320 / p.shape[0], 448 / p.shape[1]) for p in images]
    boxes = [expected[f"gt{j}"].astype(np.float64) / factors[j] for j in range(2)]
    write_coco(tmp_path, images, boxes)
    torch_file.write(tmp_path / "start.pth", {"state_dict": state_dict_of("r50_fpn")})
    # The golden run padded both images to the batch's size, as the reference's collation does.
    size = tuple(map(int, expected["batch_hw"]))
    monkeypatch.setattr(buckets, "padded_size", lambda *_: size)
    mesh = data_mesh(jax.devices()[:1])
    monkeypatch.setattr(loop_module, "data_mesh", lambda: mesh)

    train(config, tmp_path / "run", str(tmp_path / "start.pth"))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["kind"] == "train"]
    found = [[row[k] for k in ("loss", "loss_cls", "loss_bbox", "grad_norm")] for row in rows]
    trajectory = expected["trajectory_loss_cls_bbox_gradnorm"]
    # As when the same arrays are given to the step: rounding grows from step to step.
    for row, want, rtol in zip(found, trajectory, (1e-4, 2e-3, 1e-2, 2e-2), strict=True):
        np.testing.assert_allclose(row, want, rtol=rtol)
