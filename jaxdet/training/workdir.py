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

from jaxdet.config import Config, differing, load_run
from jaxdet.distributed import is_first_host, of_all_hosts
from jaxdet.errors import InputError
from jaxdet.files import make_folder, read_bytes, reported, write_json

# A run may be resumed with another value of these: they do not change what is learned.
FREE_FIELDS = {
    "data.root",
    "data.train_annotations",
    "data.train_images",
    "data.val_annotations",
    "data.val_images",
    "data.num_workers",
    "train.accumulation",  # the images of a step are compared, see `loop.resume`
    *("train.num_epochs", "train.num_steps", "train.log_every", "train.eval_every"),
    *("train.checkpoint_every", "train.keep_checkpoints"),
}
ADVICE = "choose another --workdir"
OWN = "its own"  # checkpoint, as `eval.json` calls it


@contextlib.contextmanager
def claim_workdir(workdir: Path, config: Config, evaluated: str = "") -> Iterator[None]:
    """Makes the folder, leaves `config.json` there and keeps other runs out while it lasts.

    `evaluated` is the checkpoint of a command that only evaluates.  Raises `InputError` if the
    folder cannot be written, is of another config or checkpoint, or used by another run.
    """
    path = workdir / "config.json"
    fault = ""
    with contextlib.ExitStack() as held:
        try:
            make_folder(workdir)
            if is_first_host():
                held.enter_context(_lock(workdir / ".lock"))
            if path.exists():
                require_same_run(path, config)
            require_same_results(workdir, checkpoint=evaluated or OWN)
            if is_first_host() and not (evaluated and path.exists()):
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


def require_same_run(path: Path, config: Config) -> None:
    """Raises `InputError` unless the config in `path` learns what `config` does."""
    fields = differing(load_run(path), config)
    other = {name: both for name, both in fields.items() if name not in FREE_FIELDS}
    if other:
        parts = [f"{name} {there} there, {here} now" for name, (there, here) in other.items()]
        raise InputError(
            f"{path}: the work directory is of another config ({len(other)} fields differ: "
            f"{', '.join(parts[:3])}); {ADVICE}"
        )


def checkpoint_name(workdir: Path, checkpoint: str | Path) -> str:
    """Returns what `eval.json` calls a checkpoint: `OWN` if it is the work directory itself."""
    if "://" in str(checkpoint):
        return str(checkpoint)
    with reported(checkpoint, "read"):
        there, here = (Path(path).resolve() for path in (checkpoint, workdir))
    return OWN if there == here else str(there)


def require_same_results(workdir: Path, **subject: str) -> None:
    """Raises `InputError` if the evaluation in a folder is of another `checkpoint` or `data`."""
    path = workdir / "eval.json"
    found = read_record(path) if path.is_file() else {}
    trained = any((workdir / "checkpoints").glob("*"))
    found.setdefault("checkpoint", OWN if trained or found else subject.get("checkpoint"))
    for name, wanted in subject.items():
        if found.get(name, wanted) != wanted:
            there = str(found[name])[:200]
            raise InputError(
                f"{workdir}: its results are of {name} {there}, not of {wanted}; {ADVICE}"
            )


def read_record(path: Path) -> dict[str, Any]:
    """Returns what a JSON file of a run holds; nothing if there is none."""
    try:
        return msgspec.json.decode(read_bytes(path), type=dict) if path.exists() else {}
    except (msgspec.DecodeError, RecursionError) as error:
        raise InputError(f"{path}: not what a run writes ({error}); delete it") from error
