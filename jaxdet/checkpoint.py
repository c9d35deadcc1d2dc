"""Checkpoints: written in the background, verified when read, the best one kept.

Layout of `checkpoints/<step>/` and `best/<step>/` in a work directory: `params` (the whole tree),
`optimizer` (its state; absent where there is none) and `meta` (JSON, with a checksum of each).
"""

import contextlib
import re
import shutil
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict

from jaxdet.distributed import is_first_host, of_all_hosts, print_once
from jaxdet.errors import InputError, OtherHeads
from jaxdet.files import is_file, reported, require_text, whole_folder
from jaxdet.types import Params
from jaxdet.weights import backbones, layout, systems, torch_file
from jaxdet.weights.state_dict import state_dict
from jaxdet.zoo.download import fetch
from jaxdet.zoo.published import MMDET_VERSIONS

_STEP = re.compile("0|[1-9][0-9]{0,8}")  # the name of a checkpoint's folder


class Restored(NamedTuple):
    """What a checkpoint held, on the host; `opt_state` is the given one where it held none."""

    step: int
    params: Params
    opt_state: Any
    meta: dict[str, Any]


class Damaged(InputError):
    """A checkpoint that is not what was written."""


def read_params(
    path: str | Path, shapes: Params, convention: str = "", fresh_heads: bool = False
) -> Params:
    """Returns parameters from a work directory, one of its checkpoints, or another system's file.

    `path` is `runs/x`, `runs/x/checkpoints/900`, a file of any name (see `torch_file.read`), or a
    `zoo://` name; `shapes` is the model's tree, leaves with `.shape` and `.dtype`; a file must be
    of `convention`, if given.
    With `fresh_heads`, `shapes` are parameters, which stand in where a head does not fit.
    Raises `InputError` unless the checkpoint is there, its tensors the model's, and finite.
    """
    path = _local(path)
    if is_file(path):
        checkpoint = torch_file.read(path)
        return params_of_file(checkpoint, path, shapes, convention, fresh_heads=fresh_heads)
    folder = _newest(path.absolute())
    params = _read(folder, {"params": shapes}, fresh_heads)["params"]
    layout.require_finite(params, str(folder))
    return params


def params_of_file(
    checkpoint: Any,
    path: Path,
    shapes: Params,
    convention: str,
    bn_eps: float = 0.0,
    fresh_heads: bool = False,
) -> Params:
    """Returns the parameters in what `path` holds; see `read_params` and `layout.to_params`."""
    tensors = state_dict(checkpoint, str(path))
    version = MMDET_VERSIONS.get(path.name)
    said = {"meta": {"mmdet_version": version}} if version else checkpoint
    wanted = layout.names_in_file(shapes, tensors)
    systems.require_fit(said, tensors, wanted, convention, str(path), fresh_heads)
    return layout.to_params(
        tensors, shapes, source=str(path), bn_eps=bn_eps, fresh_heads=fresh_heads
    )


def read_backbone(name: str | Path, shapes: Params) -> Params:
    """Returns an ImageNet backbone, by file or by name; see `backbones.read_backbone`."""
    return backbones.read_backbone(_local(name), shapes)


