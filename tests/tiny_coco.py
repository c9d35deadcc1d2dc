"""A COCO directory of a few small images, a network to match, and annotations without images."""

import json
from pathlib import Path

import cv2
import numpy as np

from jaxdet.data.dataset import Dataset

TINY_MODEL = {"stem_channels": 4, "fpn_channels": 4, "head_channels": 4}
# The same from the command line, on images of 64 pixels; it compiles in seconds.
TINY_FLAGS = (
    "--config=rpn_r18_fpn_shapes",
    *(f"--config.model.{name}={value}" for name, value in TINY_MODEL.items()),
    "--config.data.image_scale=(64, 64)",
    "--config.data.images_per_device=2",
    "--config.proposals.batch_size=2",
    "--config.train.log_every=2",
)
NUM_IMAGES = 6


def write_coco(root: Path) -> Path:
    """Six images of 48 x 64 per split, ids 1 to 6, each with a box or two."""
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        folder = root / f"{split}2017"
        folder.mkdir()
        annotations = []
        for i in range(NUM_IMAGES):
            cv2.imwrite(str(folder / f"{i}.png"), rng.integers(0, 255, (48, 64, 3), np.uint8))
            for j in range(1 + i % 2):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": i + 1,
                        "category_id": 1,
                        "bbox": [4 + 10 * j, 5, 20, 16],
                        "area": 320,
                        "iscrowd": 0,
                    }
                )
        images = [
            {"id": i + 1, "file_name": f"{i}.png", "height": 48, "width": 64}
            for i in range(NUM_IMAGES)
        ]
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 1, "name": "thing"}],
        }
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return root


def annotated(images) -> Dataset:
    """A data set of images that are nowhere: of each its boxes (xywh), areas, crowds, ignored."""
    nothing = np.zeros((0, 4)), np.zeros(0), np.zeros(0, bool), np.zeros(0, bool)
    columns = [np.concatenate(column) for column in zip(nothing, *images, strict=True)]
    counts = [len(areas) for _, areas, _, _ in images]
    sides = np.full(len(images), 300, np.int32)
    return Dataset(
        source="made",
        image_dir=Path(),
        file_names=("",) * len(images),
        image_ids=np.arange(len(images)),
        heights=sides,
        widths=sides,
        offsets=np.cumsum([0, *counts]),
        annotation_ids=np.arange(sum(counts)),
        category_ids=np.ones(sum(counts), np.int64),
        **dict(zip(("xywh", "area", "iscrowd", "ignore"), columns, strict=True)),
    )
