"""The zoo's table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxdet.config import load_file
from jaxdet.zoo.published import PRETRAINED, PUBLISHED, ROWS
from jaxdet.zoo.table import markdown_table

ROOT = Path(__file__).parents[2]


def test_the_table_is_the_published_document():
    """Byte for byte as far as the document goes; it breaks off within a row."""
    published = (ROOT / "tests" / "golden" / "model_zoo_table.md").read_text()
    assert markdown_table().startswith(published)


def test_fourteen_rows_of_equal_width():
    first, *others = markdown_table().split("\n\n")
    lines = first.splitlines()
    assert len(lines) == 2 + 14
    assert [len(text.splitlines()) for text in others] == [1, 2 + 10, 1, 2 + 5, 1, 2 + 5]
    assert len({len(line) for line in lines}) == 1
    assert len({row.config for row in ROWS}) == 14
    x101 = (
        "| X-101-64x4d-FPN | pytorch |   1x    |   9.5    |        0.955        |      8.3       |"
    )
    assert lines[-2].startswith(x101)


def test_every_row_has_its_config():
    configs = {path.stem for path in (ROOT / "configs").glob("rpn_*.py")}
    assert {row.config for row in ROWS} == configs - {"rpn_r18_fpn_shapes"}
    every = {path.stem for path in (ROOT / "configs").glob("*_rpn_*.py")}
    others = {row.config for row in PUBLISHED} - configs
    assert others == {name for name in every if not name.startswith("mmdet3")}
    for name in every:
        assert load_file(name).model.pretrained in PRETRAINED
    for name in ("zoo_name", "file"):
        published = [getattr(row, name) for row in PUBLISHED if row.file]
        assert len(set(published)) == len(published) == 12 + 10 + 5 + 5


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
