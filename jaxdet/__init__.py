"""Object detection in functional JAX.

    rpn = jaxdet.load("rpn_r50_fpn_1x", "zoo://rpn_r50_fpn_1x")
    result = rpn("street.jpg")

Configs are named in `jaxdet/configs`; what else there is to import, docs/api.md lists.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxdet.errors import InputError

if TYPE_CHECKING:
    from jaxdet.inference.exported import ExportedModel, load_exported
    from jaxdet.inference.predictor import FeatureMaps, Predictor, load
    from jaxdet.inference.single import Result

__version__ = "0.1.0"
__all__ = [
    "ExportedModel",
    "FeatureMaps",
    "InputError",
    "Predictor",
    "Result",
    "load",
    "load_exported",
]

_ROOMS = {
    "ExportedModel": "exported",
    "load_exported": "exported",
    "FeatureMaps": "predictor",
    "Predictor": "predictor",
    "load": "predictor",
    "Result": "single",
}


def __getattr__(name: str) -> Any:
    # Looked up late: loader processes import jaxdet.data and must not pay for jax.
    if name not in _ROOMS:
        raise AttributeError(f"module 'jaxdet' has no attribute {name!r}")
    return getattr(importlib.import_module(f"jaxdet.inference.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
