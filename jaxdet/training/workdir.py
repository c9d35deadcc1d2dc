"""A run's folder: which config it belongs to, and one run at a time."""

import contextlib
import dataclasses
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import msgspec
from flax.traverse_util import flatten_dict

from jaxdet.config import Config
from jaxdet.distributed import is_first_host, of_all_hosts
from jaxdet.errors import InputError
from jaxdet.files import make_folder, read_bytes, reported, write_json

# A run may be resumed with another value of these: they do not change what is learned.
FREE_FIELDS = {
    "data.root",
    "data.num_workers",
    "train.accumulation",  # the images of a step are compared, see `loop.resume`
    *("train.num_epochs", "train.num_steps", "train.log_every", "train.eval_every"),
    *("train.checkpoint_every", "train.keep_checkpoints"),
}
ADVICE = "choose another --workdir"


@contextlib.contextmanager
def claim_workdir(workdir: Path, config: Config) -> Iterator[None]:
    """Makes the folder, leaves `config.json` there and keeps other runs out while it lasts.

    Raises `InputError` if it cannot be written, is of another config or used by another run.
    """
    path = workdir / "config.json"
    fault = ""
    with contextlib.ExitStack() as held:
        try:
            make_folder(workdir)
            if is_first_host():
                held.enter_context(_lock(workdir / ".lock"))
            if path.exists():
                _require_same_run(path, config)
            if is_first_host():
                write_json(path, dataclasses.asdict(config))
        except InputError as error:
            fault = str(error)
        if not all(of_all_hosts(not fault)):
            raise InputError(fault or f"{workdir}: another host may not use it and says why")
        yield


def _lock(path: Path) -> IO[str]:
    """Returns an open file that locks the folder until the process ends, however it ends."""
    with reported(path, "locked", ADVICE):
        # Not through a link: the file that it names would be emptied.
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                run = file.read().strip() or "starting"
            raise InputError(
                f"{path.parent}: in use by another run ({run}); wait for its end or {ADVICE}"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        return file


def _require_same_run(path: Path, config: Config) -> None:
    """Raises `InputError` unless the config in `path` learns what `config` does."""
    try:
        found = msgspec.json.decode(read_bytes(path), type=dict)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InputError(f"{path}: not a config: {error}; {ADVICE}") from error
    if "test" in found:  # the name of `proposals` in earlier versions
        found["proposals"] = found.pop("test")
    # A field that came after the run began had its default then.
    found = _fields(Config()) | flatten_dict(found, sep=".")
    wanted = _fields(config)
    names = sorted((found.keys() | wanted.keys()) - FREE_FIELDS)
    other = [name for name in names if found.get(name) != wanted.get(name)]
    if other:
        first = ", ".join(f"{k} {found.get(k)} there, {wanted.get(k)} now" for k in other[:3])
        raise InputError(
            f"{path}: the work directory is of another config ({len(other)} fields differ: "
            f"{first}); {ADVICE}"
        )


def _fields(config: Config) -> dict[str, Any]:
    """Returns values by names like `data.root`, as JSON has them."""
    return flatten_dict(msgspec.json.decode(msgspec.json.encode(config)), sep=".")
