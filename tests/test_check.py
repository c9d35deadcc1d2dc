"""`--mode=check` as a user sees it."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_coco import write_coco

from jaxdet import config as config_lib
from jaxdet.data_check import run_check
from jaxdet.errors import InputError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def root(tmp_path):
    return write_coco(tmp_path / "coco")


def make_config(root, name="coco", **data):
    config = config_lib.load_file(ROOT / "configs" / "rpn_r18_fpn_shapes.py")
    config.data.update({"name": name, "root": str(root), "image_scale": (64, 64), **data})
    return config_lib.parse(config)


def edit(root, split, change):
    path = root / "annotations" / f"instances_{split}2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def failing(config, workdir, capsys):
    """Runs into exit code 1; returns what was printed, the last line and the file's content."""
    with pytest.raises(SystemExit) as stop:
        run_check(config, workdir)
    assert stop.value.code == 1
    out, err = capsys.readouterr()
    return out, err.splitlines()[-1], json.loads((workdir / "check.json").read_text())


@pytest.mark.parametrize("name", ["coco", "shapes"])
def test_nothing_wrong(root, tmp_path, capsys, name):
    workdir = tmp_path / "runs" / "one"
    run_check(make_config(root, name), workdir)
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == f"0 faults, 0 warnings; wrote {workdir}/check.json"
    assert "FAULT" not in out
    assert "WARNING" not in out
    assert err.splitlines() == ["decoding train: 6 images", "decoding val: 6 images"]
    assert [path.name for path in workdir.iterdir()] == ["check.json"]
    result = json.loads((workdir / "check.json").read_text())
    assert result["faults"] == result["warnings"] == 0
    train, val = result["splits"]["train"], result["splits"]["val"]
    assert train["source"] == str(root / "annotations" / "instances_train2017.json")
    assert train["images"] == 6
    assert train["annotations"] == train["to_train_on"] == 9
    assert train["faults"] == train["warnings"] == []
    assert train["classes"] == {}
    # Eight devices in the tests, four images on each.
    assert train["training"]["global_batch"] == 32
    assert train["training"]["steps_per_epoch"] == 1
    assert "training" not in val
    assert train["anchors"] == val["anchors"]
    everything = train["anchors"]["all"]
    assert everything["boxes"] == 9
    assert everything["under 0.3"] == 0
    sides = [fit["boxes"] for name, fit in train["anchors"].items() if name.startswith("side")]
    assert sum(sides) == 9


def test_steps_are_counted_as_training_does(root, tmp_path, capsys):
    config = make_config(root, images_per_device=1)
    train = dataclasses.replace(config.train, accumulation=2)
    run_check(dataclasses.replace(config, train=train), tmp_path / "run")
    result = json.loads((tmp_path / "run" / "check.json").read_text())
    assert result["splits"]["train"]["training"]["global_batch"] == 16  # eight devices


def test_faults_of_both_splits(root, tmp_path, capsys):
    def change(content):
        content["images"][0]["width"] = 63
        for i in range(7):
            content["annotations"].append(
                {**content["annotations"][0], "id": 50 + i, "image_id": 9}
            )

    edit(root, "train", change)
    (root / "val2017" / "5.png").unlink()
    out, last, result = failing(make_config(root), tmp_path / "run", capsys)
    assert last == (
        "jaxdet: 9 faults: 7 annotations of unknown images (train), "
        "1 unreadable images (train), 1 unreadable images (val)"
    )
    assert result["faults"] == 9
    assert result["warnings"] == 0
    unknown, size = result["splits"]["train"]["faults"]
    assert unknown["what"] == "annotations of unknown images"
    assert unknown["count"] == len(unknown["examples"]) == 7
    assert size["examples"] == [
        f"image 1: {root}/train2017/0.png: image of 64 x 48 pixels, annotated as 63 x 48"
    ]
    assert "FAULT: 7 annotations of unknown images\n    annotation 50 belongs to image 9," in out
    assert "    annotation 54 belongs" in out
    assert "    and 2 more\n" in out
    assert f"    {size['examples'][0]}\n" in out  # a line, however long
    assert f"    image 6: {root}/val2017/5.png: cannot be read: No such file or directory\n" in out


