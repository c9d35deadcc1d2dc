"""What figures were measured with: the machine and the versions."""

import importlib.metadata
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
from jax.extend.backend import get_backend

import jaxdet

PACKAGES = ("jax", "jaxlib", "flax", "optax", "grain", "numpy", "opencv-python-headless")


def environment() -> dict[str, Any]:
    """Returns hardware and versions, ready for JSON.

    Returns:
        `date` (UTC), `system`, `cpu` (model), `cores` (that this process may use), `memory_gb`
        (None where unknown), `devices` (`kind` and `count` over all hosts, `runtime`: the
        backend's version) and `versions` by package.
    """
    devices = jax.devices()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "system": platform.platform(),
        "cpu": _cpu_model(),
        "cores": _cores(),
        "memory_gb": _memory_gb(),
        "devices": {
            "kind": devices[0].device_kind,
            "count": len(devices),
            "runtime": " ".join(get_backend().platform_version.split()),
        },
        "versions": {
            "jaxdet": jaxdet.__version__,
            "python": platform.python_version(),
            **{name: version for name in PACKAGES if (version := _version(name))},
        },
    }


def peak_memory() -> tuple[float | None, str]:
    """Returns the largest amount of memory held so far, in GB, and whose it is.

    That of the local `device` that held most, as the zoo's table has it; where devices keep no
    count (a CPU), that of the `process`; None where the system keeps none either.
    """
    stats = [device.memory_stats() for device in jax.local_devices()]
    peaks = [s["peak_bytes_in_use"] for s in stats if s and "peak_bytes_in_use" in s]
    return (max(peaks) / 1e9, "device") if peaks else (_peak_process_memory_gb(), "process")


def _peak_process_memory_gb() -> float | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else []:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # no such function or name on this system
        return None
    return round(size / 1e9, 1)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
