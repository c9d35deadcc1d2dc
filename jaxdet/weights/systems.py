"""Checkpoints of other systems: their names, and the few numbers that they hold otherwise.

`layout` has the 2018 toolbox's names, which mmdet 2 and 3 kept.  A `System` says how one of those
names is spelled elsewhere, and turns a whole state dict (kernels OIHW) from that system's numbers
into the 2018 ones and back.
"""

import logging
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxdet.errors import InputError, OtherHeads
from jaxdet.weights import spelling

_LOG = logging.getLogger(__name__)

Tensors = dict[str, np.ndarray]

_EPSILON = np.float32(1e-5)  # of every batch norm here


class System(NamedTuple):
    """One family of checkpoints."""

    conventions: tuple[str, ...]  # of configs that its files fit
    signs: tuple[str, ...]  # what begins names that no other system has
    rename: Callable[[str], str]  # a name of its files to the one that it has today, or here
    spell: Callable[..., str]  # a 2018 name, and whether it is a RetinaNet's, as this one spells it
    # Its tensors, by its names, as the 2018 toolbox has them; the number is `to_params`' `bn_eps`.
    read: Callable[[Tensors, float], Tensors]
    write: Callable[[Tensors, str], Tensors]  # the way back, for a convention
    heads: tuple[str, ...]  # beginnings of names that an RPN has no use for
    unused: tuple[str, ...] = ()  # of what is no weight
    suffix: str = ".pth"  # of the files that it reads


def system_of(tensors: Mapping[str, np.ndarray]) -> System:
    """Returns the system whose names a state dict has."""
    for system in SYSTEMS.values():
        if any(name.startswith(system.signs) for name in tensors):
            return system
    return SYSTEMS["mmdet"]


def require_fit(
    checkpoint: Any,
    tensors: Mapping[str, np.ndarray],
    wanted: Collection[str],
    convention: str,
    source: str,
    fresh_heads: bool = False,
) -> None:
    """Raises `InputError` if a checkpoint is of another convention or kind of detector.

    It is what the file `source` holds, of which mmdet's say their version, and `tensors` its state
    dict; `wanted` are the names of the config's tensors, as the file's system spells them.  A
    convention of no system takes every file's boxes, an RPN any detector that has one, and with
    `fresh_heads` every kind another.
    """
    system, fitting = system_of(tensors), system_of(tensors).conventions
    (own, is_2), (asked, asks_2) = spelling.detector_of(tensors), spelling.detector_of(wanted)
    if system is SYSTEMS["mmdet"]:
        fitting = _mmdet_conventions(checkpoint, tensors) or fitting
    others = convention in CONFIGS and convention not in fitting
    if system is SYSTEMS["torchvision"]:
        fitting = fitting[is_2:][:1]
    alike = own == asked or (asked == "rpn" and own in ("faster_rcnn", "mask_rcnn"))
    known = own and asked
    if others or (known and alike and is_2 != asks_2):
        theirs, field = fitting[0], "convention"
        said = f"{' or '.join(fitting)}; config.model.convention is {convention}"
    elif known and not alike and not fresh_heads:
        theirs, field = convention if convention in fitting else fitting[0], "detector"
        said = f"{own}; config.model.detector is {asked}"
    else:
        return
    config = _config(theirs, own)
    only_heads = field == "detector" and "retinanet" not in (own, asked)
    raise (OtherHeads if only_heads else InputError)(
        f"{source}: of {said}: use --config={config}, or another config of that {field}"
    )


def _config(convention: str, kind: str) -> str:
    """Returns the name of a config of a kind of detector."""
    if not kind or kind == "rpn":
        return CONFIGS[convention]
    # Detectors of mmdet 3 were published with mmdet 2.
    return CONFIGS[convention.replace("mmdet3", "mmdet2")].replace("rpn", kind)


