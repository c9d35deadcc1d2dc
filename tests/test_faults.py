"""What happens in practice: a full disk, a second run, a dead worker, a spoilt picture."""

import ctypes
import dataclasses
import json
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_main import refused
from test_resume import rows_of, saved, start, wait_for
from test_train import tiny_config
from tiny_coco import write_coco

from jaxdet.train import train

pytestmark = pytest.mark.slow


@pytest.fixture
def coco(tmp_path) -> Path:
    return write_coco(tmp_path / "coco")


def test_full_disk_ends_the_run_and_keeps_the_checkpoint_before(coco, tmp_path):
    """Files may not grow beyond 48 kB once the first checkpoint is there: a full disk."""
    workdir = tmp_path / "run"
    process = start(coco, workdir)
    assert wait_for(lambda: saved(workdir), process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (48_000, 48_000))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2, output
    assert "Traceback" not in output
    assert output.strip().splitlines()[-1].startswith(f"jaxdet: {workdir}")
    kept = saved(workdir)
    assert kept
    process = start(coco, workdir)
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output
    assert f"going on from step {kept[-1]} of" in output
    steps = [row["step"] for row in rows_of(workdir)]
    assert steps == sorted(set(steps))


def test_second_run_on_a_work_directory_is_refused(coco, tmp_path):
    workdir = tmp_path / "run"
    first = start(coco, workdir, "--config.train.num_steps=100000")
    assert wait_for(lambda: saved(workdir), first)
    second = start(coco, workdir, "--config.train.num_steps=100000")
    output, _ = second.communicate(timeout=120)
    assert second.returncode == 2
    assert output.strip().splitlines()[-1].startswith(f"jaxdet: {workdir}: in use by another run")
    assert f"process {first.pid} on " in output
    assert first.poll() is None
    first.send_signal(signal.SIGKILL)  # the lock goes with the process
    first.communicate()
    third = start(coco, workdir, f"--config.train.num_steps={saved(workdir)[-1] + 1}")
    output, _ = third.communicate(timeout=300)
    assert third.returncode == 0, output


def test_loader_process_killed(coco, tmp_path):
    """Killed twice while training, it is started again, and nothing is learned differently."""
    flags = ("--config.data.num_workers=1", "--config.train.num_steps=3000")
    workdir = tmp_path / "run"
    process = start(coco, workdir, *flags)
    killed = 0
    while killed < 2 and wait_for(lambda: len(saved(workdir)) > 0, process):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        workers = [int(c) for c in children if b"spawn_main" in cmdline(c)]
        if workers:
            os.kill(workers[0], signal.SIGKILL)
            killed += 1
        time.sleep(4)
    reached = saved(workdir)[-1]
    assert wait_for(lambda: saved(workdir)[-1] > reached, process), process.stdout.read()
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert output.count("a loader process was killed; starting all anew") == 2
    rows = rows_of(workdir)
    other = start(coco, tmp_path / "quiet", f"--config.train.num_steps={rows[-1]['step']}")
    output, _ = other.communicate(timeout=500)
    assert other.returncode == 0, output
    assert rows_of(tmp_path / "quiet")[: len(rows) - 1] == rows[:-1]


def cmdline(pid: str) -> bytes:
    path = Path(f"/proc/{pid}/cmdline")
    return path.read_bytes() if path.exists() else b""


def test_picture_replaced_by_garbage_while_training(coco, tmp_path):
    """The run goes on without it and says so; the evaluation, which needs it, names it."""
    workdir = tmp_path / "run"
    process = start(coco, workdir, "--config.train.num_steps=2000")
    assert wait_for(lambda: saved(workdir), process)
    victim = coco / "train2017" / "3.png"
    victim.write_bytes(random.Random(0).randbytes(500))
    reached = saved(workdir)[-1]
    assert wait_for(lambda: saved(workdir)[-1] > reached + 20, process), process.stdout.read()
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert f"picture skipped: {victim}" in output
    last = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()][-1]
    assert last["skipped_images"] > 0

    (coco / "val2017" / "2.png").write_bytes(b"")
    process = start(coco, workdir, "--mode=eval")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert str(coco / "val2017" / "2.png") in output.strip().splitlines()[-1]


def test_clock_set_back(coco, tmp_path, monkeypatch):
    """An hour earlier at every start: the log, the events and the checkpoints stay in order."""
    config = tiny_config(coco)
    now = time.time()
    for start_number in range(3):
        shift = 3600.0 * start_number
        monkeypatch.setattr(time, "time", lambda shift=shift: now - shift)
        steps = 2 * (start_number + 1)
        longer = dataclasses.replace(config.train, num_steps=steps)
        train(dataclasses.replace(config, train=longer), tmp_path / "run")
        assert saved(tmp_path / "run")[-1] == steps
    events = sorted(p.name for p in (tmp_path / "run").glob("events.out.tfevents.*"))
    assert len(events) == 3
    rows = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [2, 4, 6]


def test_read_only_work_directory(coco, tmp_path):
    """Refused in one line, before anything is loaded or compiled."""
    folder = tmp_path / "fixed"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    for workdir in (folder, folder / "new"):
        arguments = ["--config=configs/rpn_r18_fpn_shapes.py", f"--workdir={workdir}"]
        result = subprocess.run(
            [sys.executable, "-m", "jaxdet.main", *arguments],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            preexec_fn=without_root_rights,
        )
        refused(result, str(workdir), "Permission denied")
        assert list(folder.iterdir()) == []


def without_root_rights() -> None:
    """Root writes where it may not; not so a program started after this (see prctl(2))."""
    drop_from_bounding_set, override_permissions = 24, 1
    ctypes.CDLL(None).prctl(drop_from_bounding_set, override_permissions, 0, 0, 0)
