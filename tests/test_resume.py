"""Killed and started again, a run ends as if nothing had happened."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import ml_collections
import numpy as np
import pytest
from forked_commands import QUICK
from tiny_coco import TINY_FLAGS, write_coco

from jaxdet import config as config_lib
from jaxdet.checkpoint import read_params
from jaxdet.detectors.build import build_detector, param_shapes
from jaxdet.types import Params

ROOT = Path(__file__).parents[1]
STEPS = 140
KILLS = 10
# Mask R-CNN, on shapes with their outlines.
MASKS = (
    "--config=mask_rcnn_r18_fpn_shapes",
    *TINY_FLAGS[1:],
    "--config.model.mask_channels=4",
    "--config.model.box_channels=8",
    "--config.rois.num_samples=8",
)
# What a step learned; times and speeds differ from run to run.
LEARNED = ("step", "epoch", "loss", "loss_cls", "loss_bbox", "num_positive", "grad_norm")


class Run:
    """`python -m jaxdet.main` on the tiny set, or on shapes, in the background."""

    def __init__(self, coco: Path | None, workdir: Path, *flags: str, steps: int = STEPS):
        # To a file: nobody reads while it runs, and a full pipe would stop it.
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        command = [sys.executable, "-m", "jaxdet.main", f"--workdir={workdir}"]
        from_files = ["--config.data.name=coco", f"--config.data.root={coco}"]
        data = [*TINY_FLAGS, *from_files] if coco else [*MASKS]
        length = [f"--config.train.num_steps={steps}", "--config.train.eval_every=1000"]
        rhythm = ["--config.train.log_every=3", "--config.train.checkpoint_every=4"]
        self.process = subprocess.Popen(
            [*command, *data, *length, *rhythm, *flags],
            cwd=ROOT,
            env={**os.environ, "XLA_FLAGS": QUICK},
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def end(self, code: int, seconds: float = 500) -> str:
        """Waits for the end and returns what was printed."""
        try:
            found = self.process.wait(seconds)
        finally:
            self.process.kill()
        output = self.output()
        self._log.close()
        assert found == code, output
        return output

    def output(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def wait_for(self, condition: Callable[[], bool], seconds: float = 240) -> None:
        """Returns once the condition is true; fails if the run ends before."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.001)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


def rows_of(workdir: Path) -> list[dict]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: row[k] for k in LEARNED} for row in rows if row["kind"] == "train"]


def params_of(workdir: Path) -> Params:
    fields = json.loads((workdir / "config.json").read_text())
    config = config_lib.parse(ml_collections.ConfigDict(fields))
    return read_params(workdir, param_shapes(build_detector(config)))


def saved(workdir: Path) -> list[int]:
    """Steps of the complete checkpoints."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    return []


def is_writing(workdir: Path) -> bool:
    """Whether a checkpoint is only half there."""
    folder = workdir / "checkpoints"
    with contextlib.suppress(FileNotFoundError):
        return any(not p.name.isdigit() for p in folder.iterdir())
    return False


def kill_somewhere(coco: Path, workdir: Path, rng: random.Random) -> str:
    """Starts the run and kills it; returns what it was doing: starting, writing or training."""
    run = Run(coco, workdir)
    before = saved(workdir)[-1:]
    moment = rng.choice(["starting", "writing", "writing", "training", "training"])
    # Some ten steps from kill to kill at most, so that all fit into the run on any machine.
    if moment == "starting":
        time.sleep(rng.uniform(0, 2))
    else:
        run.wait_for(lambda: saved(workdir)[-1:] != before)
        time.sleep(rng.uniform(0, 0.05))
    if moment == "writing":
        run.wait_for(lambda: is_writing(workdir))
        time.sleep(rng.uniform(0, 0.01))
    run.signal(signal.SIGKILL)
    run.end(-signal.SIGKILL)
    return "writing" if is_writing(workdir) else moment


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    return write_coco(tmp_path_factory.mktemp("coco"))


@pytest.fixture(scope="module")
def undisturbed(coco, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    Run(coco, workdir).end(0)
    return workdir


def assert_same_end(workdir: Path, undisturbed: Path) -> None:
    """Parameters and the log, bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, params_of(workdir), params_of(undisturbed))
    rows = rows_of(workdir)
    assert len({row["step"] for row in rows}) == len(rows)
    assert rows == rows_of(undisturbed)


@pytest.mark.slow
@pytest.mark.xdist_group("undisturbed")
def test_kills_leave_no_trace(coco, undisturbed, tmp_path):
    rng = random.Random(0)
    workdir = tmp_path / "run"
    moments = [kill_somewhere(coco, workdir, rng) for _ in range(KILLS)]
    assert moments.count("writing") >= 3  # half-written checkpoints were among it
    reached = saved(workdir)[-1]
    assert 0 < reached < STEPS
    output = Run(coco, workdir).end(0)
    assert f"going on from step {reached} of" in output
    assert_same_end(workdir, undisturbed)
    print(f"\nkilled while {moments}; the last start went on from step {reached}")


@pytest.mark.slow
def test_a_kill_of_a_detector_leaves_no_trace(tmp_path):
    Run(None, tmp_path / "undisturbed", steps=16).end(0)
    run = Run(None, tmp_path / "run", steps=16)
    run.wait_for(lambda: saved(tmp_path / "run")[-1:] >= [4])
    run.signal(signal.SIGKILL)
    run.end(-signal.SIGKILL)
    output = Run(None, tmp_path / "run", steps=16).end(0)
    assert "going on from step " in output
    assert_same_end(tmp_path / "run", tmp_path / "undisturbed")


@pytest.mark.slow
@pytest.mark.xdist_group("undisturbed")
def test_damaged_checkpoints_give_way_to_the_one_before(coco, undisturbed, tmp_path):
    """Two, damaged in two ways: the last steps are done again, with the same end."""
    workdir = tmp_path / "run"
    shutil.copytree(undisturbed, workdir)
    steps = saved(workdir)
    flip_a_byte(workdir / "checkpoints" / str(steps[-1]))
    remove_a_file(workdir / "checkpoints" / str(steps[-2]))
    output = Run(coco, workdir).end(0)
    for step in steps[-2:]:
        assert f"checkpoints/{step}: " in output
        assert (workdir / "damaged" / str(step)).is_dir()
    assert f"going on from step {steps[-3]} of" in output
    assert_same_end(workdir, undisturbed)


def largest_file(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip_a_byte(folder: Path) -> None:
    path = largest_file(folder / "params")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def remove_a_file(folder: Path) -> None:
    largest_file(folder / "optimizer").unlink()
