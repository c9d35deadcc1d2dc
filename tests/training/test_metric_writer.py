import json
import signal
import struct
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from jaxdet.errors import InputError
from jaxdet.training.metric_writer import Logbook, read_rows


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def steps(folder):
    return [record["step"] for record in lines(folder)]


def events(folder):
    """All events in the order in which TensorBoard reads them; a torn last record is dropped."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data, start = path.read_bytes(), 0
        while start + 12 <= len(data):
            (length,) = struct.unpack_from("<Q", data, start)
            record = data[start + 12 : start + 12 + length]
            if len(record) == length:
                found.append(Event.FromString(record))
            start += 12 + length + 4
    return found


def scalar_events(folder, tag):
    return [
        (event.step, value.simple_value)
        for event in events(folder)
        for value in event.summary.value
        if value.tag == tag
    ]


def test_scalars_and_evaluations_reach_both_files(tmp_path):
    with Logbook(tmp_path, 0) as book:
        book.write("train", 1, {"loss": 0.5, "lr": 0.02, "count": 3})
        book.write("eval", 1, {"AR@100": 0.25, "recall_by_size": {"small": None, "large": 0.5}})
    assert lines(tmp_path) == [
        {"kind": "train", "step": 1, "loss": 0.5, "lr": 0.02, "count": 3},
        {
            "kind": "eval",
            "step": 1,
            "AR@100": 0.25,
            "recall_by_size": {"small": None, "large": 0.5},
        },
    ]
    assert events(tmp_path)[0].file_version == "brain.Event:2"
    assert scalar_events(tmp_path, "train/loss") == [(1, 0.5)]
    assert scalar_events(tmp_path, "train/count") == [(1, 3.0)]
    assert scalar_events(tmp_path, "eval/AR@100") == [(1, 0.25)]
    assert scalar_events(tmp_path, "eval/recall_by_size/large") == [(1, 0.5)]
    assert scalar_events(tmp_path, "eval/recall_by_size/small") == []


def test_lines_are_on_disk_at_once(tmp_path):
    with Logbook(tmp_path, 0) as book:
        book.write("train", 7, {"loss": 1.5})
        assert lines(tmp_path) == [{"kind": "train", "step": 7, "loss": 1.5}]
        assert scalar_events(tmp_path, "train/loss") == [(7, 1.5)]


def test_resume_drops_later_steps_and_a_torn_line(tmp_path):
    with Logbook(tmp_path, 0) as book:
        for step in range(1, 6):
            book.write("train", step, {"loss": float(step)})
            if step in (2, 4):
                book.write("eval", step, {"AR@100": step / 10})
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"kind": "train", "step": 2, "lo')
    with Logbook(tmp_path, 3) as book:
        assert steps(tmp_path) == [1, 2, 2, 3]
        assert book.evaluated == {2}
        book.write("train", 4, {"loss": 40.0})
        book.write("eval", 4, {"AR@100": 0.5})
        assert book.evaluated == {2, 4}
    assert steps(tmp_path) == [1, 2, 2, 3, 4, 4]
    assert lines(tmp_path)[-2]["loss"] == 40.0
    assert sorted(path.name for path in tmp_path.iterdir() if "events" not in path.name) == [
        "metrics.jsonl"
    ]
    # TensorBoard forgets what has a step at or after that of a session's start.
    starts = [e.step for e in events(tmp_path) if e.session_log.status == SessionLog.START]
    assert starts == [1, 4]


def test_torn_lines_are_dropped_and_whole_ones_kept(tmp_path):
    whole = b'{"kind": "train", "step": 9, "loss": 1e-05, "rate": null}\n'
    torn = [b"\0\0\0\n", b"\xff\xfe\n", b"[1]\n", b'{"step": "x", "kind": "eval"}\n', b'{"kind":']
    (tmp_path / "metrics.jsonl").write_bytes(whole + b"".join(torn))
    with Logbook(tmp_path, 9) as book:
        assert (tmp_path / "metrics.jsonl").read_bytes() == whole
        book.write("train", 10, {"loss": 2.0})
    assert steps(tmp_path) == [9, 10]


def test_other_hosts_read_and_write_nothing(tmp_path):
    with Logbook(tmp_path, 0) as first:
        first.write("eval", 4, {"AR@100": 0.5})
        first.write("eval", 6, {"AR@100": 0.5})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with Logbook(tmp_path, 5, write=False) as other:
        assert other.evaluated == {4}
        other.write("train", 6, {"loss": 1.0})
        other.write("eval", 6, {"AR@100": 0.5})
        assert other.evaluated == {4, 6}
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_event_files_follow_each_other_even_if_the_clock_goes_back(tmp_path, monkeypatch):
    names = []
    for now in (2_000_000_000.0, 2_000_000_000.0, 1_000_000_000.0):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        with Logbook(tmp_path, 0) as book:
            book.write("train", 1, {"loss": 1.0})
        new = {path.name for path in tmp_path.glob("events*")} - set(names)
        names += list(new)
    assert len(names) == 3
    assert names == sorted(names)


def test_image_event_is_the_image(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    with Logbook(tmp_path, 0) as book:
        book.write("eval", 3, {"AR@100": 0.5}, image)
    event = events(tmp_path)[-1]
    value = event.summary.value[1]
    assert (event.step, value.tag) == (3, "found")
    assert (value.image.height, value.image.width) == (5, 7)
    encoded = np.frombuffer(value.image.encoded_image_string, np.uint8)
    np.testing.assert_array_equal(cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1], image)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written") as caught:
        Logbook(tmp_path / "file", 0)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "file") in str(caught.value)


WRITER = """
import sys
from pathlib import Path
from jaxdet.training.metric_writer import Logbook, read_rows
with Logbook(Path(sys.argv[1]), int(sys.argv[2])) as book:
    for step in range(int(sys.argv[2]) + 1, 100000):
        book.write("train", step, {"loss": 1.0 / step})
        print(step, flush=True)