class Checkpoints:
    """The numbered checkpoints of a work directory; each appears when it is complete.

    Methods raise `InputError` if the folder cannot be written.
    """

    def __init__(self, workdir: str | Path, keep: int = 3) -> None:
        """Opens, or creates, `workdir`/checkpoints and keeps the newest `keep` of it."""
        self.folder = Path(workdir).absolute() / "checkpoints"
        with reported(self.folder, "written"):
            # Links, which orbax does not delete when it is their turn, become what they name.
            for link in self.folder.glob("*") if is_first_host() else ():
                if link.is_symlink() and link.is_dir():
                    with whole_folder(link) as copy:
                        shutil.copytree(link, copy, dirs_exist_ok=True)
                        link.unlink()
            self._manager = _manager(self.folder, keep, background=True)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            with reported(self.folder, "written"):
                self._manager.close()  # when everything is on disk
        except InputError:
            if error is None:  # else it is what ended the run, or comes of it
                raise

    def latest_step(self) -> int | None:
        """Returns the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, params: Params, opt_state: Any, meta: dict[str, Any]) -> None:
        """Starts writing, without `opt_state` if None; returns once the arrays may be reused."""
        with reported(self.folder, "written"):
            self._manager.save(step, args=_save_args(params, opt_state, meta))

    def wait(self) -> None:
        """Returns when everything is on disk."""
        with reported(self.folder, "written"):
            self._manager.wait_until_finished()

    def restore_newest(self, params_like: Params, opt_state_like: Any) -> Restored | None:
        """Returns the newest checkpoint that is whole, as NumPy arrays; None if none is saved.

        A damaged one is put aside into `damaged/`, and the one before it is used.  Raises
        `InputError` if the checkpoints are of another architecture, or all of them damaged.
        """
        tried = []
        while (step := self._manager.latest_step()) is not None:
            folder, found, fault = self.folder / str(step), {}, ""
            try:
                found = _read(folder, {"params": params_like, "optimizer": opt_state_like})
            except Damaged as error:
                fault = str(error)
            if all(of_all_hosts(not fault)):
                opt_state = found.get("optimizer", opt_state_like)
                return Restored(step, found["params"], opt_state, found["meta"])
            tried.append(fault or f"{folder}: damaged on another host")
            self._put_aside(folder, tried[-1])
        if tried:
            raise InputError(f"no checkpoint is whole; {tried[0]}; begin anew in another --workdir")
        return None

    def _put_aside(self, folder: Path, fault: str) -> None:
        damaged = self.folder.parent / "damaged"
        print_once(f"{fault}; put aside in {damaged}")
        with reported(self.folder, "written"):
            if is_first_host():
                damaged.mkdir(exist_ok=True)
                names = [folder.name, *(f"{folder.name}.{i}" for i in range(1, 1000))]
                folder.rename(next(damaged / x for x in names if not (damaged / x).exists()))
            of_all_hosts(0)  # the others wait for the first
            self._manager.reload()


def write_first(
    workdir: Path, step: int, params: Params, opt_state: Any, meta: dict[str, Any]
) -> None:
    """Makes a work directory's first checkpoint, whole or not at all."""
    folder = workdir.absolute() / "checkpoints"
    require_text(folder)
    with whole_folder(folder) as unfinished, _manager(unfinished, 1, background=False) as manager:
        manager.save(step, args=_save_args(params, opt_state, meta))


def save_best(workdir: Path, step: int, params: Params, score: float) -> None:
    """Keeps `params` as `workdir`/best if no earlier ones have at least their `score`."""
    folder = workdir.absolute() / "best"
    with reported(folder, "written"), _manager(folder, keep=1, background=False) as manager:
        for old in sorted(manager.all_steps())[:-1]:  # which a killed process left
            manager.delete(old)
        latest, best = manager.latest_step(), -1.0
        if latest is not None:
            with contextlib.suppress(Exception):  # a damaged one gives way to any
                args = ocp.args.Composite(meta=ocp.args.JsonRestore())
                best = float(manager.restore(latest, args=args)["meta"]["score"])
        if not of_all_hosts(score > best)[0]:
            return
        if latest is not None and latest >= step:
            manager.delete(latest)  # of steps that a damaged checkpoint has undone
        manager.save(step, args=_save_args(params, None, {"score": score}))


def _local(name: str | Path) -> Path:
    """Returns the file or folder that a name stands for, fetched if need be."""
    return fetch(str(name)) if "://" in str(name) else Path(name)


def _newest(path: Path) -> Path:
    """Returns the folder of one checkpoint: the newest below a work directory."""
    with reported(path, "read"):
        if (path / "params").is_dir():
            return path
        inside = [*path.glob("checkpoints/*/params"), *path.glob("*/params")]
    folders = [p.parent for p in inside if _STEP.fullmatch(p.parent.name)]
    if not folders:
        raise InputError(f"{path}: no such checkpoint; give a work directory or a file of weights")
    return max(folders, key=lambda folder: int(folder.name))


