"""Parameters and training state on disk: orbax in and out, other formats in.

Layout of a work directory's `checkpoints/<step>/`: `params` (the whole tree), `optimizer`
(the slots of the tensors that train; absent in a converted checkpoint) and `meta` (JSON).
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from converters import backbones, layout, torch_file
from jaxdet.config import ModelConfig
from jaxdet.download import fetch
from jaxdet.errors import InputError
from jaxdet.models.build import Params, merge_params, split_params
from jaxdet.train_step import TrainState

PYTORCH_SUFFIXES = (".pth", ".pt", ".pkl")


class Checkpoints:
    """The numbered checkpoints of a work directory, written in the background.

    A checkpoint appears under its number only when it is complete.
    """

    def __init__(self, workdir: str | Path, keep: int = 3) -> None:
        """Opens, or creates, `workdir`/checkpoints and keeps the newest `keep` of it."""
        self.folder = Path(workdir).absolute() / "checkpoints"
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=True
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        self._manager.close()

    def latest_step(self) -> int | None:
        """The newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState, meta: dict[str, Any]) -> None:
        """Starts writing a checkpoint of `state.step`; returns once `state` may be reused."""
        items = {
            "params": ocp.args.StandardSave(merge_params(state.trainable, state.frozen)),
            "optimizer": ocp.args.StandardSave(state.optimizer),
            "meta": ocp.args.JsonSave(meta),
        }
        self._manager.save(int(state.step), args=ocp.args.Composite(**items))

    def save_params(self, params: Params, meta: dict[str, Any], optimizer: Any = None) -> None:
        """Writes step 0 of a converted checkpoint; `optimizer` are slots, if any."""
        items = {"params": ocp.args.StandardSave(params), "meta": ocp.args.JsonSave(meta)}
        if optimizer is not None:
            items["optimizer"] = ocp.args.StandardSave(optimizer)
        self._manager.save(0, args=ocp.args.Composite(**items))
        self.wait()

    def wait(self) -> None:
        """Returns when everything is on disk; raises what the writing raised."""
        self._manager.wait_until_finished()

    def restore(self, step: int, like: TrainState, model: ModelConfig) -> TrainState:
        """The state saved at `step`, laid out and placed as `like` is.

        Raises:
            InputError: the checkpoint is of another architecture, or damaged.
        """
        params = merge_params(like.trainable, like.frozen)
        folder = self.folder / str(step)
        _require_same_shapes(params, _saved_shapes(folder), folder)
        items = {"params": _target(params)}
        if (folder / "optimizer").exists():
            items["optimizer"] = _target(like.optimizer)
        args = {k: ocp.args.StandardRestore(v) for k, v in items.items()}
        restored = self._manager.restore(step, args=ocp.args.Composite(**args))
        trainable, frozen = split_params(restored["params"], model)
        number = jax.device_put(np.int32(step), like.step.sharding)
        slots = restored.get("optimizer", like.optimizer)
        return TrainState(number, trainable, frozen, slots)


def read_params(path: str | Path, shapes: Params) -> Params:
    """Parameters from a work directory, one of its checkpoints, or a PyTorch file.

    Args:
        path: `runs/x`, `runs/x/checkpoints/900`, a `.pth` or a `zoo://` name.
        shapes: the model's parameter tree, leaves with `.shape`.

    Raises:
        InputError: there is no such checkpoint, or its tensors are not the model's.
    """
    path = _local(path)
    if path.suffix in PYTORCH_SUFFIXES:
        return layout.to_params(torch_file.read(path), shapes, source=str(path))
    folder = _step_folder(path)
    _require_same_shapes(shapes, _saved_shapes(folder), folder)
    with _reader() as reader:
        args = ocp.args.Composite(params=ocp.args.StandardRestore(_target(shapes)))
        return reader.restore(folder, args=args)["params"]


def read_backbone(name: str | Path, shapes: Params) -> Params:
    """An ImageNet backbone.

    Args:
        name: a `.pth` or `.pkl` file, `torchvision://resnet50` or `open-mmlab://resnet50_caffe`.
        shapes: the tree under `backbone`, leaves with `.shape`.

    Raises:
        InputError: it cannot be had, or is of another architecture.
    """
    return backbones.read_backbone(_local(name), shapes)


def _local(name: str | Path) -> Path:
    """The file or folder that a name stands for, fetched if need be."""
    return fetch(str(name)) if "://" in str(name) else Path(name)


def _step_folder(path: Path) -> Path:
    """The folder of one checkpoint: the newest below a work directory."""
    path = path.absolute()
    if not path.exists():
        raise InputError(f"{path}: no such checkpoint")
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


def _saved_shapes(folder: Path) -> dict[tuple[str, ...], tuple[int, ...]]:
    try:
        with _reader() as reader:
            tree = reader.metadata(folder).item_metadata["params"]
        return {k: tuple(v.shape) for k, v in traverse_util.flatten_dict(dict(tree)).items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{folder}: not a readable checkpoint: {what}") from error


def _require_same_shapes(
    params: Params, saved: dict[tuple[str, ...], tuple[int, ...]], folder: Path
) -> None:
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
    """What orbax shall restore: shapes, dtypes and devices (the first, where none is named)."""
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def leaf(x: Any) -> jax.ShapeDtypeStruct:
        sharding = getattr(x, "sharding", None) or first
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(leaf, tree)
