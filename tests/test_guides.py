"""The guides' Python, run as it is written, and the pages, built where mkdocs is installed."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from forked_commands import QUICK

ROOT = Path(__file__).parents[1]
GUIDES = [ROOT / "docs" / f"{name}.md" for name in ("exported", "own_loop", "own_model")]


def run_as_written(text: str, folder: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert any("assert " in block for block in blocks), "a guide shows what comes out"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": QUICK}
    result = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:jaxdet", "-c", "\n".join(blocks)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_a_guide_runs_as_written(guide, tmp_path):
    run_as_written(guide.read_text(), tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax2onnx") is None, reason="needs .[onnx]")
@pytest.mark.parametrize("detector", ["faster_rcnn", "rpn", "retinanet", "mask_rcnn"])
def test_the_guide_to_onnx_runs_with_every_detector(detector, tmp_path):
    text = (ROOT / "docs" / "onnx.md").read_text()
    run_as_written(text.replace("faster_rcnn_r18", f"{detector}_r18"), tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mkdocstrings") is None, reason="needs .[docs]")
def test_pages_build_without_a_warning(tmp_path):
    command = sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "-d", str(tmp_path)
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    page = (tmp_path / "api" / "index.html").read_text()
    for name in ("Predictor", "load_exported", "anchor_losses", "nms"):
        assert f".{name}" in page