def test_warnings_do_not_fail(root, tmp_path, capsys):
    def change(content):
        content["annotations"][0]["bbox"] = [4, 5, 0.5, 16]
        content["annotations"][1]["bbox"] = [4, 5, 2, 2]

    edit(root, "train", change)
    edit(root, "val", change)
    run_check(make_config(root), tmp_path / "run")
    result = json.loads((tmp_path / "run" / "check.json").read_text())
    assert result["faults"] == 0
    train, val = ([w["what"] for w in result["splits"][s]["warnings"]] for s in ("train", "val"))
    left_out = "boxes under a pixel wide or high, or of no area: left out"
    assert train == [
        left_out,
        "images with only crowds, ignored or degenerate boxes: others take their turn",
        "boxes that no anchor overlaps by 0.3: not learned",
    ]
    assert val == [left_out]
    # The smallest anchor is one of 11 x 23 pixels: 4 of 253.
    out = capsys.readouterr().out
    assert "    annotation 2 of image 2 (1.png): 2 x 2 pixels when resized, best IoU 0.02\n" in out


def test_markup_and_odd_letters_in_names(root, tmp_path, capsys):
    def change(content):
        content["images"][0]["file_name"] = "[red]\u00e9\u9053[/b].png"

    edit(root, "train", change)
    out, last, _ = failing(make_config(root), tmp_path / "run", capsys)
    assert "train2017/[red]\u00e9\u9053[/b].png: cannot be read: No such file or directory" in out
    assert last == "jaxdet: 1 faults: 1 unreadable images (train)"


def test_what_cannot_be_read_at_all(root, tmp_path):
    with pytest.raises(InputError, match=r"config\.data\.root"):
        run_check(make_config(""), tmp_path / "run")
    (root / "annotations" / "instances_val2017.json").write_text("{")
    with pytest.raises(InputError, match=r"instances_val2017\.json: not a JSON file"):
        run_check(make_config(root), tmp_path / "run")
    assert not (tmp_path / "run" / "check.json").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file: cannot be made: File exists"):
        run_check(make_config(root), tmp_path / "file")


def test_the_last_report_stays_until_the_next_is_whole(root, tmp_path, monkeypatch):
    run_check(make_config(root), tmp_path / "run")
    before = (tmp_path / "run" / "check.json").read_text()

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", no_space)
    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(InputError, match="No space left"):
        run_check(make_config(root), tmp_path / "run")
    assert (tmp_path / "run" / "check.json").read_text() == before


def test_the_command(root, tmp_path):
    (root / "train2017" / "2.png").unlink()

    def run(folder):
        return subprocess.run(
            [
                sys.executable, "-m", "jaxdet.main", "--mode=check", "--config.data.name=coco",
                f"--config.data.root={folder}", f"--workdir={tmp_path}/run",
            ],
            cwd=ROOT, env={**os.environ, "XLA_FLAGS": "", "PYTHONIOENCODING": "ascii"},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    result = run(root)
    assert result.returncode == 1, result.stderr
    last = "jaxdet: 1 faults: 1 unreadable images (train)"
    assert result.stderr.splitlines()[-1] == last
    assert "2.png: cannot be read: No such file or directory" in result.stdout
    result = run(tmp_path / "nowhere")
    assert result.returncode == 2
    path = tmp_path / "nowhere" / "annotations" / "instances_train2017.json"
    assert result.stderr.splitlines() == [
        f"jaxdet: {path}: cannot be read: No such file or directory"
    ]


def test_classes_are_counted_and_empty_ones_named(root, tmp_path, capsys):
    config = make_config(root)
    model = dataclasses.replace(config.model, class_names=("thing", "unicorn"))
    run_check(dataclasses.replace(config, model=model), tmp_path)
    out = capsys.readouterr().out
    assert "boxes of thing 9, unicorn 0\n" in out
    assert "WARNING: 1 classes without boxes\n    'unicorn'\n" in out
