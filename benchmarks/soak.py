"""Memory and open files over an hour's worth of training steps, and over 10,000 predictions.

    nice -n 15 python -m benchmarks.soak

Training is `python -m jaxdet.main` with the demo's images and its rhythm of lines, checkpoints
and evaluations, but smaller batches and layers, so that the steps of an hour take minutes: what
is forgotten after a step, a line or a checkpoint would add up just the same.  Predictions go
through `jaxdet.load`, from files and arrays, every image of another size, and through
`--mode=predict --shards=jsonl`, from files alone, by one process and by two with a core each, which
also shows how images per second grow.  What a process holds is read from `/proc`, as Linux has it.
"""

import argparse
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

import jaxdet
from benchmarks.timing import save
from jaxdet import config as config_lib
from jaxdet.data.images import PART

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "rpn_r18_fpn_shapes.py"
NARROW = {"stem_channels": 4, "fpn_channels": 4, "head_channels": 4}
SCALE = (96, 80)
SMALL = (
    *(f"--config.model.{name}={value}" for name, value in NARROW.items()),
    f"--config.data.image_scale={SCALE}",
    "--config.data.images_per_device=4",
    "--config.train.log_every=20",
    "--config.train.eval_every=9",
)
STEPS_OF_AN_HOUR = 14_000  # at four a second
PREDICTIONS = 10_000
EVERY = 100  # steps or predictions from one look to the next
FIRST = 60  # the first look; checkpoints, after 200, 400, ... steps, are written by then
# Programs are compiled, caches and pools of memory filled, before anything can be called flat.
WARM_UP = 0.2
SIDES = (60, 240)  # of the images to predict on, in pixels; scaled up or down to SCALE


class Sample(NamedTuple):
    """What a process holds after `done` steps or predictions."""

    done: int
    # Resident memory of its own; parts of files, programs among them, come and go as the kernel
    # likes.
    megabytes: float
    handles: int  # open files, pipes and sockets


def held_by(process: int, done: int) -> Sample:
    """Asks the system what a process holds."""
    folder = Path("/proc") / str(process)
    private = re.search(r"RssAnon:\s+(\d+) kB", (folder / "status").read_text())
    assert private is not None
    handles = sum(1 for _ in (folder / "fd").iterdir())
    return Sample(done, int(private[1]) / 1024, handles)


def watch(arguments: Sequence[str]) -> list[Sample]:
    """Runs a Python module and looks at its process whenever it has said `step <number>`.

    Raises:
        RuntimeError: it failed; the message is what it said last.
    """
    command = [sys.executable, "-m", *arguments]
    samples: list[Sample] = []
    said: list[str] = []
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said = [*said[-20:], line]
            step = re.match(r"step +(\d+)/", line)
            if step and int(step[1]) % EVERY == FIRST:
                samples.append(held_by(process.pid, int(step[1])))
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{''.join(said)}")
    return samples


def train(steps: int, workdir: Path, *flags: str) -> list[Sample]:
    """Trains a narrow network in a process of its own; leaves its work directory."""
    return watch(
        [
            "jaxdet.main",
            f"--config={CONFIG}",
            *SMALL,
            f"--config.train.num_steps={steps}",
            f"--workdir={workdir}",
            *flags,
        ]
    )


def predict(count: int, workdir: Path) -> list[Sample]:
    """Predicts with what `train` has left, in a process of its own."""
    return watch(["benchmarks.soak", f"--predict={workdir}", f"--predictions={count}"])


def predict_here(count: int, workdir: Path) -> None:
    """The program of `predict`."""
    config = config_lib.load_file(CONFIG)
    config.model.update(NARROW)
    config.data.image_scale = SCALE
    rpn = jaxdet.load(config, workdir)
    rng = np.random.default_rng(0)
    path = str(workdir / "image.png")
    for number in range(1, count + 1):
        height, width = rng.integers(*SIDES, 2)
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        if number % 2:
            cv2.imwrite(path, image)
        rpn(path if number % 2 else image)
        if number % EVERY == FIRST:
            print(f"step {number}/{count}", flush=True)


