"""Files that are whole or not there at all, reading regular files only, and the cache folder."""

import contextlib
import io
import json
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from jaxdet.errors import InputError

ADVICE = "make room there or choose another folder"


def make_folder(path: Path) -> None:
    """Makes a folder and those that it lies in; raises `InputError` if that cannot be done."""
    with reported(path, "made", ADVICE):
        path.mkdir(parents=True, exist_ok=True)


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
    temporary = path.with_name(f".jaxdet-{uuid.uuid4().hex}.tmp")
    with reported(path, "written", ADVICE):
        # A link, a pipe or a device would be replaced; a folder the system refuses.
        if path.is_symlink() or (path.exists() and not path.is_file() and not path.is_dir()):
            raise OSError("not a regular file")
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def open_regular(path: str | os.PathLike[str], limit: int | None = None) -> io.BufferedReader:
    """Opens a file of at most `limit` bytes to read; errors are those of `open`.

    A pipe or a device, which would be waited for, a file that is larger and a name that no file can
    have are an `OSError`, too.
    """

    def opener(path: str, flags: int) -> int:
        descriptor = os.open(path, flags | os.O_NONBLOCK)
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and (limit is None or status.st_size <= limit):
            return descriptor
        os.close(descriptor)
        bound = "" if limit is None else f" of at most {limit} bytes"
        raise OSError(f"not a regular file{bound}")

    try:
        return open(path, "rb", opener=opener)
    except ValueError as error:
        raise OSError(str(error)) from error


def read_bytes(path: str | Path) -> bytes:
    """Returns the content of a regular file; raises `InputError` if it cannot be read."""
    with reported(path, "read"), open_regular(path) as file:
        return file.read()


@contextlib.contextmanager
def reported(path: str | Path, done: str, advice: str = "") -> Iterator[None]:
    """Turns an `OSError` in the block into an `InputError`: one line that names `path`.

    It says what cannot be `done` to it ("read", "written", "made"), and what the user can do.
    """
    try:
        yield
    except OSError as error:
        line = f"{path}: cannot be {done}: {error.strerror or error}"
        raise InputError(f"{line}; {advice}" if advice else line) from error


def cache_folder() -> Path:
    """Returns where things that can be made or fetched again are kept; it may not exist yet.

    That is `$JAXDET_CACHE`, or else `~/.cache/jaxdet`.
    """
    return Path(os.environ.get("JAXDET_CACHE") or "~/.cache/jaxdet").expanduser()