def _mmdet_conventions(checkpoint: Any, tensors: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Returns the conventions of the version that a file says it is of, its own first."""
    meta = checkpoint.get("meta")
    said = meta if isinstance(meta, Mapping) else {}
    version = str(said.get("mmdet_version", ""))

    def any_begins(start: str) -> bool:
        return any(name.startswith(start) for name in tensors)

    if (
        "message_hub" in checkpoint
        or "mmengine_version" in said
        or any_begins(spelling.MMDET3_HEAD)
    ):
        version = "3."
    elif not version and any_begins("roi_head."):
        version = "2."
    elif not version and any_begins("bbox_head.fc_cls."):
        version = "1."
    if version.startswith(("0.", "1.")):
        return ("mmdet1",)
    own = f"mmdet{version[:1]}"
    # Of the same boxes.
    return (own, *({"mmdet2", "mmdet3"} - {own})) if version.startswith(("2.", "3.")) else ()


def _background(tensors: Tensors, layers: Mapping[str, int], first: bool) -> Tensors:
    """Moves the background's outputs from last, as systems of today have them, to first, or back.

    `layers` have a number of outputs per class; where it is 0 these are scores, elsewhere files
    of today hold nothing for the background, which becomes zeros that nothing reads.
    """
    tensors = dict(tensors)
    for layer, rows in layers.items():
        for name in (f"{layer}.weight", f"{layer}.bias"):
            x = tensors.get(name)
            if x is None or not x.ndim:
                continue
            if not rows:
                tensors[name] = np.roll(x, 1 if first else -1, axis=0)
            elif first:
                tensors[name] = np.concatenate([np.zeros((rows, *x.shape[1:]), x.dtype), x])
            else:
                tensors[name] = x[rows:]
    return tensors


def _detectron2_read(tensors: Tensors, bn_eps: float) -> Tensors:
    """Turns size-major anchors into ratio-major ones; a pyramid's backbone loses its scope."""
    tensors = {spelling.DETECTRON2_OLD(name): x for name, x in tensors.items()}
    return _background(_reordered(tensors, (-1, _RATIOS)), _DETECTRON2_CLASSES, first=True)


def _detectron2_write(tensors: Tensors, convention: str) -> Tensors:
    tensors = _background(_reordered(tensors, (_RATIOS, -1)), _DETECTRON2_CLASSES, first=False)
    if any(name.startswith("backbone.fpn_") for name in tensors):
        inner = re.compile(r"^backbone\.(?=stem|res)")
        tensors = {inner.sub("backbone.bottom_up.", name): x for name, x in tensors.items()}
    return {name: x for name, x in tensors.items() if not name.endswith(COUNTER)}


def _reordered(tensors: Tensors, anchors: tuple[int, int]) -> Tensors:
    """Exchanges the two indices that an anchor of a cell has, in dense heads' last layers."""
    tensors = dict(tensors)
    for scores, deltas in _DETECTRON2_ANCHORS:
        count = np.size(tensors.get(f"{deltas}.bias", 0)) // 4
        for name in (f"{x}.{leaf}" for x in (scores, deltas) for leaf in ("weight", "bias")):
            x = tensors.get(name)
            if x is not None and x.ndim and count and not count % _RATIOS and not len(x) % count:
                split = x.reshape(*anchors, len(x) // count, *x.shape[1:])
                tensors[name] = split.swapaxes(0, 1).reshape(x.shape)
    return tensors


@np.errstate(all="ignore")  # what is no number is refused by name later
def _torchvision_read(tensors: Tensors, bn_eps: float) -> Tensors:
    """Folds what the network does not have into what it has.

    The epsilon of a file without counters into the scales, as the published files of version 1
    have one of 0; batch norms after convolutions of the pyramid and of heads (version 2) into
    these.  What is incomplete stays as it is, to be named with what does not fit.
    """
    tensors = {spelling.TORCHVISION_OLD(name): x for name, x in tensors.items()}
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
        elif scope.startswith(_FOLDED) and kernel.ndim == 4 and len(kernel) == len(scale):
            slope = scale / np.sqrt(variance + _EPSILON)
            tensors[f"{conv}.weight"] = kernel * slope[:, None, None, None]
            tensors[f"{conv}.bias"] = bias - mean * slope
            for name in names:
                del tensors[name]
    return tensors


def _torchvision_write(tensors: Tensors, convention: str) -> Tensors:
    """Gives a network of version 2 norms that change nothing but add the bias."""
    written: Tensors = {}
    for name, x in tensors.items():
        scope = name.removesuffix(".0.bias")
        if spelling.HEAD_2 in tensors and name != scope and scope.startswith(_FOLDED):
            one = np.ones_like(x)
            values = one, x, np.zeros_like(x), one - _EPSILON
            written |= {f"{scope}.1.{leaf}": y for leaf, y in zip(_NORM, values, strict=True)}
            written[f"{scope}.1.{COUNTER}"] = np.array(0, np.int64)
        elif name != scope and f"{scope}.1.weight" in tensors:  # of a group norm
            written[f"{scope}.1.bias"] = x
        else:
            written[spelling.TORCHVISION_2(name) if spelling.HEAD_2 in tensors else name] = x
    return written


def _mmdet_read(tensors: Tensors, bn_eps: float) -> Tensors:
    """Undoes what later versions call otherwise: an RPN that mmdet 3 trained, the second stage."""
    renamed = {spelling.AS_2018(name): x for name, x in tensors.items()}
    today = any(name.startswith("roi_head.") for name in tensors)
    return _background(renamed, _MMDET_CLASSES, first=True) if today else renamed


def _mmdet_write(tensors: Tensors, convention: str) -> Tensors:
    if convention not in ("mmdet2", "mmdet3") or "bbox_head.fc_cls.weight" not in tensors:
        return tensors
    tensors = _background(tensors, _MMDET_CLASSES, first=False)
    return {spelling.SECOND_STAGE.sub(r"roi_head.\1", name): x for name, x in tensors.items()}


_NORM = ("weight", "bias", "running_mean", "running_var")
COUNTER = "num_batches_tracked"
_RATIOS = 3
_FOLDED = ("backbone.fpn.", "roi_heads.box_head.", "roi_heads.mask_head.")  # norms of version 2
# Scores and deltas per anchor.
_DETECTRON2_ANCHORS = (
    (f"{spelling.DETECTRON2_HEAD}.objectness_logits", f"{spelling.DETECTRON2_HEAD}.anchor_deltas"),
    ("head.cls_score", "head.bbox_pred"),
)
# Layers with outputs per class; see `_background`.
_MMDET_CLASSES = {"bbox_head.fc_cls": 0, "bbox_head.fc_reg": 4, "mask_head.conv_logits": 1}
_DETECTRON2_CLASSES = {
    "roi_heads.box_predictor.cls_score": 0,
    "roi_heads.box_predictor.bbox_pred": 4,
    "roi_heads.mask_head.predictor": 1,
}
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
        (f"{spelling.DETECTRON2_HEAD}.", "head.cls_subnet.", "backbone.stem."),
        spelling.DETECTRON2_OLD,
        spelling.DETECTRON2,
        _detectron2_read,
        _detectron2_write,
        ("roi_heads.",),
        ("pixel_", "proposal_generator.anchor_generator.", "anchor_generator."),
        ".pkl",
    ),
    "torchvision": System(
        ("torchvision", "torchvision_v2"),
        ("rpn.head.", "head.classification_head.", "backbone.body."),
        spelling.TORCHVISION_OLD,
        spelling.TORCHVISION,
        _torchvision_read,
        _torchvision_write,
        ("roi_heads.",),
    ),
    "mmdet": System(
        ("mmdet1", "mmdet2", "mmdet3"),
        ("backbone.",),
        spelling.AS_2018,
        spelling.spelled({}),
        _mmdet_read,
        _mmdet_write,
        ("shared_head.", "bbox_head.", "mask_head."),
    ),
}