def write_images(folder: Path, count: int) -> None:
    """As many files of noise, of a hundred different images."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        path = folder / f"{number:06}.png"
        if number < 100:
            height, width = rng.integers(*SIDES, 2)
            cv2.imwrite(str(path), rng.integers(0, 256, (height, width, 3), np.uint8))
        else:
            path.hardlink_to(folder / f"{number % 100:06}.png")


def predict_in_shards(
    images: Path, workdir: Path, out: Path, processes: int
) -> tuple[list[Sample], float]:
    """Predicts a folder of images with what `train` has left, by processes that have a core each.

    Returns:
        A sample of the first process after each of its files, and images per second, from the
        first file of each process to the last.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "jaxdet.main", f"--checkpoint={workdir}", "--mode=predict"]
    command += [f"--images={images}", f"--out={out}", "--shards=jsonl", "--top=100"]
    command += ["--config.data.num_workers=0"]
    if processes > 1:
        command += [f"--coordinator_address={address}", f"--num_processes={processes}"]
    cores = sorted(os.sched_getaffinity(0))
    started = []
    for i in range(processes):
        own = ["taskset", "-c", str(cores[i % len(cores)]), *command]
        own += [f"--process_id={i}"] if processes > 1 else []
        started.append(subprocess.Popen(own, cwd=ROOT, stdout=subprocess.DEVNULL))
    samples: list[Sample] = []
    while any(process.poll() is None for process in started):
        done = PART * len([*out.glob("*.jsonl")])
        if done and (not samples or samples[-1].done < done) and started[0].poll() is None:
            samples.append(held_by(started[0].pid, done))
        time.sleep(0.05)
    if any(process.returncode for process in started):
        raise RuntimeError(f"{' '.join(command)} failed")
    ends = sorted(path.stat().st_mtime for path in out.glob("*.jsonl"))
    return samples, PART * (len(ends) - processes) / (ends[-1] - ends[processes - 1])


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """The line through the samples that follow the warm-up.

    Returns:
        How many steps or predictions, `mb_per_1000` of them and its standard error; the rises
        from look to look alone, so that no drop hides them; resident memory after the warm-up, at
        the end and at most; the fewest handles in the first and in the second half, and the most
        (a checkpoint may be in the writing).
    """
    count = samples[-1].done
    kept = [sample for sample in samples if sample.done > WARM_UP * count]
    counts, megabytes, handles = np.array(kept, float).T
    away = counts - counts.mean()
    slope = away @ megabytes / (away @ away)
    rest = megabytes - megabytes.mean() - slope * away
    error = np.sqrt(rest @ rest / (len(kept) - 2) / (away @ away))
    rises = np.diff(megabytes).clip(min=0).sum()
    return {
        "count": count,
        "samples": len(kept),
        "mb_per_1000": round(1000 * slope, 3),
        "mb_per_1000_error": round(1000 * error, 3),
        "rises_mb_per_1000": round(1000 * rises / (counts[-1] - counts[0]), 3),
        "start_mb": round(megabytes[0], 1),
        "end_mb": round(megabytes[-1], 1),
        "most_mb": round(megabytes.max(), 1),
        "handles": [int(half.min()) for half in np.array_split(handles, 2)],
        "most_handles": int(handles.max()),
    }


def shown(name: str, row: dict[str, Any]) -> str:
    """A row as text."""
    return (
        f"{row['count']} {name}: {row['mb_per_1000']:+.3f} +- {row['mb_per_1000_error']:.3f} MB "
        f"per 1000 ({row['rises_mb_per_1000']:.3f} without drops), {row['start_mb']:.1f} to "
        f"{row['end_mb']:.1f} MB, at most {row['most_mb']:.1f}; {row['handles'][0]}, then "
        f"{row['handles'][1]} open files, at most {row['most_handles']}"
    )


def main() -> None:
    """Soaks, prints and saves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS_OF_AN_HOUR)
    parser.add_argument("--predictions", type=int, default=PREDICTIONS)
    parser.add_argument("--predict", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.predict:
        predict_here(args.predictions, args.predict)
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "run"
        for name, work in (("steps", train), ("predictions", predict)):
            samples = work(getattr(args, name), workdir)
            rows.append({"of": name, **summary(samples)})
            print(shown(name, rows[-1]), flush=True)
        write_images(Path(folder) / "images", args.predictions)
        for processes in (1, 2):
            out = Path(folder) / f"out{processes}"
            samples, rate = predict_in_shards(Path(folder) / "images", workdir, out, processes)
            name = f"predictions in shards, {processes} x 1 core"
            rows.append({"of": name, **summary(samples), "images_per_second": round(rate, 1)})
            print(shown(name, rows[-1]), f"{rate:.1f} images/s", flush=True)
    save("soak", rows)


if __name__ == "__main__":
    main()
