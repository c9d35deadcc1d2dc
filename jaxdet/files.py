"""Files that are whole or not there at all, reading regular files only, and the cache folder."""

import contextlib
import fcntl
import io
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from jaxdet.errors import InputError, refusal

CACHE_ADVICE = "JAXDET_CACHE may name another folder"
_UNFINISHED = ".jaxdet-"


def make_folder(path: Path) -> None:
    """Makes a folder and those that it lies in, without what killed processes left half-written.

    Raises `InputError` if the system refuses.
    """
    with reported(path, "made"):
        path.mkdir(parents=True, exist_ok=True)
    for left in path.glob(f"{_UNFINISHED}*"):
        # Whoever is still writing holds a lock; it goes with the process, however that ends.
        with contextlib.suppress(OSError), _locked(left):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def require_text(path: Path) -> None:
    """Refuses a name that is no text in this locale: checkpoints are written by C++, which fails.

    Raises `InputError`.
    """
    if any("\ud800" <= character <= "\udfff" for character in str(path)):
        why = "the locale does not know its characters; set LC_ALL=C.UTF-8, or rename it"
        raise InputError(f"{path}: {why}")


def write_whole(path: Path, content: bytes) -> None:
    """Writes or replaces a file; see `whole`."""
    with whole(path) as file:
        file.write(content)


def write_json(path: Path, value: Any) -> None:
    """Writes or replaces a file; see `whole`."""
    write_whole(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


@contextlib.contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """Yields a file to write to, which replaces `path` at the end of the block.

    Whatever goes wrong in the block or here, `path` stays as it was; `InputError` is raised if the
    file cannot be written, or the block raised an `OSError`.
    """
    temporary = _beside(path)
    with reported(path, "written"):
        # A link, a pipe or a device would be replaced; a folder the system refuses.
        if path.is_symlink() or (path.exists() and not path.is_file() and not path.is_dir()):
            raise OSError("not a regular file; choose another name")
        with temporary.open("xb") as file, contextlib.ExitStack() as undo:
            undo.callback(temporary.unlink, missing_ok=True)
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yields a new folder, which becomes `path` at the end of the block, or is gone if that fails.

    `InputError` is raised as by `whole`.
    """
    temporary = _beside(path)
    with reported(path, "written"):
        is_new = not path.parent.exists()
        make_folder(path.parent)
        try:
            temporary.mkdir()
            with _locked(temporary):
                yield temporary
                temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            if is_new and not any(path.parent.iterdir()):
                path.parent.rmdir()


def _beside(path: Path) -> Path:
    return path.with_name(f"{_UNFINISHED}{uuid.uuid4().hex}.tmp")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds the lock of a file or folder; raises `OSError` if another process does."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def open_regular(
    path: str | os.PathLike[str], limit: int | None = None
) -> Iterator[io.BufferedReader]:
    """Yields a file of at most `limit` bytes to read.

    Raises `InputError` if it cannot be opened or read, is larger, or is a pipe or a device, which
    would be waited for.
    """

    def opener(path: str, flags: int) -> int:
        descriptor = os.open(path, flags | os.O_NONBLOCK)
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and (limit is None or status.st_size <= limit):
            return descriptor
        os.close(descriptor)
        bound = "" if limit is None else f" of at most {limit} bytes"
        raise OSError(f"not a regular file{bound}")

    if "\0" in str(path):
        raise InputError(f"{path}: cannot be read: no file can have this name")
    with reported(path, "read"), open(path, "rb", opener=opener) as file:
        yield file


def is_file(path: Path) -> bool:
    """Returns whether something is there, and no folder; `InputError` where that is not told."""
    with reported(path, "read"), contextlib.suppress(FileNotFoundError, ValueError):
        return not stat.S_ISDIR(path.stat().st_mode)
    return False


def read_bytes(path: str | Path) -> bytes:
    """Returns the content of a regular file; raises `InputError` if it cannot be read."""
    with open_regular(path) as file:
        return file.read()


@contextlib.contextmanager
def reported(path: str | os.PathLike[str], done: str, advice: str = "") -> Iterator[None]:
    """Turns what the system refuses in the block into an `InputError`: a line that names `path`.

    It says what cannot be `done` to it ("read", "written") and what to do.  Commands report
    without it, too, but only `open` names its file.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        own = isinstance(error, InputError | UnicodeError | RecursionError)
        line = None if own else refusal(error, done, path)
        if line is None:
            raise
        raise InputError(f"{line}; {advice}" if advice else line) from error


def cache_folder() -> Path:
    """Returns where things that can be made or fetched again are kept; it may not exist yet.

    That is `$JAXDET_CACHE`, or else `~/.cache/jaxdet`.
    """
    try:
        return Path(os.environ.get("JAXDET_CACHE") or "~/.cache/jaxdet").expanduser()
    except RuntimeError:
        raise InputError(f"no home folder is known; {CACHE_ADVICE}") from None
