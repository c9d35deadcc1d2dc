"""A run's folder: whose it is, one run at a time, and files that are whole or absent."""

import contextlib
import dataclasses
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxdet.config import Config
from jaxdet.distributed import all_agree, is_first_host
from jaxdet.errors import InputError
from jaxdet.files import write_json

# A run may be resumed with another value of these: they do not change what is learned.
FREE_FIELDS = (
    ("data", "root"),
    ("data", "num_workers"),
    ("train", "accumulation"),  # the images of a step are compared, see `train.require_same_batch`
    ("train", "num_epochs"),
    ("train", "num_steps"),
    ("train", "log_every"),
    ("train", "eval_every"),
    ("train", "checkpoint_every"),
    ("train", "keep_checkpoints"),
)


@contextlib.contextmanager
def claim_workdir(workdir: Path, config: Config) -> Iterator[None]:
    """Makes the folder, leaves `config.json` there and keeps other runs out while it lasts.

    Raises:
        InputError: the folder cannot be written, belongs to another config, or a run that has
            not ended uses it.
    """
    wanted = _as_json(config)
    path = workdir / "config.json"
    fault = ""
    with contextlib.ExitStack() as held:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            if is_first_host():
                held.enter_context(_lock(workdir))
            if path.exists():
                _require_same_run(json.loads(path.read_text()), wanted, path)
            if is_first_host():
                write_json(path, wanted)
        except InputError as error:
            fault = str(error)
        except (OSError, ValueError) as error:  # of the second kind: what is no JSON
            fault = f"{path}: {error}; choose another --workdir"
        if not all_agree(not fault):
            raise InputError(fault or f"{workdir}: another host may not use it and says why")
        yield


@contextlib.contextmanager
def _lock(workdir: Path) -> Iterator[None]:
    """Locks until the process ends, however it ends: the system keeps the lock, not the file."""
    with (workdir / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise InputError(
                f"{workdir}: in use by another run ({file.read().strip() or 'starting'}); "
                "wait for its end or choose another --workdir"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def _require_same_run(found: Any, wanted: Any, path: Path) -> None:
    if isinstance(found, dict) and "test" in found:  # the name of `proposals` in earlier versions
        found["proposals"] = found.pop("test")
    # A field that came after the run began had its default then.
    found = _flatten(_as_json(Config())) | _flatten(found)
    wanted = _flatten(wanted)
    for node, name in FREE_FIELDS:
        found.pop(f"{node}.{name}", None)
        wanted.pop(f"{node}.{name}", None)
    names = sorted(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k))
    if names:
        first = ", ".join(f"{k} {found.get(k)} there, {wanted.get(k)} now" for k in names[:3])
        raise InputError(
            f"{path}: the work directory is of another config ({len(names)} fields differ: "
            f"{first}); choose another --workdir"
        )


def _as_json(config: Config) -> Any:
    return json.loads(json.dumps(dataclasses.asdict(config)))


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for name, item in value.items():
        flat |= _flatten(item, f"{prefix}.{name}" if prefix else name)
    return flat
