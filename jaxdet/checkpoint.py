"""Parameters on disk: what one checkpoint holds, and reading it or another format.

Layout of a work directory's `checkpoints/<step>/`: `params` (the whole tree), `optimizer`
(the slots of the tensors that train; absent in a converted checkpoint) and `meta` (JSON, with a
checksum of each).
"""

import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from jaxdet.errors import InputError
from jaxdet.types import Params
from jaxdet.weights import backbones, layout, torch_file
from jaxdet.zoo.download import fetch

PYTORCH_SUFFIXES = (".pth", ".pt", ".pkl")


class Damaged(InputError):
    """A checkpoint that is not what was written."""


def save_args(
    params: Params, optimizer: Any = None, meta: dict[str, Any] | None = None
) -> ocp.args.Composite:
    """Returns what orbax shall write: parameters, optimiser slots if any, and facts about them."""
    trees = {"params": params, **({} if optimizer is None else {"optimizer": optimizer})}
    checksums = {name: checksum(tree) for name, tree in trees.items()}
    items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
    items["meta"] = ocp.args.JsonSave({**(meta or {}), "checksums": checksums})
    return ocp.args.Composite(**items)


def checksum(tree: Any) -> int:
    """Returns the CRC-32 of the bytes of all arrays, in the tree's order."""
    crc = 0
    for leaf in jax.tree.leaves(jax.device_get(tree)):
        crc = zlib.crc32(np.asarray(leaf).tobytes(), crc)
    return crc


def read_step(folder: Path, targets: dict[str, Any]) -> dict[str, Any]:
    """Trees of one checkpoint, and its `meta`, checked against the sums that were written.

    Args:
        folder: `checkpoints/<step>`.
        targets: trees by name, leaves with `.shape`, `.dtype` and, if need be, `.sharding`.

    Raises:
        Damaged: a file is missing, cannot be read, or holds other bytes than were written.
    """
    args = {k: ocp.args.StandardRestore(_target(v)) for k, v in targets.items()}
    try:
        with _reader() as reader:
            composite = ocp.args.Composite(**args, meta=ocp.args.JsonRestore())
            found = dict(reader.restore(folder, args=composite).items())
        sums = found["meta"]["checksums"]
    # Whatever tensorstore, JSON or orbax make of damaged bytes.
    except Exception as error:
        raise Damaged(f"{folder}: not a readable checkpoint: {_first_line(error)}") from error
    for name in targets:
        if checksum(found[name]) != sums.get(name):
            raise Damaged(f"{folder}: damaged: the bytes of {name} are not those written")
    return found


def read_params(path: str | Path, shapes: Params) -> Params:
    """Returns parameters from a work directory, one of its checkpoints, or a PyTorch file.

    Args:
        path: `runs/x`, `runs/x/checkpoints/900`, a `.pth` or a `zoo://` name.
        shapes: the model's parameter tree, leaves with `.shape`.

    Raises:
        InputError: there is no such checkpoint, or its tensors are not the model's or not finite.
    """
    path = _local(path)
    if path.suffix in PYTORCH_SUFFIXES:
        return layout.to_params(torch_file.read(path), shapes, source=str(path))
    folder = _step_folder(path)
    require_same_shapes(shapes, saved_shapes(folder), folder)
    params = read_step(folder, {"params": shapes})["params"]
    layout.require_finite(params, str(folder))
    return params


def read_backbone(name: str | Path, shapes: Params) -> Params:
    """Returns an ImageNet backbone.

    Args:
        name: a `.pth` or `.pkl` file, `torchvision://resnet50` or `open-mmlab://resnet50_caffe`.
        shapes: the tree under `backbone`, leaves with `.shape`.

    Raises:
        InputError: it cannot be had, or is of another architecture.
    """
    return backbones.read_backbone(_local(name), shapes)


def _local(name: str | Path) -> Path:
    """Returns the file or folder that a name stands for, fetched if need be."""
    return fetch(str(name)) if "://" in str(name) else Path(name)


def _step_folder(path: Path) -> Path:
    """Returns the folder of one checkpoint: the newest below a work directory."""
    path = path.absolute()
    try:
        path.stat()
    except (OSError, ValueError):  # not there, or a name that none can have
        raise InputError(f"{path}: no such checkpoint") from None
    if not path.is_dir():
        raise InputError(f"{path}: neither a work directory nor a .pth file")
    if (path / "params").is_dir():
        return path
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    steps = [int(p.name) for p in folder.iterdir() if p.name.isdigit() and (p / "params").is_dir()]
    if not steps:
        raise InputError(f"{path}: holds no checkpoint; give a work directory or a .pth file")
    return folder / str(max(steps))


def _reader() -> ocp.Checkpointer:
    handler = ocp.CompositeCheckpointHandler(
        params=ocp.StandardCheckpointHandler(),
        optimizer=ocp.StandardCheckpointHandler(),
        meta=ocp.JsonCheckpointHandler(),
    )
    return ocp.Checkpointer(handler)


def saved_shapes(folder: Path) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Returns the shapes of a checkpoint's parameters by path.

    Raises:
        Damaged: they cannot be read.
    """
    try:
        with _reader() as reader:
            tree = reader.metadata(folder).item_metadata["params"]
        return {k: tuple(v.shape) for k, v in traverse_util.flatten_dict(dict(tree)).items()}
    except Exception as error:  # whatever orbax makes of damaged bytes
        raise Damaged(f"{folder}: not a readable checkpoint: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def require_same_shapes(
    params: Params, saved: dict[tuple[str, ...], tuple[int, ...]], folder: Path
) -> None:
    """Raises `InputError`, with the first names, unless all tensors have their saved shape."""
    wanted = {k: tuple(v.shape) for k, v in traverse_util.flatten_dict(params).items()}
    if wanted == saved:
        return
    names = sorted(k for k in wanted.keys() | saved.keys() if wanted.get(k) != saved.get(k))
    first = ", ".join(
        f"{'/'.join(k)} {saved.get(k, 'absent')} (the config has {wanted.get(k, 'none')})"
        for k in names[:3]
    )
    raise InputError(
        f"{folder}: of another architecture than the config: {len(names)} tensors differ: {first}"
    )


def _target(tree: Any) -> Any:
    """Returns shapes, dtypes and devices to restore (the first, where none is named)."""
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def leaf(x: Any) -> jax.ShapeDtypeStruct:
        sharding = getattr(x, "sharding", None) or first
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(leaf, tree)
