"""Test-wide settings: eight simulated devices, exact products, annotations checked, no network."""

import os
from pathlib import Path

# Must come before jax is imported anywhere.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
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

# Shapes and dtypes in the annotations of every jaxdet module are checked at run time.
install_import_hook("jaxdet", "beartype.beartype")


@pytest.fixture(scope="session")
def golden():
    """Loads an array file of tests/golden by name: `golden("ops")["iou"]`."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(Path(__file__).parent / "golden" / f"{name}.npz") as arrays:
            return dict(arrays)

    return load
