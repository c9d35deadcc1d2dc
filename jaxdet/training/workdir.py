"""A run's folder: which config it belongs to, and one run at a time."""

import contextlib
import dataclasses
import fcntl
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import msgspec

from jaxdet.config import Config, changes_results, differing, load_run
from jaxdet.distributed import is_first_host, of_all_hosts, print_once
from jaxdet.errors import InputError, refusal
from jaxdet.files import make_folder, read_bytes, reported, require_text, write_json

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
    "train.fresh_heads",  # is over once there is a checkpoint
}
# These change it from here on, which a line says; parameters and steps stay what they are.
CHANGEABLE = re.compile(
    r"optimizer\.(?!name)|proposals\.|detections\.|rois\.(nms_|max_num)|"
    r"data\.(flip|augment|image_scale|multiscale_mode|train_\w+_sides)|"
    r"train\.(precision|matmul_precision|remat)"
)
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
        fresh = list[Path]()
        try:
            require_text(workdir)
            fresh = [path for path in (workdir, *workdir.parents) if not path.exists()]
            make_folder(workdir)
            if is_first_host():
                held.enter_context(_lock(workdir / ".lock"))
            if path.exists():
                require_same_run(path, config, training=not evaluated)
            require_same_results(workdir, checkpoint=evaluated or OWN)
            read_record(workdir / "environment.json")  # which the report needs, at the end
            if is_first_host() and not (evaluated and path.exists()):
                write_json(path, dataclasses.asdict(config))
        except (InputError, OSError) as error:
            fault = refusal(error) or str(error)
        if not all(of_all_hosts(not fault)):
            raise InputError(fault or f"{workdir}: another host may not use it and says why")
        try:
            yield
        except BaseException:  # a folder that was made for nothing goes
            ours = {workdir / ".lock", path}
            if fresh and is_first_host() and {*workdir.iterdir()} == ours:
                shutil.rmtree(workdir)
                for parent in fresh[1:]:
                    parent.rmdir()
            raise


def _lock(path: Path) -> IO[str]:
    """Returns an open file that locks the folder until the process ends, however it ends."""
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
    with reported(path, "written"):
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
    return file


def require_same_run(path: Path, config: Config, training: bool = False) -> None:
    """Raises `InputError` unless what `config` does may go on from the config in `path`.

    Training says which `CHANGEABLE` fields have changed; for others only those may differ of them
    that results do not depend on.
    """
    fields = differing(load_run(path), config)
    augment, now = fields.get("data.augment", ("", ""))
    if training and augment and not now:
        raise InputError(
            f"{path}: trained with data.augment, and a run's own config brings no code along; add "
            f"--config.data.augment={augment}"
        )
    changed, other = list[str](), list[str]()
    for name in fields.keys() - FREE_FIELDS:
        is_free = CHANGEABLE.match(name) and (training or not changes_results(name))
        there, here = fields[name]
        (changed if is_free else other).append(f"{name} {there} there, {here} now")
    if other:
        raise InputError(
            f"{path}: the work directory is of another config ({len(other)} fields differ: "
            f"{', '.join(sorted(other)[:3])}); {ADVICE}"
        )
    if changed and training:
        print_once(f"{path}: other settings from here on: {', '.join(sorted(changed))}")


def checkpoint_name(workdir: Path, checkpoint: str | Path) -> str:
    """Returns what `eval.json` calls a checkpoint: `OWN` if it is the work directory itself."""
    if "://" in str(checkpoint):
        return str(checkpoint)
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
