"""Checkpoints of other systems: their names, and the few numbers that they hold otherwise.

`layout` has the 2018 toolbox's names, which mmdet 2 and 3 kept.  A `System` says how one of those
names is spelled elsewhere, and turns a whole state dict (kernels OIHW) from that system's numbers
into the 2018 ones and back.
"""

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxdet.errors import InputError

_LOG = logging.getLogger(__name__)

Tensors = dict[str, np.ndarray]

_EPSILON = np.float32(1e-5)  # of every batch norm here


class System(NamedTuple):
    """One family of checkpoints."""

    conventions: tuple[str, ...]  # of configs that its files fit
    sign: str  # what begins a name that no other system has
    spell: Callable[[str], str]  # a 2018 name as this system spells it
    # Its tensors, by its names, as the 2018 toolbox has them; the number is `to_params`' `bn_eps`.
    read: Callable[[Tensors, float], Tensors]
    write: Callable[[Tensors], Tensors]  # the way back
    unused: tuple[str, ...] = ()  # beginnings of names that an RPN has no use for
    suffix: str = ".pth"  # of the files that it reads


def system_of(tensors: Mapping[str, np.ndarray]) -> System:
    """Returns the system whose names a state dict has."""
    for system in SYSTEMS.values():
        if any(name.startswith(system.sign) for name in tensors):
            return system
    return SYSTEMS["mmdet"]


def require_convention(
    checkpoint: Any, tensors: Mapping[str, np.ndarray], convention: str, source: str
) -> None:
    """Raises `InputError` if a checkpoint's boxes are not those of a config.

    Args:
        checkpoint: what the file `source` holds; mmdet's say of which version they are.
        tensors: its state dict.
        convention: `config.model.convention`; a name that no system has takes every file.
        source: for the message.
    """
    system = system_of(tensors)
    fitting = system.conventions
    if system is SYSTEMS["mmdet"]:
        fitting = _mmdet_conventions(checkpoint, tensors) or fitting
    if convention in fitting or not any(convention in x.conventions for x in SYSTEMS.values()):
        return
    if system is SYSTEMS["torchvision"]:
        fitting = fitting[1:] if _HEAD_2 in tensors else fitting[:1]
    raise InputError(
        f"{source}: of {' or '.join(fitting)}; config.model.convention is {convention}: "
        f"use --config={CONFIGS[fitting[0]]}, or another config of that convention"
    )


