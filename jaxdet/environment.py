"""What figures were measured with: the machine and the versions."""

import contextlib
import os
import platform
import resource
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from jax.extend.backend import get_backend

import jaxdet

PACKAGES = ("jax", "jaxlib", "flax", "optax", "grain", "numpy", "opencv-python-headless")


def environment() -> dict[str, Any]:
    """Returns hardware and versions, ready for JSON; devices are counted over all hosts."""
    devices = jax.devices()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "system": platform.platform(),
        "cpu": _cpu_line("model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "memory_gb": round(memory / 1e9, 1),
        "devices": {
            "kind": devices[0].device_kind,
            "count": len(devices),
            "runtime": " ".join(get_backend().platform_version.split()),
        },
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Returns the versions of jaxdet, Python and of what computes, reads and trains."""
    found = {"jaxdet": jaxdet.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def cpu_features() -> str:
    """Returns what machine code may make use of here."""
    return f"{platform.machine()} {_cpu_line('flags') or _cpu_line('Features')}"


def is_intel_avx512() -> bool:
    """Returns whether the CPU is Intel's and has AVX-512."""
    return _cpu_line("vendor_id") == "GenuineIntel" and "avx512f" in cpu_features().split()


def peak_memory() -> tuple[float, str]:
    """Returns the most memory, in GB, that a local `device` held so far, and that word.

    Where devices keep no count (a CPU), it is that of the `process`.
    """
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    if peaks := [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]:
        return max(peaks) / 1e9, "device"
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, "process"


def _cpu_line(name: str) -> str:
    """Returns what the system says of the first CPU, if it does."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
