"""What a run leaves for reading: `metrics.jsonl` and TensorBoard events.

`metrics.jsonl` holds one JSON object per line: `{"kind": "train", "step": 50, "loss": ...}` for a
logged step and `{"kind": "eval", "step": 7330, "AR@100": ..., ...}` for an evaluation.  Step k
means that k updates were made.  A number that is not finite is written as `null`.
"""

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import UInt8
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from jaxdet.files import reported, write_whole

EVENTS_PREFIX = "events.out.tfevents."


class Logbook:
    """Writes `metrics.jsonl` and TensorBoard events into a work directory.

    When a method returns, what it wrote outlives the process.  A checkpoint of step k must
    therefore be saved after the lines of step k were written; a run that resumes from it then
    goes on with steps neither doubled nor missing.  Methods raise `InputError` when the work
    directory cannot be written.
    """

    def __init__(
        self, workdir: str | os.PathLike[str], resume_step: int | None = None, write: bool = True
    ):
        """Opens the files, making the folder where needed.

        Args:
            workdir: folder of the run.
            resume_step: updates made so far, 0 for a run that starts.  Lines and events of later
                steps are what an earlier, killed run left: they are dropped.  None keeps all.
            write: False on all hosts but the first; they read what the first has, in a work
                directory that they share, and write nothing.
        """
        folder = Path(workdir)
        self._path = folder / "metrics.jsonl"
        with self._reported():
            kept, self._evaluated = _lines_until(self._path, resume_step)
            if write:
                folder.mkdir(parents=True, exist_ok=True)
                write_whole(self._path, b"".join(kept))
                self._file = self._path.open("ab", buffering=0)
                self._events = _open_events(folder, resume_step)
        self._open = write

    def __enter__(self) -> "Logbook":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Logs numbers by name after `step` updates; NumPy and jax scalars will do."""
        self._write("train", step, values)

    def evaluation(self, step: int, result: Mapping[str, Any]) -> None:
        """Logs an evaluation after `step` updates, nested as in `eval.json`, None for no figure."""
        self._write("eval", step, result)
        self._evaluated.add(step)

    def evaluated(self, step: int) -> bool:
        """Returns whether `metrics.jsonl` has an evaluation of this step.

        A run killed between a checkpoint and its evaluation asks this when it resumes.
        """
        return step in self._evaluated

    def image(self, step: int, name: str, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """Adds an RGB image to the TensorBoard events, with `name` as its tag."""
        if self._open:
            self._add_events(step, summary.image(name, image, dataformats="HWC"))

    def close(self) -> None:
        """Closes the files; a second call does nothing."""
        if self._open:
            self._open = False
            self._file.close()
            with self._reported():
                self._events.close()

    def _write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        if not self._open:
            return
        # NumPy's and jax's numbers and arrays become Python's own.
        text = json.dumps(values, default=lambda array: array.tolist())
        record = json.loads(text, parse_constant=lambda _: None)  # of NaN and infinity
        line = json.dumps({"kind": kind, "step": step, **record}).encode() + b"\n"
        numbers = [
            Summary.Value(tag=f"{kind}/{name}", simple_value=value)
            for name, value in flatten_dict(json.loads(text), sep="/").items()
            if isinstance(value, int | float)
        ]
        with self._reported():
            # Unbuffered: a kill leaves the whole line, or at worst a torn last one.
            while line:  # a full disk takes a part first and complains at the rest
                line = line[self._file.write(line) :]
        self._add_events(step, Summary(value=numbers))

    def _add_events(self, step: int, values: Summary) -> None:
        with self._reported():
            event = Event(wall_time=time.time(), step=step, summary=values)
            self._events.write(event.SerializeToString())
            self._events.flush()

    def _reported(self) -> contextlib.AbstractContextManager[None]:
        return reported(self._path.parent, "written", "free some space or choose another --workdir")


def read_rows(path: Path) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """Yields the lines of a `metrics.jsonl` and what they hold; None for a torn line."""
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
            yield line, {**row, "step": int(row["step"]), "kind": row["kind"]}
        except (ValueError, TypeError, KeyError):
            yield line, None


def _lines_until(path: Path, resume_step: int | None) -> tuple[list[bytes], set[int]]:
    """Returns the file's whole lines up to `resume_step`, and the steps that have an evaluation."""
    kept: list[bytes] = []
    evaluated = set()
    torn = 0
    for line, row in read_rows(path):
        if row is None:
            torn += 1
        elif resume_step is None or row["step"] <= resume_step:
            kept.append(line + b"\n")
            if row["kind"] == "eval":
                evaluated.add(row["step"])
    if torn:
        logging.getLogger(__name__).warning("%s: dropped %d torn line(s)", path, torn)
    return kept, evaluated


def _open_events(folder: Path, resume_step: int | None) -> RecordWriter:
    """Starts a TensorBoard event file; on resume it hides what follows `resume_step`.

    This is not `SummaryWriter`, which writes from a thread whose errors nobody sees, and loses
    the last events when the process is killed, even after `flush`.
    """
    # TensorBoard reads a run's files in the order of their names, which must therefore grow even
    # when two runs start within a second or the clock was set back.
    stamps = [p.name.removeprefix(EVENTS_PREFIX)[:10] for p in folder.glob(EVENTS_PREFIX + "*")]
    stamp = max([int(time.time()), *(int(used) + 1 for used in stamps if used.isdecimal())])
    writer = RecordWriter(str(folder / f"{EVENTS_PREFIX}{stamp:010d}.jaxdet"))
    starting = [Event(wall_time=time.time(), file_version="brain.Event:2")]
    if resume_step is not None:
        # Events from this step on, in older files, are shown no more.
        session = SessionLog(status=SessionLog.START)
        starting.append(Event(wall_time=time.time(), step=resume_step + 1, session_log=session))
    for event in starting:
        writer.write(event.SerializeToString())
    writer.flush()
    return writer
