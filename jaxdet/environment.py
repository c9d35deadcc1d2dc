"""What figures were measured with: the machine and the versions."""

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
    """Returns hardware and versions, ready for JSON.

    Returns:
        `date` (UTC), `system`, `cpu` (model), `cores` (that this process may use), `memory_gb`,
        `devices` (`kind` and `count` over all hosts, `runtime`: the backend's version) and
        `versions` by package.
    """
    devices = jax.devices()
    # In reverse, as the first of a name on the path is what is imported.
    installed = {p.name: p.version for p in reversed([*metadata.distributions()])}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "system": platform.platform(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "memory_gb": round(memory / 1e9, 1),
        "devices": {
            "kind": devices[0].device_kind,
            "count": len(devices),
            "runtime": " ".join(get_backend().platform_version.split()),
        },
        "versions": {
            "jaxdet": jaxdet.__version__,
            "python": platform.python_version(),
            **{name: installed[name] for name in PACKAGES if name in installed},
        },
    }


def peak_memory() -> tuple[float, str]:
    """Returns the largest amount of memory held so far, in GB, and whose it is.

    That of the local `device` that held most, as the zoo's table has it; where devices keep no
    count (a CPU), that of the `process`.
    """
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    if peaks := [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]:
        return max(peaks) / 1e9, "device"
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, "process"


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
