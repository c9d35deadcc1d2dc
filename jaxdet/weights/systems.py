"""Checkpoints of other systems: their names, and the few numbers that they hold otherwise.

`layout` has the 2018 toolbox's names, which mmdet 2 and 3 kept.  A `System` says how one of those
names is spelled elsewhere, and turns a whole state dict (kernels OIHW) from that system's numbers
into the 2018 ones and back.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

Tensors = dict[str, np.ndarray]

_EPSILON = np.float32(1e-5)  # of every batch norm here


class System(NamedTuple):
    """One family of checkpoints."""

    conventions: tuple[str, ...]  # of configs that its files fit
    sign: str  # what begins a name that no other system has
    spell: Callable[[str], str]  # a 2018 name as this system spells it
    read: Callable[[Tensors], Tensors]  # its tensors, by its names, as the 2018 toolbox has them
    write: Callable[[Tensors], Tensors]  # the way back
    unused: tuple[str, ...] = ()  # beginnings of names that an RPN has no use for


def system_of(tensors: Mapping[str, np.ndarray]) -> System:
    """Returns the system whose names a state dict has."""
    for system in SYSTEMS.values():
        if any(name.startswith(system.sign) for name in tensors):
            return system
    return SYSTEMS["mmdet"]


def _spelled(rules: Mapping[str, str | Callable[[re.Match], str]]) -> Callable[[str], str]:
    """Returns a function that applies each rule, a pattern and what replaces it, to a name."""
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules.items()]

    def spell(name: str) -> str:
        for pattern, replacement in compiled:
            name = pattern.sub(replacement, name)
        return name

    return spell


def _detectron2_read(tensors: Tensors) -> Tensors:
    """Turns size-major anchors into ratio-major ones; a pyramid's backbone loses its scope."""
    tensors = {name.replace("backbone.bottom_up.", "backbone."): x for name, x in tensors.items()}
    return _reordered(tensors, (-1, _RATIOS))


def _detectron2_write(tensors: Tensors) -> Tensors:
    tensors = _reordered(tensors, (_RATIOS, -1))
    if any(name.startswith("backbone.fpn_") for name in tensors):
        inner = re.compile(r"^backbone\.(?=stem|res)")
        tensors = {inner.sub("backbone.bottom_up.", name): x for name, x in tensors.items()}
    return {name: x for name, x in tensors.items() if not name.endswith(_COUNTER)}


def _reordered(tensors: Tensors, anchors: tuple[int, int]) -> Tensors:
    """Exchanges the two kinds of index that an anchor of a cell has, in the head's last layers."""
    tensors = dict(tensors)
    for layer in ("objectness_logits", "anchor_deltas"):
        for name in (f"{_DETECTRON2_HEAD}.{layer}.{leaf}" for leaf in ("weight", "bias")):
            per_anchor = 1 if layer == "objectness_logits" else 4
            x = tensors.get(name)
            if x is not None and x.ndim and x.shape[0] % (_RATIOS * per_anchor) == 0:
                split = x.reshape(*anchors, per_anchor, *x.shape[1:])
                tensors[name] = split.swapaxes(0, 1).reshape(x.shape)
    return tensors


def _torchvision_read(tensors: Tensors) -> Tensors:
    """Folds what the network does not have into what it has.

    An epsilon of 0 into the scales of a file without counters, as the published files of version
    1 were made; batch norms after the pyramid's convolutions (version 2) into these.
    """
    tensors = {_TORCHVISION_OLD.sub(r"\1.0\2", name): x for name, x in tensors.items()}
    counted = any(name.endswith(_COUNTER) for name in tensors)
    for name in [name for name in tensors if name.endswith(".running_var")]:
        scope = name.removesuffix(".running_var")
        variance = tensors[name]
        if scope.startswith("backbone.body.") and not counted:
            ratio = np.sqrt((variance + _EPSILON) / variance)
            tensors[f"{scope}.weight"] = tensors[f"{scope}.weight"] * ratio
        elif scope.startswith("backbone.fpn."):
            scale, bias, mean, variance = (tensors.pop(f"{scope}.{leaf}") for leaf in _NORM)
            slope = scale / np.sqrt(variance + _EPSILON)
            conv = f"{scope.removesuffix('.1')}.0"
            kernel = tensors[f"{conv}.weight"]
            tensors[f"{conv}.weight"] = kernel * slope[:, None, None, None]
            tensors[f"{conv}.bias"] = bias - mean * slope
    return tensors


