"""What happens in practice: a full disk, a second run, a dead worker, a spoilt image."""

import contextlib
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
from test_main import is_refusal
from test_resume import Run, rows_of, saved
from test_train import tiny_config
from tiny_coco import write_coco

from jaxdet.training.loop import train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_programs")]

# Root writes where it may not.  Not so a program started after this: number 24 takes a right away
# from all that are started, and 1 is that of overriding permissions; see prctl(2).
WITHOUT_ROOT_RIGHTS = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.fixture
def coco(tmp_path) -> Path:
    return write_coco(tmp_path / "coco")


def test_full_disk_ends_the_run_and_keeps_the_checkpoint_before(coco, tmp_path):
    """Files may not grow beyond 48 kB once the first checkpoint is there: a full disk."""
    workdir = tmp_path / "run"
    run = Run(coco, workdir)
    run.wait_for(lambda: saved(workdir))
    resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, (48_000, 48_000))
    output = run.end(2)
    assert "Traceback" not in output
    assert output.strip().splitlines()[-1].startswith(f"jaxdet: {workdir}/checkpoints: cannot")
    kept = saved(workdir)
    assert kept
    longer = Run(coco, workdir, f"--config.train.num_steps={kept[-1] + 6}")
    assert f"going on from step {kept[-1]} of" in longer.end(0)
    steps = [row["step"] for row in rows_of(workdir)]
    assert steps == sorted(set(steps))


def test_second_run_on_a_work_directory_is_refused(coco, tmp_path):
    workdir = tmp_path / "run"
    first = Run(coco, workdir, "--config.train.num_steps=100000")
    first.wait_for(lambda: saved(workdir))
    output = Run(coco, workdir, "--config.train.num_steps=100000").end(2)
    assert output.strip().splitlines()[-1].startswith(f"jaxdet: {workdir}: in use by another run")
    assert f"process {first.process.pid} on " in output
    assert first.process.poll() is None
    first.signal(signal.SIGKILL)  # the lock goes with the process
    first.end(-signal.SIGKILL)
    Run(coco, workdir, f"--config.train.num_steps={saved(workdir)[-1] + 1}").end(0)


def test_loader_process_killed(coco, tmp_path):
    """Killed twice while training, it is started again, and nothing is learned differently."""
    workdir = tmp_path / "run"
    run = Run(coco, workdir, "--config.data.num_workers=1", "--config.train.num_steps=100000")
    wait_for_steps(run, workdir)
    for _ in range(2):
        (worker,) = workers_of(run.process.pid)
        os.kill(worker, signal.SIGKILL)
        run.wait_for(lambda dead=worker: workers_of(run.process.pid) - {dead})
        wait_for_steps(run, workdir)
    run.signal(signal.SIGTERM)
    output = run.end(143)
    assert output.count("a loader process was killed; starting all anew") == 2
    rows = rows_of(workdir)
    Run(coco, tmp_path / "quiet", f"--config.train.num_steps={rows[-1]['step']}").end(0)
    assert rows_of(tmp_path / "quiet")[: len(rows) - 1] == rows[:-1]


def wait_for_steps(run: Run, workdir: Path) -> None:
    """Until twenty more steps are saved."""
    reached = max(saved(workdir), default=0)
    run.wait_for(lambda: max(saved(workdir), default=0) > reached + 20)


def workers_of(pid: int) -> set[int]:
    """The process's loader processes, whichever thread started them."""
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # threads and processes that end meanwhile
            for child in (task / "children").read_text().split():
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.add(int(child))
    return found


def test_image_replaced_by_garbage_while_training(coco, tmp_path):
    """The run goes on without it and says so; the evaluation, which needs it, names it."""
    workdir = tmp_path / "run"
    run = Run(coco, workdir, "--config.train.num_steps=100000")
    run.wait_for(lambda: saved(workdir))
    victim = coco / "train2017" / "3.png"
    victim.write_bytes(random.Random(0).randbytes(500))
    wait_for_steps(run, workdir)
    run.signal(signal.SIGTERM)
    assert f"image skipped: {victim}" in run.end(143)
    last = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()][-1]
    assert last["skipped_images"] > 0

    (coco / "val2017" / "2.png").write_bytes(b"")
    output = Run(coco, workdir, "--mode=eval").end(2)
    assert str(coco / "val2017" / "2.png") in output.strip().splitlines()[-1]


def test_clock_set_back(coco, tmp_path, monkeypatch):
    """An hour earlier at every start: the log, the events and the checkpoints stay in order."""
    config = tiny_config(coco)
    now = time.time()
    for start_number in range(2):
        shift = 3600.0 * start_number
        monkeypatch.setattr(time, "time", lambda shift=shift: now - shift)
        steps = 2 * (start_number + 1)
        longer = dataclasses.replace(config.train, num_steps=steps)
        train(dataclasses.replace(config, train=longer), tmp_path / "run")
        assert saved(tmp_path / "run")[-1] == steps
    events = sorted(p.name for p in (tmp_path / "run").glob("events.out.tfevents.*"))
    assert len(events) == 2
    rows = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [2, 4]


def test_read_only_work_directory(coco, tmp_path):
    """Refused in one line, before anything is loaded or compiled."""
    folder = tmp_path / "fixed"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    for workdir in (folder, folder / "new"):
        arguments = ["--config=configs/rpn_r18_fpn_shapes.py", f"--workdir={workdir}"]
        result = subprocess.run(
            [sys.executable, "-c", WITHOUT_ROOT_RIGHTS, "-m", "jaxdet.main", *arguments],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        is_refusal(result.returncode, result.stderr, workdir, "Permission denied")
        assert list(folder.iterdir()) == []
