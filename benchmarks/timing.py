"""Side-by-side timing: interleaved runs, medians, and a record of where they were taken."""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# PyTorch needs its part of a GPU's memory; must be set before jax looks for devices.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax

from jaxdet.environment import environment as machine

try:
    import torch
except ImportError:  # then jaxdet is measured alone
    torch = None  # type: ignore[assignment]

RESULTS = Path(__file__).parent / "results"


def torch_device() -> str:
    """Where PyTorch computes, '' if it is absent: on a GPU only if jax does, too."""
    if torch is None:
        return ""
    return "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"


def use_same_threads() -> None:
    """Gives PyTorch as many threads as XLA takes, one for each core."""
    if torch is not None and hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))


def paired_medians(
    thunks: Mapping[str, Callable[[], object]], repeats: int = 9
) -> dict[str, float]:
    """Median seconds of each thunk, after one call to warm up.

    Runs are interleaved, and the order turns from round to round, so that what else the
    machine does meets all of them alike.

    Args:
        thunks: functions without arguments that return when their work is done
            (`jax.block_until_ready`, `torch.cuda.synchronize`).
        repeats: timed rounds.
    """
    for thunk in thunks.values():
        thunk()
    names = list(thunks)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            thunks[name]()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def compared(seconds: Mapping[str, float]) -> dict[str, float]:
    """Adds `ratio`, the other's seconds over jaxdet's, where there is another."""
    others = [value for name, value in seconds.items() if name != "jaxdet"]
    return {**seconds, **({"ratio": others[0] / seconds["jaxdet"]} if others else {})}


def shown(row: Mapping[str, Any], others: str = "torch") -> str:
    """The timings of a row as text: theirs, ours and the ratio."""
    theirs = f"{row[others] * 1e3:10.1f} ms" if others in row else f"{'-':>13}"
    ratio = f"{row['ratio']:7.2f}" if "ratio" in row else ""
    return f"{theirs} {row['jaxdet'] * 1e3:10.1f} ms {ratio}"


def environment() -> dict[str, Any]:
    """Hardware and versions that timings depend on, load and niceness included."""
    record = {**machine(), "load": round(os.getloadavg()[0], 1), "nice": os.nice(0)}
    if torch is None:
        return record
    record["torch"] = torch.__version__
    if "torchvision" in sys.modules:
        record["torchvision"] = sys.modules["torchvision"].__version__
    record["torch_threads"] = torch.get_num_threads()
    device = torch_device()
    record["torch_device"] = torch.cuda.get_device_name() if device == "cuda" else device
    return record


def save(name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes rows and environment to `results/<name>-<cpu, gpu or tpu>.json`."""
    path = RESULTS / f"{name}-{jax.default_backend()}.json"
    path.parent.mkdir(exist_ok=True)
    text = json.dumps({"environment": environment(), "rows": list(rows)}, indent=2)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(text + "\n")
    unfinished.replace(path)
    print(f"written: {path}")
    return path
