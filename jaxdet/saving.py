"""The checkpoints of a run: written in the background, verified when read, the best one kept."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import orbax.checkpoint as ocp

from jaxdet.checkpoint import (
    Damaged,
    read_step,
    require_same_shapes,
    save_args,
    saved_shapes,
)
from jaxdet.distributed import all_agree, first_hosts, is_first_host, print_once
from jaxdet.errors import InputError
from jaxdet.types import Params


class Restored(NamedTuple):
    """What a checkpoint held; `opt_state` is the given one where it held none."""

    step: int
    params: Params
    opt_state: Any
    meta: dict[str, Any]


class Checkpoints:
    """The numbered checkpoints of a work directory.

    A checkpoint appears under its number only when it is complete.
    """

    def __init__(self, workdir: str | Path, keep: int = 3) -> None:
        """Opens, or creates, `workdir`/checkpoints and keeps the newest `keep` of it."""
        self.folder = Path(workdir).absolute() / "checkpoints"
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=True
        )
        with _reported(self.folder):
            self._manager = ocp.CheckpointManager(self.folder, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with _reported(self.folder):
                self._manager.close()
        except InputError:
            if error is None:  # else it is what ended the run, or comes of it
                raise

    def latest_step(self) -> int | None:
        """Returns the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, params: Params, opt_state: Any, meta: dict[str, Any]) -> None:
        """Starts writing a checkpoint; returns once the arrays may be reused.

        Raises:
            InputError: this one or the one before cannot be written.
        """
        with _reported(self.folder):
            self._manager.save(step, args=save_args(params, opt_state, meta))

    def save_params(self, params: Params, meta: dict[str, Any], optimizer: Any = None) -> None:
        """Writes step 0 of a converted checkpoint; `optimizer` are slots, if any."""
        with _reported(self.folder):
            self._manager.save(0, args=save_args(params, optimizer, meta))
        self.wait()

    def wait(self) -> None:
        """Returns when everything is on disk.

        Raises:
            InputError: it cannot be written.
        """
        with _reported(self.folder):
            self._manager.wait_until_finished()

    def restore_newest(self, params_like: Params, opt_state_like: Any) -> Restored | None:
        """Returns the newest checkpoint that is whole; None if none is saved.

        Arrays are laid out and placed as those given are.  A damaged checkpoint is put aside into
        `damaged/`, and the one before it is used.

        Raises:
            InputError: the checkpoints are of another architecture, or all of them damaged.
        """
        tried = []
        while (step := self._manager.latest_step()) is not None:
            found, fault = self._try(step, params_like, opt_state_like)
            if all_agree(found is not None):
                return found
            tried.append(fault or f"{self.folder / str(step)}: damaged on another host")
            self._put_aside(step, tried[-1])
        if tried:
            raise InputError(f"no checkpoint is whole; {tried[0]}; begin anew in another --workdir")
        return None

    def _try(
        self, step: int, params_like: Params, opt_state_like: Any
    ) -> tuple[Restored | None, str]:
        """Returns a saved state and its `meta`, or what is wrong with it."""
        folder = self.folder / str(step)
        targets = {"params": params_like}
        if (folder / "optimizer").exists():  # not in a converted checkpoint
            targets["optimizer"] = opt_state_like
        try:
            require_same_shapes(targets["params"], saved_shapes(folder), folder)
            found = read_step(folder, targets)
            if missing := found["meta"]["checksums"].keys() - targets.keys():
                raise Damaged(f"{folder}: damaged: {', '.join(missing)} is missing")
        except Damaged as error:
            return None, str(error)
        opt_state = found.get("optimizer", opt_state_like)
        return Restored(step, found["params"], opt_state, found["meta"]), ""

    def _put_aside(self, step: int, fault: str) -> None:
        aside = self.folder.parent / "damaged" / str(step)
        print_once(f"{fault}; put aside in {aside}")
        with _reported(self.folder):
            if is_first_host():
                aside.parent.mkdir(exist_ok=True)
                (self.folder / str(step)).rename(_free_name(aside))
            all_agree(True)  # the others wait for the first
            self._manager.reload()


class BestCheckpoint:
    """`workdir`/best: the parameters with the highest AR@1000 so far, and nothing else."""

    def __init__(self, workdir: str | Path) -> None:
        """Opens, or creates, the folder."""
        self.folder = Path(workdir).absolute() / "best"

    def offer(self, step: int, params: Params, recall: float) -> None:
        """Keeps `params` of `step` if no earlier ones have at least their AR@1000.

        Raises:
            InputError: it cannot be written.
        """
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1, cleanup_tmp_directories=True, enable_async_checkpointing=False
        )
        with _reported(self.folder), ocp.CheckpointManager(self.folder, options=options) as manager:
            latest = manager.latest_step()
            is_better = latest is None or recall > self._recall(manager, latest)
            if not first_hosts(is_better):
                return
            if latest is not None and latest >= step:
                manager.delete(latest)  # of steps that a damaged checkpoint has undone
            manager.save(step, args=save_args(params, meta={"AR@1000": recall}))

    @staticmethod
    def _recall(manager: ocp.CheckpointManager, step: int) -> float:
        """Returns AR@1000 of what is kept; a damaged one gives way to any."""
        try:
            args = ocp.args.Composite(meta=ocp.args.JsonRestore())
            return float(manager.restore(step, args=args)["meta"]["AR@1000"])
        except Exception:  # whatever orbax makes of damaged bytes
            return -1.0


@contextlib.contextmanager
def _reported(folder: Path) -> Iterator[None]:
    """Turns the system's refusal to write into a line; what was written before is kept.

    Raises:
        InputError: the system refused to write.
    """
    try:
        yield
    except InputError:
        raise
    # The system's errors come as any of these, by way of orbax's threads and tensorstore.
    except (OSError, ValueError, RuntimeError) as error:
        code = _system_code(error)
        if code is None:
            raise
        raise InputError(
            f"{folder}: cannot be written: {os.strerror(code)}; mend that, and the same command "
            "goes on from the last complete checkpoint"
        ) from error


def _system_code(error: Exception) -> int | None:
    """Returns the system's number of an error, which tensorstore hides in its own text."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return int(code[1]) if code else None


def _free_name(path: Path) -> Path:
    """Returns the path, or the first of path.1, path.2, ... that nothing has."""
    names = (path.with_name(f"{path.name}.{i}") for i in range(1, 1000))
    return path if not path.exists() else next(name for name in names if not name.exists())
