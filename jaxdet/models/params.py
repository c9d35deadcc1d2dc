"""Parameter trees: nested dicts whose leaves are float32 arrays."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
from flax import traverse_util

from jaxdet.types import Params

Trainable = Callable[[tuple[str, ...]], bool]


def apply(module: nn.Module, params: Params, *arguments: Any, method: Any = None) -> Any:
    """Returns what a module, or a method of it, makes of its arguments and parameters."""
    return module.apply({"params": params}, *arguments, method=method)


def split_params(params: Params, trainable: Trainable) -> tuple[Params, Params]:
    """Returns the tensors that train, and the frozen ones.

    `trainable` is asked with each tensor's path, e.g. ('neck', 'fpn_convs_0', 'bias').
    """
    flat = traverse_util.flatten_dict(params)
    parts = ({k: v for k, v in flat.items() if trainable(k) == wanted} for wanted in (True, False))
    return tuple(traverse_util.unflatten_dict(part) for part in parts)


def merge_params(trainable: Params, frozen: Params) -> Params:
    """Returns the whole tree; undoes `split_params`."""
    flatten = traverse_util.flatten_dict
    return traverse_util.unflatten_dict({**flatten(trainable), **flatten(frozen)})
