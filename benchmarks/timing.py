"""Side-by-side timing: interleaved runs, medians, and a record of where they were taken."""

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxdet.environment import environment as machine

RESULTS = Path(__file__).parent / "results"


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


def environment() -> dict[str, Any]:
    """Hardware and versions that timings depend on."""
    record = {**machine(), "load": round(os.getloadavg()[0], 1)}
    try:
        import torch
    except ImportError:
        return record
    record["torch"] = torch.__version__
    record["torch_threads"] = torch.get_num_threads()
    record["torch_device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return record


def save(name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes rows and environment to `results/<name>-<cpu, gpu or tpu>.json`."""
    path = RESULTS / f"{name}-{jax.default_backend()}.json"
    path.parent.mkdir(exist_ok=True)
    text = json.dumps({"environment": environment(), "rows": list(rows)}, indent=2)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(text + "\n")
    unfinished.replace(path)
    return path
