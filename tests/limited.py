"""Reads hostile files in a child: 2 s of computing for each, 1 GiB in all, and nothing executed."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

TESTS = Path(__file__).parent

# A file of use is read first, so that what libraries load at their first use is there.
CHILD = """
import importlib, json, os, resource, signal, sys
import encodings.utf_8_sig, encodings.utf_16, encodings.utf_16_le, encodings.utf_16_be
import encodings.utf_32, encodings.utf_32_le, encodings.utf_32_be, numpy.ma  # at first use
from jaxdet.errors import InputError

module, name = sys.argv[1].split(":")
read = getattr(importlib.import_module(module), name)
good, folder = sys.argv[2:]
read(good)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
limit = int(status["VmData"].split()[0]) * 1024 + 2**30
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
ACTS = ("subprocess.", "socket.", "os.", "shutil.", "pickle.find_class", "ctypes.", "import")

def watch(event, args):
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
    if writes or event.startswith(ACTS) and not event.startswith(("os.listdir", "os.scandir")):
        os.write(2, f"{event} {args!a:.200}".encode())
        os._exit(99)

names = sorted(os.listdir(folder))
sys.addaudithook(watch)
for name in names:
    path = os.path.join(folder, name)
    signal.setitimer(signal.ITIMER_PROF, 2)  # SIGPROF ends this process
    try:
        read(path)
        line = ""
    except InputError as error:
        line = str(error)
    except BaseException as error:
        line = f"{type(error).__name__} {error!s:.1000}"
    signal.setitimer(signal.ITIMER_PROF, 0)
    print(json.dumps([name, line]), flush=True)
"""


def read_each(reader: str, good: bytes, cases: Iterable[bytes], folder: Path) -> dict[int, str]:
    """What the files of these bytes are refused with, "" where they are read.

    `reader` is like "jaxdet.weights.torch_file:read"; `good` is a file that it reads.
    """
    inputs = folder / "cases"
    inputs.mkdir()
    for i, data in enumerate(cases):
        (inputs / f"{i:06}").write_bytes(data)
    (folder / "good").write_bytes(good)
    places = [str(path) for path in (TESTS.parent, TESTS, TESTS / "data")]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, reader, folder / "good", inputs],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        errors="backslashreplace",  # C++ may quote a file's bytes
        check=False,
    )
    outcomes = {int(name): line for name, line in map(json.loads, done.stdout.splitlines())}
    missed = inputs / f"{len(outcomes):06}"
    assert done.returncode == 0, f"{missed}: {done.returncode}: {done.stderr[-2000:]}"
    assert len(outcomes) == i + 1
    for number, line in outcomes.items():
        path = inputs / f"{number:06}"
        assert not line or line.startswith(f"{path}: "), f"{path}: {line}"
        assert line.isprintable()
        assert len(line) <= 1200
    return outcomes