def _torchvision_write(tensors: Tensors) -> Tensors:
    """Gives a pyramid of version 2 norms that change nothing but add the bias."""
    if "rpn.head.conv.1.0.weight" not in tensors:
        return tensors
    written: Tensors = {}
    for name, x in tensors.items():
        if not (name.startswith("backbone.fpn.") and name.endswith(".0.bias")):
            written[name] = x
            continue
        one, scope = np.ones_like(x), f"{name.removesuffix('.0.bias')}.1"
        values = one, x, np.zeros_like(x), one - _EPSILON
        written |= {f"{scope}.{leaf}": value for leaf, value in zip(_NORM, values, strict=True)}
        written[f"{scope}.{_COUNTER}"] = np.array(0, np.int64)
    return written


def _mmdet_read(tensors: Tensors) -> Tensors:
    """An RPN that mmdet 3 trained calls its head by another name."""
    return {re.sub(r"^bbox_head\.rpn_", "rpn_head.rpn_", name): x for name, x in tensors.items()}


_NORM = ("weight", "bias", "running_mean", "running_var")
_COUNTER = "num_batches_tracked"
_RATIOS = 3
_DETECTRON2_HEAD = "proposal_generator.rpn_head"
# Spelled without the module's own `.0` before torchvision 0.13 (head) and 0.15 (pyramid).
_TORCHVISION_OLD = re.compile(
    r"^(rpn\.head\.conv|backbone\.fpn\.(?:inner|layer)_blocks\.\d)(\.(?:weight|bias))$"
)

_DETECTRON2 = _spelled(
    {
        r"^backbone\.(conv1|bn1)\.": r"backbone.stem.\1.",
        r"^backbone\.layer(\d)\.": lambda m: f"backbone.res{int(m[1]) + 1}.",
        r"\.downsample\.0\.": ".shortcut.",
        r"\.downsample\.1\.": ".shortcut.norm.",
        r"\.bn(\d)\.": r".conv\1.norm.",
        r"^neck\.lateral_convs\.(\d)\.conv": lambda m: f"backbone.fpn_lateral{int(m[1]) + 2}",
        r"^neck\.fpn_convs\.(\d)\.conv": lambda m: f"backbone.fpn_output{int(m[1]) + 2}",
        r"^rpn_head\.rpn_conv\.": f"{_DETECTRON2_HEAD}.conv.",
        r"^rpn_head\.rpn_cls\.": f"{_DETECTRON2_HEAD}.objectness_logits.",
        r"^rpn_head\.rpn_reg\.": f"{_DETECTRON2_HEAD}.anchor_deltas.",
    }
)
_TORCHVISION = _spelled(
    {
        r"^backbone\.": "backbone.body.",
        r"^neck\.lateral_convs\.(\d)\.conv": r"backbone.fpn.inner_blocks.\1.0",
        r"^neck\.fpn_convs\.(\d)\.conv": r"backbone.fpn.layer_blocks.\1.0",
        r"^rpn_head\.rpn_conv\.": "rpn.head.conv.0.0.",
        r"^rpn_head\.rpn_conv_(\d)\.": r"rpn.head.conv.\1.0.",
        r"^rpn_head\.rpn_cls\.": "rpn.head.cls_logits.",
        r"^rpn_head\.rpn_reg\.": "rpn.head.bbox_pred.",
    }
)
SYSTEMS = {
    "detectron2": System(
        ("detectron2",),
        f"{_DETECTRON2_HEAD}.",
        _DETECTRON2,
        _detectron2_read,
        _detectron2_write,
        ("roi_heads.", "pixel_", "proposal_generator.anchor_generator."),
    ),
    "torchvision": System(
        ("torchvision", "torchvision_v2"),
        "rpn.head.",
        _TORCHVISION,
        _torchvision_read,
        _torchvision_write,
        ("roi_heads.",),
    ),
    "mmdet": System(
        ("mmdet1", "mmdet2", "mmdet3"), "backbone.", str, _mmdet_read, dict, ("roi_head.",)
    ),
}
