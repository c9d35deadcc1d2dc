"""Side-by-side timing: interleaved runs, medians, and a record of where they were taken."""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
MAKERS = ("AMD", "Intel")  # of CPUs, whose ratios differ
# All share one heap, where buffers of gigabytes find a lasting place in a round or two.
WARM_UP = 2
# glibc's: one heap, grown in place and never given back, whose small pieces join large ones.
HEAP = (
    "glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1000000000000:"
    "glibc.malloc.top_pad=268435456:glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0"
)


def torch_device() -> str:
    """Where PyTorch computes, '' if it is absent: on a GPU only if jax does, too."""
    if torch is None:
        return ""
    return "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"


def keep_freed_memory() -> None:
    """Starts this command once more, on Linux, with a heap that keeps what is freed, for all sides.

    glibc gives buffers of gigabytes back, and their pages are made and zeroed anew at every step;
    see docs/training.md.  A `GLIBC_TUNABLES` that is set, though empty, stays.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "GLIBC_TUNABLES": HEAP})


def use_same_threads() -> None:
    """Gives PyTorch as many threads as XLA takes, one for each core."""
    if torch is not None and hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))


def paired_medians(
    thunks: Mapping[str, Callable[[], object]], repeats: int = 9
) -> dict[str, float]:
    """Median seconds of each thunk, after `WARM_UP` rounds.

    Runs are interleaved, and the order turns from round to round, so that what else the
    machine does meets all of them alike.

    Args:
        thunks: functions without arguments that return when their work is done
            (`jax.block_until_ready`, `torch.cuda.synchronize`).
        repeats: timed rounds.
    """
    for _ in range(WARM_UP):
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
    """Adds `ratio`, the fastest other's seconds over jaxdet's, where there is another."""
    others = [value for name, value in seconds.items() if name != "jaxdet"]
    return {**seconds, **({"ratio": min(others) / seconds["jaxdet"]} if others else {})}


def median_rates(
    runs: Mapping[str, Callable[[], Iterator[int]]],
    rounds: int,
    rate: Callable[[Iterator[int]], float] | None = None,
) -> dict[str, float]:
    """Median images per second of each, in turn; `ratio` is jaxdet's over the best other's.

    Args:
        runs: functions that begin, and give the number of images of each part that is done.
        rounds: how often all run.
        rate: images per second of one; by default from its beginning to its end.
    """
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds):
        for name in list(runs)[:: -1 if turn % 2 else 1]:
            rates[name].append((rate or from_beginning_to_end)(runs[name]()))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    others = [value for name, value in medians.items() if name != "jaxdet"]
    return {**medians, **({"ratio": medians["jaxdet"] / max(others)} if others else {})}


def from_beginning_to_end(parts: Iterator[int]) -> float:
    """Images per second."""
    start = time.perf_counter()
    return sum(parts) / (time.perf_counter() - start)


def shown(row: Mapping[str, Any], *others: str) -> str:
    """The timings of a row as text: theirs (PyTorch's by default), ours and the ratio."""
    sides = [name for name in (*(others or ("torch",)), "jaxdet") if name in row]
    ratio = f"{row['ratio']:7.2f}" if "ratio" in row else ""
    return " ".join(f"{name} {row[name] * 1e3:.1f} ms" for name in sides) + ratio


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
    """Writes rows and environment to `results/<name>-<gpu, cpu-amd, cpu-intel or cpu>.json`."""
    record, device = environment(), jax.default_backend()
    if device == "cpu":
        device += "".join(f"-{maker.lower()}" for maker in MAKERS if maker in record["cpu"])
    path = RESULTS / f"{name}-{device}.json"
    path.parent.mkdir(exist_ok=True)
    text = json.dumps({"environment": record, "rows": list(rows)}, indent=2)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(text + "\n")
    unfinished.replace(path)
    print(f"written: {path}")
    return path
