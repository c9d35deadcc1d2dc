"""Names and shapes: the 2018 toolbox's state dict and jaxdet's parameter tree.

| state dict (kernels OIHW) | parameter tree (kernels HWIO) |
| --- | --- |
| `backbone.conv1.weight` | `backbone/conv1/kernel` |
| `backbone.bn1.{weight,bias,running_mean,running_var}` | `backbone/conv1/{scale,bias,mean,var}` |
| `backbone.layer2.0.conv3.weight`, `.bn3.*` | `backbone/layer2_0/conv3/*` |
| `backbone.layer2.0.downsample.{0,1}.*` | `backbone/layer2_0/downsample/*` |
| `neck.lateral_convs.0.conv.{weight,bias}` | `neck/lateral_convs_0/{kernel,bias}` |
| `rpn_head.rpn_cls.{weight,bias}` | `rpn_head/rpn_cls/{kernel,bias}` |
| `shared_head.layer4.0.*` (C4) | `shared_head/layer4_0/*`, as in the backbone |
| `bbox_head.shared_fcs.0.weight` [out, in] | `bbox_head/shared_fcs_0/kernel`, a 7x7 convolution's |
| `bbox_head.fc_cls.weight` [out, in] | `bbox_head/fc_cls/kernel` [in, out] |
| `mask_head.convs.0.conv.weight` | `mask_head/convs_0/kernel` |
| `mask_head.upsample.weight` [in, out, 2, 2] | `mask_head/upsample/kernel` [2, 2, in, out] |
| `bbox_head.cls_convs.0.conv.weight` (RetinaNet) | `bbox_head/cls_convs_0/kernel` |

`num_batches_tracked` is left out of the tree, and written as zero on the way back.
"""

import logging
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxdet.errors import InputError, OtherHeads
from jaxdet.weights.state_dict import state_dict
from jaxdet.weights.systems import COUNTER, SYSTEMS, System, system_of

_LOG = logging.getLogger(__name__)

Path = tuple[str, ...]

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# The order of the reference's modules and of their tensors.
_ORDER = (
    *("backbone", "neck", "shared_head", "rpn_head", "bbox_head", "mask_head"),
    *("conv", "layer", "downsample"),
    *("lateral_convs", "fpn_convs"),
    *("rpn_conv", "rpn_cls", "rpn_reg"),
    *("fc_cls", "fc_reg", "convs", "shared_fcs", "upsample", "conv_logits"),
    *("cls_convs", "reg_convs", "retina_cls", "retina_reg"),
    *_LEAVES,
)
HEADS = ("rpn_head", "bbox_head", "mask_head")  # of the tree, that training can begin anew
_HEADS_IN_FILES = (
    *(f"{head}." for head in HEADS),
    *("roi_heads.", "rpn.head.", "head.", "proposal_generator."),
)
_SHOWN = 5  # names listed of each kind of mismatch


def to_params(
    checkpoint: Any,
    template: Mapping[str, Any],
    *,
    source: str = "the checkpoint",
    bn_eps: float = 0.0,
    fresh_heads: bool = False,
) -> dict[str, Any]:
    """Returns a parameter tree from a system's tensors, every one of them accounted for.

    Args:
        checkpoint: as for `state_dict`, by the names of any of `SYSTEMS`, kernels OIHW.
        template: nested dict with leaves that have a `.shape`, kernels HWIO.
        source: the file.
        bn_eps: of the batch norms of a torchvision file without counters.
        fresh_heads: take `template`'s layers of heads where the file's are missing or misshaped.

    Raises `InputError` if it holds no state dict, or tensors are missing, unused, misshaped or not
    finite; the message names the first of each.  It is `OtherHeads` if only heads do not fit.
    """
    params: dict[str, Any] = {}
    missing, misshaped, unfit = list[str](), dict[str, str](), set[str]()
    found = state_dict(checkpoint, source)
    system = system_of(found)
    read = system.read(found, bn_eps)
    left = {k: v for k, v in read.items() if k.rpartition(".")[2] != COUNTER}
    names = dict[Path, str]()
    for name, path, leaf in _named(template, system):
        axes = _axes(path, len(leaf.shape))
        unrolled = tuple(leaf.shape[i] for i in axes)
        shape = _rolled(path, unrolled)
        array = left.pop(name, None)
        names[path] = name
        if array is None:
            unfit.add(path[0])
            missing.append(name)
        elif array.shape != shape or array.dtype.kind != "f":
            unfit.add(path[0])
            misshaped[name] = f" is {array.dtype}{list(array.shape)}, not {list(shape)}"
        else:
            ours = array.reshape(unrolled).transpose(np.argsort(axes))
            with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
                _put(params, path, np.ascontiguousarray(ours, np.float32))
    extra = *system.unused, *(() if "bbox_head" in template else system.heads)
    unused = [name for name in left if not name.startswith(extra)]
    in_file = found.renamed(system.rename).in_file
    only_heads = unfit <= {*HEADS} and all(name.startswith(_HEADS_IN_FILES) for name in unused)
    if fresh_heads and only_heads:
        missing, misshaped, unused = [], {}, []
        params = with_fresh_heads(params, template, source)
    problems = {"missing": missing, "unused": unused, "misshaped": [*misshaped]}
    if any(problems.values()):
        text = "; ".join(
            _listed(kind, names, lambda name: in_file(name) + misshaped.get(name, ""))
            for kind, names in problems.items()
            if names
        )
        what = OtherHeads if only_heads else InputError
        raise what(f"{source}: does not fit the config's model: {text}")
    require_finite(params, source, lambda path: in_file(names[path]))
    return params