def _mmdet_conventions(checkpoint: Any, tensors: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Returns the conventions of the version that a file says it is of, its own first."""
    meta = checkpoint.get("meta")
    version = str(meta.get("mmdet_version")) if isinstance(meta, Mapping) else ""
    if "message_hub" in checkpoint or any(name.startswith(_MMDET3_HEAD) for name in tensors):
        version = "3."
    if version.startswith(("0.", "1.")):
        return ("mmdet1",)
    own = f"mmdet{version[:1]}"
    # Of the same boxes.
    return (own, *({"mmdet2", "mmdet3"} - {own})) if version.startswith(("2.", "3.")) else ()


def _spelled(rules: Mapping[str, str | Callable[[re.Match], str]]) -> Callable[[str], str]:
    """Returns a function that applies each rule, a pattern and what replaces it, to a name."""
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules.items()]

    def spell(name: str) -> str:
        for pattern, replacement in compiled:
            name = pattern.sub(replacement, name)
        return name

    return spell


def _detectron2_read(tensors: Tensors, bn_eps: float) -> Tensors:
    """Turns size-major anchors into ratio-major ones; a pyramid's backbone loses its scope."""
    tensors = {name.replace("backbone.bottom_up.", "backbone."): x for name, x in tensors.items()}
    return _reordered(tensors, (-1, _RATIOS))


def _detectron2_write(tensors: Tensors) -> Tensors:
    tensors = _reordered(tensors, (_RATIOS, -1))
    if any(name.startswith("backbone.fpn_") for name in tensors):
        inner = re.compile(r"^backbone\.(?=stem|res)")
        tensors = {inner.sub("backbone.bottom_up.", name): x for name, x in tensors.items()}
    return {name: x for name, x in tensors.items() if not name.endswith(COUNTER)}


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


@np.errstate(all="ignore")  # what is no number is refused by name later
def _torchvision_read(tensors: Tensors, bn_eps: float) -> Tensors:
    """Folds what the network does not have into what it has.

    The epsilon of a file without counters into the scales, as the published files of version 1
    have one of 0; batch norms after the pyramid's convolutions (version 2) into these.  What is
    incomplete stays as it is, to be named with what does not fit.
    """
    tensors = {_TORCHVISION_OLD(name): x for name, x in tensors.items()}
    counted = any(name.endswith(COUNTER) for name in tensors)
    if not counted:
        _LOG.warning(
            "batch norms of torchvision without counters: read with an epsilon of %g (published "
            "files have 0, others 1e-5: converters.torchvision --bn_eps=1e-5)",
            bn_eps,
        )
    for scope in [name.removesuffix(".running_var") for name in tensors if ".running_var" in name]:
        names = [f"{scope}.{leaf}" for leaf in _NORM]
        norm = [tensors[name] for name in names if name in tensors]
        if len(norm) < 4 or any(x.ndim != 1 or len(x) != len(norm[0]) for x in norm):
            continue
        scale, bias, mean, variance = norm
        conv = f"{scope.removesuffix('.1')}.0"
        kernel = tensors.get(f"{conv}.weight", scale)
        if scope.startswith("backbone.body.") and not counted:
            ratio = np.sqrt((variance + _EPSILON) / (variance + np.float32(bn_eps)))
            tensors[f"{scope}.weight"] = scale * ratio
        elif scope.startswith("backbone.fpn.") and kernel.ndim == 4 and len(kernel) == len(scale):
            slope = scale / np.sqrt(variance + _EPSILON)
            tensors[f"{conv}.weight"] = kernel * slope[:, None, None, None]
            tensors[f"{conv}.bias"] = bias - mean * slope
            for name in names:
                del tensors[name]
    return tensors


def _torchvision_write(tensors: Tensors) -> Tensors:
    """Gives a pyramid of version 2 norms that change nothing but add the bias."""
    if _HEAD_2 not in tensors:
        return tensors
    written: Tensors = {}
    for name, x in tensors.items():
        if not (name.startswith("backbone.fpn.") and name.endswith(".0.bias")):
            written[name] = x
            continue
        one, scope = np.ones_like(x), f"{name.removesuffix('.0.bias')}.1"
        values = one, x, np.zeros_like(x), one - _EPSILON
        written |= {f"{scope}.{leaf}": value for leaf, value in zip(_NORM, values, strict=True)}
        written[f"{scope}.{COUNTER}"] = np.array(0, np.int64)
    return written


def _mmdet_read(tensors: Tensors, bn_eps: float) -> Tensors:
    """An RPN that mmdet 3 trained calls its head by another name."""
    head = re.compile(f"^{re.escape(_MMDET3_HEAD)}")
    return {head.sub("rpn_head.rpn_", name): x for name, x in tensors.items()}


_NORM = ("weight", "bias", "running_mean", "running_var")
COUNTER = "num_batches_tracked"
_RATIOS = 3
_MMDET3_HEAD = "bbox_head.rpn_"
_HEAD_2 = "rpn.head.conv.1.0.weight"  # in version 2 alone
_DETECTRON2_HEAD = "proposal_generator.rpn_head"
# As torchvision itself renames what it wrote before 0.13.
_TORCHVISION_OLD = _spelled(
    {
        r"^rpn\.head\.conv\.(weight|bias)$": r"rpn.head.conv.0.0.\1",
        r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$": r"\1.0.\2",
    }
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
# A config of each convention, to name to users.
CONFIGS = {
    "mmdet1": "rpn_r50_fpn_1x",
    "mmdet2": "mmdet2_rpn_r50_fpn_1x",
    "mmdet3": "mmdet3_rpn_r50_fpn_1x",
    "detectron2": "detectron2_rpn_r50_fpn_1x",
    "torchvision": "torchvision_rpn_r50_fpn",
    "torchvision_v2": "torchvision_rpn_r50_fpn_v2",
}
SYSTEMS = {
    "detectron2": System(
        ("detectron2",),
        f"{_DETECTRON2_HEAD}.",
        _DETECTRON2,
        _detectron2_read,
        _detectron2_write,
        ("roi_heads.", "pixel_", "proposal_generator.anchor_generator."),
        ".pkl",
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
