"""The documented way from YOLO and Pascal VOC, as it is written in docs/data.md."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from jaxdet.config import Config, DataConfig, ModelConfig
from jaxdet.data.load import load_dataset
from jaxdet.data_check import run_check

DOCS = Path(__file__).parents[2] / "docs" / "data.md"
SIZE = 48, 64  # height, width
# Corners in pixels, the far ones outside.
# The first object, in YOLO an outline that leaves a hole: such are crowds to supervision.
RING = [(8, 6), (56, 6), (56, 42), (8, 42), (8, 6), *[(20, 15), (20, 30), (44, 30), (44, 15)]]
RING += [(20, 15), (8, 6)]
BOXES = {"p0": [("dog", (8, 6, 56, 42))], "p1": [("cat", (4, 6, 20, 36)), ("dog", (0, 0, 64, 48))]}


def write_samples(root):
    """The same images and boxes as YOLO and as VOC have them."""
    for folder in ("yolo/images/train", "yolo/labels/train", "voc/JPEGImages", "voc/Annotations"):
        (root / folder).mkdir(parents=True)
    (root / "yolo/data.yaml").write_text("names: [cat, dog]\nnc: 2\n")
    for stem, boxes in BOXES.items():
        lines, objects = [], ""
        for name, (x1, y1, x2, y2) in boxes:
            centre = (x1 + x2) / 2 / SIZE[1], (y1 + y2) / 2 / SIZE[0]
            sides = (x2 - x1) / SIZE[1], (y2 - y1) / SIZE[0]
            where = (*centre, *sides)
            if stem == "p0":
                where = (np.array(RING) / SIZE[::-1]).ravel()
            lines.append(" ".join(map(str, (["cat", "dog"].index(name), *where))))
            corners = zip(("xmin", "ymin", "xmax", "ymax"), (x1 + 1, y1 + 1, x2, y2), strict=True)
            inner = "".join(f"<{tag}>{value}</{tag}>" for tag, value in corners)
            objects += f"<object><name>{name}</name><bndbox>{inner}</bndbox></object>"
        (root / f"yolo/labels/train/{stem}.txt").write_text("\n".join(lines))
        size = f"<size><width>{SIZE[1]}</width><height>{SIZE[0]}</height><depth>3</depth></size>"
        text = f"<annotation><filename>{stem}.png</filename>{size}{objects}</annotation>"
        (root / f"voc/Annotations/{stem}.xml").write_text(text)
        for folder in ("yolo/images/train", "voc/JPEGImages"):
            cv2.imwrite(str(root / folder / f"{stem}.png"), np.full((*SIZE, 3), 99, np.uint8))


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("supervision"), reason="needs supervision")
def test_yolo_and_voc_as_documented(tmp_path, capsys):
    write_samples(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)],
        **{"cwd": tmp_path, "capture_output": True, "text": True, "check": False},
    )
    # Of VOC in the order of the files; a config's names have their own.
    assert done.stdout == "['cat', 'dog']\n['dog', 'cat']\n", done.stderr
    for name, images in (("yolo", "yolo/images/train"), ("voc", "voc/JPEGImages")):
        data = DataConfig(
            name="coco",
            image_scale=(64, 64),
            num_workers=0,
            train_annotations=str(tmp_path / f"own/{name}.json"),
            train_images=str(tmp_path / images),
        )
        model = ModelConfig(detector="faster_rcnn", class_names=("cat", "dog"))
        config = Config(model=model, data=data)
        run_check(config, tmp_path / "check")
        assert "0 faults" in capsys.readouterr().out
        dataset = load_dataset(config, "train")
        assert sorted(dataset.file_names) == [f"{stem}.png" for stem in BOXES]
        for i, file_name in enumerate(dataset.file_names):
            stem = Path(file_name).stem
            found = dataset.boxes_of(i) + np.array([0, 0, 1, 1])  # mmdet1's corners lie inside
            wanted = [corners for _, corners in BOXES[stem]]
            np.testing.assert_allclose(found, wanted, atol=1e-4)
            labels = [["cat", "dog"].index(name) for name, _ in BOXES[stem]]
            assert dataset.labels_of(i).tolist() == labels
