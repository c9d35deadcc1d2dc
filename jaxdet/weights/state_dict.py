"""The tensors of a checkpoint: where they lie in it, and what the file calls them."""

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxdet.errors import InputError

_LOG = logging.getLogger(__name__)

# Where tensors lie: the first of these that is there.  Averages come first where the tools that
# write them evaluate them (torchvision, timm, kin of DETR); mmengine's are in `state_dict` itself.
_ENTRIES = (
    *("model_ema", "state_dict_ema", "ema"),
    *("state_dict", "model", "model_state_dict", "module", "ema_state_dict"),
)
_AVERAGES = re.compile(r"(.*_)?ema(_.*)?")
# What other modules put in front of names, and torch.compile anywhere.
_WRAPPERS = re.compile(r"^((module|model|net|detector)\.|_orig_mod\.)+|(?<=\.)_orig_mod\.")
_COUNTERS = {"n_averaged", "steps"}  # beside averages
# mmdet 2 evaluates the plain names, under which it saves averages; with this it goes on training.
_SWAPPED = "ema_"


class StateDict(dict[str, np.ndarray]):
    """Tensors by name, and what the file calls them."""

    def __init__(self, tensors: Mapping[str, np.ndarray], own: Mapping[str, str]) -> None:
        super().__init__(tensors)
        self.own = dict(own)

    def renamed(self, rename: Callable[[str], str]) -> "StateDict":
        """Returns the same tensors under other names, without those that get none."""
        own = {new: own for name, own in self.own.items() if (new := rename(name))}
        return StateDict({new: x for name, x in self.items() if (new := rename(name))}, own)

    def in_file(self, name: str) -> str:
        """Returns what the file calls a tensor; of one that it lacks, judged by its neighbours."""
        if name in self.own:
            return self.own[name]
        parts = name.split(".")
        for i in range(len(parts) - 1, -1, -1):
            scope = "".join(f"{part}." for part in parts[:i])
            for other, own in self.own.items():
                rest = other[len(scope) :]
                if other.startswith(scope) and own.endswith(rest):
                    return own.removesuffix(rest) + name[len(scope) :]
        return name


def state_dict(checkpoint: Any, source: str = "the checkpoint") -> StateDict:
    """Returns the tensors of a checkpoint, without `module.` and the like in front of their names.

    They lie under 'state_dict', 'model' or the like, or are the checkpoint.  Where it also holds
    running averages, those weights are taken that its own tool evaluates, and a line says so.
    Raises `InputError`, which names the file `source`, if there are no named tensors, or two of the
    same name.
    """
    if isinstance(checkpoint, StateDict):
        return checkpoint
    tensors = checkpoint if isinstance(checkpoint, Mapping) else {}
    if "conv1_w" in tensors or "blobs" in tensors:
        raise InputError(f"{source}: a backbone only; set config.model.pretrained to it instead")
    while key := next((k for k in _ENTRIES if isinstance(tensors.get(k), Mapping)), None):
        beside = [k for k in tensors if isinstance(k, str) and isinstance(tensors[k], Mapping)]
        averages = [k for k in beside if _AVERAGES.fullmatch(k) and k != key]
        if averages or _AVERAGES.fullmatch(key):
            left = ", ".join(averages or [k for k in beside if k in _ENTRIES and k != key])
            _LOG.warning("%s: weights are those of %s (not of: %s)", source, key, left or "-")
        tensors = tensors[key]
    others = [k for k, x in tensors.items() if type(k) is not str or not isinstance(x, np.ndarray)]
    if others or not tensors:
        found = ", ".join(f"{key!s:.60}" for key in others[:5]) or "none"
        raise InputError(
            f"{source}: holds no state dict: expected named tensors, alone or under 'state_dict', "
            f"'model' or the like; found, that are none: {found}"
        )
    own: dict[str, str] = {}
    swapped = 0
    for name, array in tensors.items():
        bare = _WRAPPERS.sub("", name)
        if bare.startswith(_SWAPPED) and "." not in bare:
            swapped += 1
        elif not (bare in _COUNTERS and not array.ndim):
            other = own.setdefault(bare, name)
            if other != name:
                raise InputError(f"{source}: {other} and {name} are names of one tensor")
    if swapped:
        _LOG.warning(
            "%s: mmdet's averages: those evaluated have the plain names; %d that begin with %s are "
            "for training on, and left out",
            *(source, swapped, _SWAPPED),
        )
    return StateDict({bare: tensors[name] for bare, name in own.items()}, own)
