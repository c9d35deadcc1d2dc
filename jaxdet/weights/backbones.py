"""Backbones: torchvision's, caffe-style, Detectron's and detectron2's files, and detectors'.

Torchvision's files suit configs of the pytorch style (RGB); Detectron's and detectron2's suit the
caffe style, whose configs feed BGR: the stem's channels stay in the order of the file.
"""

import os
import re
from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np

from jaxdet.errors import InputError
from jaxdet.weights import layout, torch_file
from jaxdet.weights.spelling import spelled
from jaxdet.weights.state_dict import StateDict, state_dict

# Detectron stores what is left of a frozen batch norm, scale and bias.  With this variance and
# a mean of zero, a batch norm with epsilon 1e-5 divides by exactly one.
_AFFINE_VARIANCE = np.float32(1 - 1e-5)

_LEAF = r"_(?=[a-z]+(?:_mean|_var)?$)"  # what follows is the last part of a blob's name
# From res2_0_branch2a_bn_s to layer1.0.bn1.weight; detectron2's have norms that are not reduced.
_TORCHVISION_NAME = spelled(
    {
        rf"^conv1{_LEAF}": "conv1.",
        rf"^res_conv1_bn{_LEAF}": "bn1.",
        rf"^(fc\d*|pred){_LEAF}": "fc.",
        rf"^res(\d)_(\d+)_branch1(_bn)?{_LEAF}": lambda m: (
            f"layer{int(m[1]) - 1}.{m[2]}.downsample.{1 if m[3] else 0}."
        ),
        rf"^res(\d)_(\d+)_branch2([abc])(_bn)?{_LEAF}": lambda m: (
            f"layer{int(m[1]) - 1}.{m[2]}.{'bn' if m[4] else 'conv'}{'abc'.index(m[3]) + 1}."
        ),
        r"\.(w|s|gamma)$": ".weight",
        r"\.(b|beta)$": ".bias",
        r"\.rm$": ".running_mean",
        r"\.riv$": ".running_var",
    }
)

# All that a ResNet of up to 152 layers may have, to name one that a file lacks.
_BLOBS = [
    f"res{stage}_{block}_branch{branch}_{leaf}"
    for stage, block, branch, leaf in product(
        range(2, 6), range(36), ("1", "2a", "2b", "2c"), ("w", "bn_s", "bn_b")
    )
]

# Of a backbone in a larger file: what stands before its names, and C4's fourth stage.
_FIRST = re.compile(r"(.*\.|)(?:layer1|res2)\.0\.conv1\.weight")
_C4 = re.compile(r"(shared_head|roi_heads)\.(?=layer4\.|res5\.)")
# Left out: the classifier, and biases before a batch norm.  The models convolve without these;
# caffe's files carry some, of which neither Detectron nor the reference makes use.
_UNUSED = r"(stem\.)?fc\.|(.*\.)?(conv\d|downsample\.0)\.bias$"


def read_backbone(path: str | os.PathLike[str], template: Mapping[str, Any]) -> dict[str, Any]:
    """Reads a backbone in the structure of a template, the tree under 'backbone'.

    Its file has torchvision's names (`conv1.weight`, ..., `fc.bias`) or detectron2's, whatever
    stands in front of them, or Detectron's (`conv1_w`, `res2_0_branch2a_bn_s`, ...); what is no
    part of it, such as a classifier or the rest of a detector, and stages that the template lacks,
    are left out.  Raises `InputError` if the file cannot be read, holds no backbone or several, or
    one of another architecture.
    """
    checkpoint, source = torch_file.read(path), str(path)
    if isinstance(checkpoint, Mapping) and ("conv1_w" in checkpoint or "blobs" in checkpoint):
        tensors = _from_detectron(checkpoint, source)
    else:
        tensors = state_dict(checkpoint, source)
    tensors = tensors.renamed(lambda name: _C4.sub("backbone.", name))
    scopes = sorted({found[1] for name in tensors if (found := _FIRST.fullmatch(name))})
    if len(scopes) != 1:
        what = f"several backbones ({', '.join(scopes[:5])})" if scopes else "no ResNet's backbone"
        raise InputError(f"{source}: holds {what}; expected one layer1.0.conv1.weight")
    scope = scopes[0]
    # Torchvision's detectors have batch norms of their own: their names are told by this.
    ours = "backbone.body." if scope.endswith("backbone.body.") else "backbone."
    stages = {block.partition("_")[0] for block in template}
    absent = [rf"(layer{i}|res{i + 1})\." for i in range(1, 5) if f"layer{i}" not in stages]
    unused = re.compile("|".join([_UNUSED, *absent]))

    def of_backbone(name: str) -> str:
        rest = name.removeprefix(scope)
        return f"{ours}{rest}" if name.startswith(scope) and not unused.match(rest) else ""

    own = tensors.renamed(of_backbone)
    return layout.to_params(own, {"backbone": template}, source=source)["backbone"]


def _from_detectron(checkpoint: Mapping[str, Any], source: str) -> StateDict:
    """Returns Detectron's blobs, in a dict as 'blobs' or not, under torchvision's names."""
    blobs = checkpoint.get("blobs", checkpoint)
    if not isinstance(blobs, Mapping) or "conv1_w" not in blobs:
        raise InputError(f"{source}: holds no Detectron backbone; expected a blob conv1_w")
    tensors: dict[str, np.ndarray] = {}
    own = {_TORCHVISION_NAME(blob): blob for blob in _BLOBS}
    for blob, array in blobs.items():
        is_array = isinstance(blob, str) and isinstance(array, np.ndarray)
        if not is_array or blob.endswith("_momentum"):
            continue
        name = _TORCHVISION_NAME(blob)
        tensors[name], own[name] = array, blob
        if blob.endswith("_bn_s"):
            norm = name.removesuffix("weight")
            tensors.setdefault(f"{norm}running_mean", np.broadcast_to(np.float32(0), array.shape))
            tensors.setdefault(f"{norm}running_var", np.broadcast_to(_AFFINE_VARIANCE, array.shape))
    return StateDict(tensors, own)