def _manager(folder: Path, keep: int, background: bool) -> ocp.CheckpointManager:
    for path in folder.glob("*"):  # orbax takes more names for a step's, and fails at them
        if path.name.split("_")[-1].isdigit() and not _STEP.fullmatch(path.name):
            raise InputError(f"{path}: no step of a run; move it out of the work directory")
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=background
    )
    return ocp.CheckpointManager(folder, options=options)


def _save_args(params: Params, opt_state: Any, meta: dict[str, Any]) -> ocp.args.Composite:
    trees = {"params": params, **({} if opt_state is None else {"optimizer": opt_state})}
    checksums = {name: checksum(tree) for name, tree in trees.items()}
    items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
    return ocp.args.Composite(**items, meta=ocp.args.JsonSave({**meta, "checksums": checksums}))


def checksum(tree: Any) -> int:
    """Returns the CRC-32 of the bytes of all arrays, in the tree's order."""
    crc = 0
    for leaf in jax.tree.leaves(jax.device_get(tree)):
        crc = zlib.crc32(np.asarray(leaf).tobytes(), crc)
    return crc


def _read(folder: Path, targets: dict[str, Any], fresh_heads: bool = False) -> dict[str, Any]:
    """Returns NumPy trees of one checkpoint and its `meta`, checked against the sums written.

    `targets` has trees by name; what was never saved is left out.  `fresh_heads` as for
    `read_params`.  Raises `Damaged` if a file is missing, cannot be read or holds other bytes,
    `InputError` if it is of another architecture.
    """
    trees, json = ocp.StandardCheckpointHandler, ocp.JsonCheckpointHandler
    handler = ocp.CompositeCheckpointHandler(params=trees(), optimizer=trees(), meta=json())
    there = [name for name in targets if (folder / name).exists()]
    try:
        with ocp.Checkpointer(handler) as reader:
            saved = dict(reader.metadata(folder).item_metadata["params"])
            wanted = {**targets, "params": saved} if fresh_heads else targets
            _require_same_shapes(wanted["params"], saved, folder)
            # Arrays of NumPy to fill: those of jax would go to the devices they were saved from.
            empty = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), wanted)
            args = {name: ocp.args.StandardRestore(empty[name]) for name in there}
            composite = ocp.args.Composite(**args, meta=ocp.args.JsonRestore())
            found = dict(reader.restore(folder, args=composite).items())
        checksums = {**found["meta"]["checksums"]}
    except InputError:
        raise
    except Exception as error:  # whatever tensorstore, JSON or orbax make of damaged bytes
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise Damaged(f"{folder}: not a readable checkpoint: {reason}") from error
    for name in targets:
        sum_found = checksum(found[name]) if name in found else None
        if sum_found != checksums.get(name):
            raise Damaged(f"{folder}: damaged: {name} is not what was written")
    if fresh_heads:
        fresh = targets["params"]
        found["params"] = layout.with_fresh_heads(found["params"], fresh, str(folder))
        _require_same_shapes(fresh, found["params"], folder)
    return found


def _require_same_shapes(params: Params, there: Params, folder: Path) -> None:
    """Raises `InputError`, with the first name, unless all tensors have their saved shape."""
    wanted, saved = (
        {name: tuple(x.shape) for name, x in flatten_dict(tree, sep="/").items()}
        for tree in (params, there)
    )
    names = sorted(k for k in wanted.keys() | saved.keys() if wanted.get(k) != saved.get(k))
    if names:
        only_heads = all(name.startswith(layout.HEADS) for name in names)
        raise (OtherHeads if only_heads else InputError)(
            f"{folder}: of another architecture than the config: {len(names)} tensors differ, as "
            f"{names[0]}: {saved.get(names[0])} there, {wanted.get(names[0])} by the config"
        )