def with_fresh_heads(
    found: Mapping[str, Any], fresh: Mapping[str, Any], source: str
) -> dict[str, Any]:
    """Returns `found` with layers of heads from `fresh` where it has none of the same shapes.

    Says which these are; heads that `fresh` does not have are left out.
    """
    there: Any = dict(leaves(found))
    wanted = dict(leaves(fresh))
    anew = {
        p[:-1] for p, x in wanted.items() if p[0] in HEADS and np.shape(there.get(p)) != x.shape
    }
    if anew:
        names = ", ".join(sorted("/".join(layer) for layer in anew))
        _LOG.warning("%s: heads that do not fit begin anew: %s", source, names)
    kept = {p: x for p, x in there.items() if p in wanted or p[0] not in HEADS}
    tree: dict[str, Any] = {}
    for path, leaf in (kept | {p: x for p, x in wanted.items() if p[:-1] in anew}).items():
        _put(tree, path, leaf)
    return tree


def _put(tree: dict[str, Any], path: Path, leaf: Any) -> None:
    for scope in path[:-1]:
        tree = tree.setdefault(scope, {})
    tree[path[-1]] = leaf


def require_finite(
    params: Mapping[str, Any], source: str, called: Callable[[Path], str] = "/".join
) -> None:
    """Raises `InputError` if a tensor holds NaN or infinity, or a variance below zero.

    The message names `source`, the file, and the first few tensors, as they are `called` there.
    """
    bad = [
        path
        for path, leaf in leaves(params)
        if not np.isfinite(leaf).all() or (path[-1] == "var" and (np.asarray(leaf) < 0).any())
    ]
    if bad:
        text = _listed("with NaN, infinity or a negative variance", bad, called)
        raise InputError(f"{source}: unusable weights: {text}; take another checkpoint")


def names_in_file(template: Mapping[str, Any], tensors: Mapping[str, Any]) -> list[str]:
    """Returns what a tree's tensors are called in files of the system that `tensors` are of."""
    return [name for name, _, _ in _named(template, system_of(tensors))]


def to_state_dict(
    params: Mapping[str, Any], system: str = "mmdet", convention: str = "mmdet1"
) -> "OrderedDict[str, np.ndarray]":
    """Returns a system's state dict, in the model's order, for loading with strict keys.

    Args:
        params: nested dict of arrays, kernels HWIO.
        system: a key of `SYSTEMS`.
        convention: mmdet's versions 2 and 3 have the background last, others the first.

    Returns:
        Name to contiguous array, kernels OIHW; every batch norm has its `num_batches_tracked`
        where the system has such counters.
    """
    tensors: dict[str, np.ndarray] = {}
    for name, path, leaf in _named(params, SYSTEMS[system]):
        array = np.asarray(leaf)
        theirs = array.transpose(_axes(path, array.ndim))
        tensors[name] = np.ascontiguousarray(theirs).reshape(_rolled(path, theirs.shape))
        if path[-1] == "var":
            tensors[name.replace("running_var", COUNTER)] = np.array(0, np.int64)
    return OrderedDict(SYSTEMS[system].write(tensors, convention))


def _named(tree: Mapping[str, Any], system: System) -> Iterator[tuple[str, Path, Any]]:
    """Yields each leaf with its name in a system's files and its path."""
    retinanet = "retina_cls" in tree.get("bbox_head", {})
    for path, leaf in leaves(tree):
        yield system.spell(torch_name(path), retinanet), path, leaf


def _axes(path: Path, rank: int) -> tuple[int, ...]:
    """Returns the order in which files have the axes of a tensor of the tree."""
    if rank == 4:
        return (2, 3, 0, 1) if path[-2] == "upsample" else (3, 2, 0, 1)
    return (1, 0) if rank == 2 else tuple(range(rank))


def _rolled(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape in a file: a fully connected layer's inputs are one axis there."""
    return (shape[0], math.prod(shape[1:])) if "_fcs_" in path[-2] and shape[1:] else shape


def torch_name(path: Path) -> str:
    """Returns the reference's name of the tensor at ('neck', 'fpn_convs_0', 'bias')."""
    room, *scopes, conv, leaf = path
    if "convs_" in conv:
        module = conv.replace("convs_", "convs.") + (".gn" if leaf == "scale" else ".conv")
    elif conv == "downsample":
        module = "downsample.0" if leaf == "kernel" else "downsample.1"
    elif room in ("backbone", "shared_head") and leaf != "kernel":
        module = conv.replace("conv", "bn")
    else:
        module = conv.replace("_fcs_", "_fcs.")
    blocks = [scope.replace("_", ".") for scope in scopes]
    return ".".join([room, *blocks, module, _LEAVES[leaf]])


def leaves(tree: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yields each leaf and its path, in the order of the reference's `state_dict()`."""
    for key in sorted(tree, key=_rank):
        if isinstance(tree[key], Mapping):
            yield from leaves(tree[key], (*path, key))
        else:
            yield (*path, key), tree[key]


def _rank(scope: str) -> tuple[int, ...]:
    """Returns where a scope comes among its siblings: by kind, then by its numbers."""
    kind = re.sub(r"_?\d.*", "", scope)
    return (_ORDER.index(kind), *map(int, re.findall(r"\d+", scope)))


def _listed(kind: str, names: Sequence[Any], called: Callable[[Any], str]) -> str:
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    shown = ", ".join(f"{called(name):.120}" for name in names[:_SHOWN])
    return f"{len(names)} {kind} ({shown}{more})"
