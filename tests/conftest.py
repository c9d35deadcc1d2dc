"""Test-wide settings: eight simulated devices, exact products, annotations checked, no network."""

import ctypes
import gc
import os
from pathlib import Path

# Must come before jax is imported anywhere.  Devices that share a busy core come to where they
# meet more than the 40 s apart after which XLA would end the process.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_cpu_collective_call_terminate_timeout_seconds=600",
    ]
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax
import numpy as np
import pytest
from jaxtyping import install_import_hook
from offline import stay_offline

stay_offline()

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")

# Examples compile, and machines are busy: how long one takes says nothing.
hypothesis.settings.register_profile("jaxdet", deadline=None)
hypothesis.settings.load_profile("jaxdet")

# Shapes and dtypes in the annotations of every jaxdet module are checked at run time; not for the
# long tests in CI, where that is a third of the time that tracing takes.
if "UNCHECKED" not in os.environ:
    install_import_hook("jaxdet", "beartype.beartype")


@pytest.fixture(scope="session")
def golden():
    """Loads an array file of tests/golden by name: `golden("ops")["iou"]`."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(Path(__file__).parent / "golden" / f"{name}.npz") as arrays:
            return dict(arrays)

    return load


@pytest.fixture
def quick_programs():
    """Programs are made in two thirds of the time, and run slower: for small ones."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def few_blocks(monkeypatch):
    """One block a stage of a ResNet, and one that follows another: compiles in seconds."""
    from jaxdet.models import resnet  # whose annotations are checked from here on

    for depth in (18, 50):
        monkeypatch.setitem(resnet.BLOCKS, depth, (2, 1, 1, 1))


def pytest_collection_modifyitems(items):
    """Begins with the longest test of one process, which would end long after the others."""
    items.sort(key=lambda item: item.name != "test_demo_reaches_its_figures")


@pytest.fixture(autouse=True)
def give_memory_back(request):
    """After a slow test, for a process keeps its programs and, of its largest, most of the heap."""
    yield
    if request.node.get_closest_marker("slow"):
        jax.clear_caches()
        gc.collect()
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)  # glibc's alone
