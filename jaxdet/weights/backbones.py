"""ImageNet backbones: torchvision's and caffe-style `.pth` files, and Detectron's `.pkl`.

Torchvision's files suit configs of the pytorch style (RGB); the others suit the caffe style,
whose configs feed BGR, so that the stem's channels stay in the order of the file.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxdet.errors import InputError
from jaxdet.weights import layout, torch_file
from jaxdet.weights.spelling import spelled

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

# The models convolve without bias before a batch norm.  Caffe's files carry such biases, of
# which neither Detectron nor the reference makes use.
_CONV_BIAS = re.compile(r"(.*\.)?(conv\d|downsample\.0)\.bias")


def read_backbone(path: str | os.PathLike[str], template: Mapping[str, Any]) -> dict[str, Any]:
    """Reads an ImageNet backbone in the structure of a template, the tree under 'backbone'.

    It is a `.pth` with torchvision's names (`conv1.weight`, ..., `fc.bias`), or a Detectron `.pkl`
    (`conv1_w`, `res2_0_branch2a_bn_s`, ...).  The classifier, and stages that the template lacks,
    are left out.  Raises `InputError` if the file cannot be read or is of another architecture.
    """
    checkpoint = torch_file.read(path)
    if Path(path).suffix == ".pkl":
        tensors = _from_detectron(checkpoint, str(path))
    else:
        tensors = layout.state_dict(checkpoint, str(path))
    stages = {scope.partition("_")[0] for scope in template}
    absent = [f"backbone.layer{i}." for i in range(1, 5) if f"layer{i}" not in stages]
    params = layout.to_params(
        {f"backbone.{k}": v for k, v in tensors.items() if not _CONV_BIAS.fullmatch(k)},
        {"backbone": template},
        allow_unused=("backbone.fc.", *absent),
        source=str(path),
    )
    return params["backbone"]


def _from_detectron(checkpoint: Any, source: str) -> dict[str, np.ndarray]:
    """Returns Detectron's blobs, in a dict as 'blobs' or not, under torchvision's names."""
    blobs = checkpoint.get("blobs", checkpoint) if isinstance(checkpoint, Mapping) else {}
    if not isinstance(blobs, Mapping) or "conv1_w" not in blobs:
        raise InputError(f"{source}: holds no Detectron backbone; expected a blob conv1_w")
    tensors: dict[str, np.ndarray] = {}
    for blob, array in blobs.items():
        if blob.endswith("_momentum") or not isinstance(array, np.ndarray):
            continue
        name = _TORCHVISION_NAME(blob)
        tensors[name] = array
        if blob.endswith("_bn_s"):
            norm = name.removesuffix("weight")
            tensors.setdefault(f"{norm}running_mean", np.zeros_like(array))
            tensors.setdefault(f"{norm}running_var", np.full_like(array, _AFFINE_VARIANCE))
    return tensors
