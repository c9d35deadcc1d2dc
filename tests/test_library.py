"""`import jaxdet`: what it does, what it shows, and what a type checker knows of it."""

import os
import pydoc
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import jaxdet

ROOT = Path(__file__).parents[1]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


IMPORT = """
import logging, os, sys, warnings
warnings.filterwarnings("error", module="jaxdet")
def state():
    root = logging.getLogger()
    own = [n for n in logging.root.manager.loggerDict if n.startswith("jaxdet")]
    made = [logging.getLogger(n) for n in own]
    set_up = [x.name for x in made if x.handlers or x.level or not x.propagate]
    return root.level, list(root.handlers), logging.root.manager.disable, set_up, dict(os.environ)
before = state()
import jaxdet
assert "jax" not in sys.modules and "numpy" not in sys.modules
assert state() == before, (state(), before)
for name in jaxdet.__all__:
    getattr(jaxdet, name)
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
"""


def test_importing_has_no_side_effects(tmp_path):
    """No device is taken, logging is left alone, nothing is written at home."""
    places = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "c")}
    places |= {"JAXDET_CACHE": str(tmp_path / "j"), "MPLCONFIGDIR": str(tmp_path / "m")}
    result = run("-c", IMPORT, **places)
    assert (result.stdout, result.stderr, result.returncode) == ("", "", 0)
    assert list(tmp_path.iterdir()) == []


def test_dir_and_help_show_what_there_is():
    assert set(jaxdet.__all__) <= set(dir(jaxdet))
    text = pydoc.render_doc(jaxdet, renderer=pydoc.plaintext)
    for name in jaxdet.__all__:
        assert getattr(jaxdet, name).__doc__
        assert name in text
    assert "floats from 0 to 1" in pydoc.render_doc(jaxdet.Predictor, renderer=pydoc.plaintext)
    with pytest.raises(AttributeError, match="module 'jaxdet' has no attribute 'Load'"):
        jaxdet.Load  # noqa: B018


USER = """
import numpy as np
import jaxdet

rpn = jaxdet.load("rpn_r50_fpn_1x", "x.pth")
reveal_type(rpn)
reveal_type(rpn("street.jpg").boxes)
reveal_type(rpn(["street.jpg"]))
rpn(np.zeros((4, 4, 3))).boxes
reveal_type(rpn.features("street.jpg").levels[8])
rpn("street.jpg").box
"""


@pytest.mark.slow
def test_a_type_checker_knows_the_library(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "user.py").write_text(USER)
    command = "-m", "mypy", "--ignore-missing-imports", "--follow-imports=silent"
    cache = f"--cache-dir={tmp_path / 'cache'}"
    lines = run(*command, cache, str(tmp_path / "user.py")).stdout.splitlines()
    found = [line.partition(":")[2] for line in lines if "user.py" in line]
    shutil.rmtree(tmp_path / "cache")
    assert len(found) == 5, lines
    parts = ("Predictor", "ndarray", "list[", "ndarray", 'no attribute "box"')
    for line, part in zip(found, parts, strict=True):
        assert part in line
