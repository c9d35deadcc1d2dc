"""What a run leaves for reading: `metrics.jsonl` and TensorBoard events.

`metrics.jsonl` holds one JSON object per line: `{"kind": "train", "step": 50, "loss": ...}` after
50 updates, and `{"kind": "eval", "step": 7330, "AR@100": ..., ...}` for an evaluation.
"""

import contextlib
import functools
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import UInt8
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from jaxdet.files import reported, write_whole

EVENTS_PREFIX = "events.out.tfevents."


class _Row(msgspec.Struct):
    """What every line has."""

    kind: Literal["train", "eval"]
    step: Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


_TRAIN = dict[str, int | float | Literal["train"] | None]


class Logbook(contextlib.AbstractContextManager["Logbook"]):
    """Writes `metrics.jsonl` and TensorBoard events into a work directory; use it as a context.

    When a method returns, what it wrote outlives the process: a run that goes on from a checkpoint
    saved after the lines of its step has steps neither doubled nor missing.  Methods raise
    `InputError` when the folder cannot be written.
    """

    def __init__(self, workdir: Path, resume_step: int, write: bool = True) -> None:
        """Opens the files of a run, without what a killed one left of steps after `resume_step`.

        `write` is False on all hosts but the first: they share the folder and only read.
        """
        self._write = write
        self._reported = functools.partial(reported, workdir, "written")
        path = workdir / "metrics.jsonl"
        with self._reported():
            rows = [row for row in read_rows(path) if row["step"] <= resume_step]
            # Steps of which `metrics.jsonl` has an evaluation.
            self.evaluated = {row["step"] for row in rows if row["kind"] == "eval"}
            if write:
                write_whole(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
                # Unbuffered: a kill leaves the whole line, or at worst a torn last one.
                self._file = path.open("ab", buffering=0)
                self._events = _open_events(workdir, resume_step)

    def __exit__(self, *_: Any) -> None:
        if self._write:
            self._file.close()
            with self._reported():
                self._events.close()

    def write(
        self,
        kind: str,
        step: int,
        values: Mapping[str, Any],
        image: UInt8[np.ndarray, "h w 3"] | None = None,
    ) -> None:
        """Logs what was found after `step` updates; `kind` is `train` or `eval`.

        `values` are finite numbers by name, nested as in `eval.json`, with None for no figure, and
        `image` what was found, RGB, for TensorBoard.
        """
        if kind == "eval":
            self.evaluated.add(step)
        if not self._write:
            return
        line = json.dumps({"kind": kind, "step": step, **values}, allow_nan=False).encode() + b"\n"
        found = [
            Summary.Value(tag=f"{kind}/{name}", simple_value=value)
            for name, value in flatten_dict(dict(values), sep="/").items()
            if isinstance(value, int | float)
        ]
        if image is not None:
            found += summary.image("found", image, dataformats="HWC").value
        with self._reported():
            while line:  # a full disk takes a part first and complains at the rest
                line = line[self._file.write(line) :]
            _write_event(self._events, step=step, summary=Summary(value=found))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Returns what the lines of a `metrics.jsonl` hold, without those torn or not ours."""
    rows = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            row = msgspec.json.decode(line, type=dict[str, Any])
            if msgspec.convert(row, _Row).kind == "train":
                msgspec.convert(row, _TRAIN)
            rows.append(row)
    return rows


def _open_events(folder: Path, resume_step: int) -> RecordWriter:
    """Starts a TensorBoard event file, which hides what follows `resume_step` in older ones.

    This is not `SummaryWriter`, which writes from a thread whose errors nobody sees, and loses
    the last events when the process is killed, even after `flush`.
    """
    # TensorBoard reads a run's files in the order of their names, which must therefore grow even
    # when two runs start within a second or the clock was set back.
    stamps = [p.name.removeprefix(EVENTS_PREFIX)[:10] for p in folder.glob(EVENTS_PREFIX + "*")]
    stamp = max([int(time.time()), *(int(used) + 1 for used in stamps if used.isdecimal())])
    writer = RecordWriter(str(folder / f"{EVENTS_PREFIX}{stamp:010d}.jaxdet"))
    _write_event(writer, file_version="brain.Event:2")
    start = SessionLog(status=SessionLog.START)
    _write_event(writer, step=resume_step + 1, session_log=start)
    return writer


def _write_event(writer: RecordWriter, **fields: Any) -> None:
    writer.write(Event(wall_time=time.time(), **fields).SerializeToString())
    writer.flush()
