"""Runs `python -m jaxdet.main` many times, in forks of one process that imports it once."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# One device, as users have; programs are made in two thirds of the time, and run slower.
QUICK = "--xla_backend_optimization_level=0"

# One run per list of arguments.
DRIVER = """
import json, os, resource, runpy, signal, sys, tempfile
import jaxdet.data_check, jaxdet.inference.export, jaxdet.inference.predict, jaxdet.cli
from ml_collections import config_flags

before, cases = json.load(sys.stdin)
for arguments in cases:
    output = [tempfile.TemporaryFile() for _ in range(2)]
    child = os.fork()
    if not child:
        signal.alarm(100)
        for number, file in enumerate(output, 1):
            os.dup2(file.fileno(), number)
        exec(before)
        sys.argv = ["main", *arguments]
        code = 70
        try:
            runpy.run_module("jaxdet.main", run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for file in output:
        file.seek(0)
    print(json.dumps([status, *(file.read().decode() for file in output)]))
"""


# For `before`: root writes and reads where it may not, unless it gives up all rights of its own.
AS_A_USER = """
import ctypes
if ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()):
    raise OSError("capset")
"""


def run_forked(*cases: list[str], before: str = "") -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each, whose process runs `before` first."""
    result = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps([before, cases]),
        env={**os.environ, "XLA_FLAGS": QUICK, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    return [tuple(json.loads(line)) for line in result.stdout.splitlines()]
