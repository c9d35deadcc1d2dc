"""Object detection in functional JAX."""

from typing import Any

from jaxdet.errors import InputError

__version__ = "0.1.0"
__all__ = ["InputError", "load", "load_exported"]


def __getattr__(name: str) -> Any:
    # Looked up late: loader processes import jaxdet.data and must not pay for jax.
    if name == "load":
        from jaxdet.inference.predictor import load

        return load
    if name == "load_exported":
        from jaxdet.inference.exported import load_exported

        return load_exported
    raise AttributeError(f"module 'jaxdet' has no attribute {name!r}")
