"""What a run leaves for reading: `metrics.jsonl` and TensorBoard events.

`metrics.jsonl` holds one JSON object per line: `{"kind": "train", "step": 50, "loss": ...}` for a
logged step and `{"kind": "eval", "step": 7330, "AR@100": ..., ...}` for an evaluation.  Step k
means that k updates were made.  A number that is not finite is written as `null`.
"""

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from jaxdet.errors import InputError
from jaxdet.files import write_whole

EVENTS_PREFIX = "events.out.tfevents."


class Logbook:
    """Writes `metrics.jsonl` and TensorBoard events into a work directory.

    When a method returns, what it wrote outlives the process.  A checkpoint of step k must
    therefore be saved after the lines of step k were written; a run that resumes from it then
    goes on with steps neither doubled nor missing.
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

        Raises:
            InputError: the folder cannot be written.
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Logs numbers of a training step.

        Args:
            step: updates made.
            values: numbers by name; NumPy and jax scalars will do.

        Raises:
            InputError: the work directory cannot be written.
        """
        self._write("train", step, values)

    def evaluation(self, step: int, result: Mapping[str, Any]) -> None:
        """Logs an evaluation, nested as in `eval.json`.

        Args:
            step: updates made before it.
            result: figures by name; None where there is none.

        Raises:
            InputError: the work directory cannot be written.
        """
        self._write("eval", step, result)
        self._evaluated.add(step)

    def evaluated(self, step: int) -> bool:
        """Returns whether `metrics.jsonl` has an evaluation of this step.

        A run killed between a checkpoint and its evaluation asks this when it resumes.
        """
        return step in self._evaluated

    def image(self, step: int, name: str, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """Adds an image to the TensorBoard events.

        Args:
            step: updates made.
            name: TensorBoard's tag.
            image: RGB.

        Raises:
            InputError: the work directory cannot be written.
        """
        if not self._open:
            return
        height, width, _ = image.shape
        encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
        record = Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=encoded
        )
        with self._reported():
            self._add_events(step, [Summary.Value(tag=name, image=record)])

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
        plain = _plain(values)
        record = {"kind": kind, "step": step, **_finite(plain)}
        numbers = [
            Summary.Value(tag=f"{kind}/{name}", simple_value=value)
            for name, value in _flat(plain)
            if isinstance(value, int | float)
        ]
        with self._reported():
            # Unbuffered: a kill leaves the whole line, or at worst a torn last one.
            line = json.dumps(record, allow_nan=False).encode() + b"\n"
            while line:  # a full disk takes a part first and complains at the rest
                line = line[self._file.write(line) :]
            self._add_events(step, numbers)

    def _add_events(self, step: int, values: list[Summary.Value]) -> None:
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=values))
        self._events.write(event.SerializeToString())
        self._events.flush()

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"{self._path.parent}: cannot write the log: {error.strerror or error}; "
                "free some space or choose another --workdir"
            ) from error


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

    The records are written here and not through `SummaryWriter`, whose queue and threads lose
    the last events when the process is killed.
    """
    # TensorBoard reads a run's files in the order of their names, which must therefore grow even
    # when two runs start within a second or the clock was set back.
    stamps = [p.name.removeprefix(EVENTS_PREFIX)[:10] for p in folder.glob(EVENTS_PREFIX + "*")]
    used = [int(stamp) for stamp in stamps if stamp.isdecimal()]
    stamp = max([int(time.time()), *(other + 1 for other in used)])
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


def _plain(value: Any) -> Any:
    """Returns NumPy and jax numbers and arrays as Python's own, at any depth."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _finite(value: Any) -> Any:
    """Returns plain data with None for every number that JSON cannot hold."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested dicts, named like `fast/AR@100`."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value
