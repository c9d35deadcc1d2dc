"""The zoo's table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxdet.config import load_file
from jaxdet.zoo.published import DETECTORS, PRETRAINED, PUBLISHED, ROWS
from jaxdet.zoo.table import markdown_table

ROOT = Path(__file__).parents[2]
RPNS = [row for row in PUBLISHED if row.detector == "RPN"]


def test_the_table_is_the_published_document():
    """Byte for byte as far as the document goes; it breaks off within a row."""
    published = (ROOT / "tests" / "golden" / "model_zoo_table.md").read_text()
    assert markdown_table().startswith(published)


def test_fourteen_rows_of_equal_width():
    first, *others = markdown_table().split("\n\n")
    lines = first.splitlines()
    assert len(lines) == 2 + 14
    rows = [10, 5, 5, 58, 16, 16, 6]
    assert [len(text.splitlines()) for text in others] == [x for n in rows for x in (1, 2 + n)]
    assert len({len(line) for line in lines}) == 1
    assert len({row.config for row in ROWS}) == 14
    x101 = (
        "| X-101-64x4d-FPN | pytorch |   1x    |   9.5    |        0.955        |      8.3       |"
    )
    assert lines[-2].startswith(x101)


def test_every_row_has_its_config():
    configs = {path.stem for path in (ROOT / "configs").glob("rpn_*.py")}
    assert {row.config for row in ROWS} == configs - {"rpn_r18_fpn_shapes"}
    every = {path.stem for path in (ROOT / "configs").glob("*[1-9]*.py")} - configs
    others = {row.config for row in PUBLISHED} - configs
    assert others == {name for name in every if "mmdet3" not in name and "shapes" not in name}
    for name in every:
        assert load_file(name).model.pretrained in PRETRAINED or "shapes" in name
    for rows, count in ((RPNS, 12 + 10 + 5 + 5), (DETECTORS, 58 - 11 + 16 + 16 + 6)):
        for name in ("zoo_name", "file", "config"):
            published = [getattr(row, name) for row in rows if row.file]
            assert len(set(published)) == len(published) == count or name == "config"


def test_what_the_detectors_document_says_wrongly():
    rows = {row.config: row for row in DETECTORS}
    for row in DETECTORS:  # also where the document has the links of two rows the wrong way round
        assert row.name or row.file is None or row.file.startswith(row.config)
    swapped = rows["fast_rcnn_r50_caffe_c4_2x"], rows["fast_rcnn_r50_c4_2x"]
    assert [row.box_ap for row in swapped] == [36.4, 35.8]
    # Copied from Mask R-CNN's rows, and not measured.
    copied = [row for row in DETECTORS if row.config.startswith("fast_mask") and "c4" in row.config]
    assert [(row.box_ap, row.mask_ap, row.fps) for row in copied] == [(None, None, None)] * 4


def test_names_and_sites():
    urls = {row.zoo_name: row.urls for row in DETECTORS}
    of_2018 = "mmdetection/models/faster_rcnn_r50_fpn_1x_20181010-3d1b3351.pth"
    assert [url.endswith(of_2018) for url in urls["zoo://faster_rcnn_r50_fpn_1x"]] == [True, True]
    folder = "https://download.openmmlab.com/mmdetection/v2.0/mask_rcnn/mask_rcnn_r50_fpn_2x_coco"
    file = "mask_rcnn_r50_fpn_2x_coco_bbox_mAP-0.392__segm_mAP-0.354_20200505_003907-3e542a40.pth"
    assert urls["zoo://mmdet2/mask_rcnn_r50_fpn_2x_coco"] == [f"{folder}/{file}"]
    folder = "https://dl.fbaipublicfiles.com/detectron2/COCO-InstanceSegmentation"
    file = "mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl"
    assert urls["zoo://detectron2/mask_rcnn_R_50_FPN_3x"] == [f"{folder}/{file}"]
    folder = "https://download.pytorch.org/models"
    file = "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"
    assert urls["zoo://torchvision/maskrcnn_resnet50_fpn"] == [f"{folder}/{file}"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "jaxdet.zoo", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_the_command_prints_it():
    assert run().stdout == markdown_table() + "\n"


R50 = "rpn_r50_fpn_1x"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([R50], "not understood"),
        (["--measure"], "no config"),
        (["--measure", "none.py"], "no such config"),
        (["--measure", R50, R50], "give each one once"),
        (["--measure", R50, "--checkpoint=a,b"], "2 for 1 configs"),
        (["--measure", R50, "--steps=-1"], "steps"),
        (["--measure", R50, f"--out={__file__}/x"], "py/x: cannot be made: Not a directory"),
        (["--measured"], "measured"),
    ],
)
def test_bad_arguments_are_one_line(arguments, words):
    result = run(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("jaxdet: ")
    assert result.stderr.count("\n") == 1
    assert words in result.stderr


@pytest.mark.slow
def test_the_embedded_config_is_measured(tmp_path):
    out = tmp_path / "zoo"
    result = run("--measure", "rpn_r18_fpn_shapes", "--steps=2", "--num_images=8", f"--out={out}")
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in out.iterdir()) == ["zoo.json", "zoo.md"]
    found = json.loads((out / "zoo.json").read_text())
    assert (found[0]["config"], found[0]["num_images"]) == ("rpn_r18_fpn_shapes", 8)
    assert found[0]["seconds_per_step"] > 0
    assert found[0]["images_per_second"] > 0
    assert "measured, " in (out / "zoo.md").read_text()
    assert "measured, " in result.stdout


@pytest.mark.slow
def test_bad_data_ends_in_one_line_and_no_file(tmp_path):
    result = run("--measure", R50, f"--root={tmp_path}", f"--out={tmp_path / 'zoo'}")
    assert result.returncode == 2
    assert result.stderr.startswith(f"jaxdet: {tmp_path}/annotations/instances_val2017.json: ")
    assert result.stderr.count("\n") == 1
    assert list((tmp_path / "zoo").iterdir()) == []