"""


@pytest.mark.slow
def test_killed_and_resumed_runs_leave_every_step_once(tmp_path):
    done = 0
    for wanted in (20, 41):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(done)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                if int(line) >= wanted:
                    process.send_signal(signal.SIGKILL)
                    break
        assert process.returncode == -signal.SIGKILL
        done = wanted - 5  # as if the last checkpoint lay five steps back
    with Logbook(tmp_path, done):
        pass
    assert steps(tmp_path) == list(range(1, done + 1))
    # What was logged before the kill is in the event files too.
    assert {step for step, _ in scalar_events(tmp_path, "train/loss")} >= set(range(1, 42))


DISK_FULL = """
import resource, sys
from pathlib import Path
from jaxdet.errors import InputError
from jaxdet.training.metric_writer import Logbook, read_rows
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
try:
    with Logbook(Path(sys.argv[1]), 0) as book:
        for step in range(1, 100):
            book.write("train", step, {"a": eval(sys.argv[2])})
except InputError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.parametrize("value", ["1", "10**100"])  # events, or metrics.jsonl, run out first
def test_full_disk_is_one_line_and_the_log_stays_usable(tmp_path, value):
    command = [sys.executable, "-c", DISK_FULL, str(tmp_path), value]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (2, "")
    assert run.stdout.startswith(f"{tmp_path}: cannot be written: File too large; ")
    assert run.stdout.count("\n") == 1
    torn = (tmp_path / "metrics.jsonl").read_bytes()[-1:] != b"\n"
    assert torn == (value != "1")
    with Logbook(tmp_path, 1) as book:
        book.write("train", 2, {"a": 4})
    assert steps(tmp_path) == [1, 2]


DEEP = 100_000 * "["


@pytest.mark.parametrize(
    "line",
    [
        *["", "5", "null", "[]", DEEP, "\xff", '{"kind": "train", "st', '{"kind": "train"}'],
        *['{"kind": "train", "step": 1e400}', '{"kind": "train", "step": -1}', '{"step": 1}'],
        *['{"kind": "train", "step": true}', '{"kind": "train", "step": 1, "loss": "x"}'],
        *[f'{{"kind": "eval", "step": {"9" * 5000}}}', '{"kind": "other", "step": 1}'],
        f'{{"kind": "eval", "step": 1, "AR@100": {DEEP}}}',
    ],
)
def test_lines_that_no_run_wrote_are_passed_over(tmp_path, line):
    good = [
        {"kind": "train", "step": 5, "loss": 1.5, "epoch": 1, "lr": None},
        {"kind": "eval", "step": 5, "AR@100": 0.5, "by_size": {"small": None}},
    ]
    text = "\n".join([json.dumps(good[0]), line, json.dumps(good[1])]) + "\n"
    (tmp_path / "metrics.jsonl").write_text(text, "latin-1")
    assert read_rows(tmp_path / "metrics.jsonl") == good
