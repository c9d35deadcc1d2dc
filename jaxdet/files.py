"""Files that are whole or not there at all, and folders to put them in."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from jaxdet.errors import InputError


def make_folder(path: Path) -> None:
    """Makes a folder, and those that it lies in, where they are missing.

    Raises:
        InputError: that cannot be done.
    """
    with _reported(path, "made"):
        path.mkdir(parents=True, exist_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Writes or replaces a file; see `whole`."""
    with whole(path) as file:
        file.write(content)


def write_json(path: Path, value: Any) -> None:
    """Writes a file whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    write_whole(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


@contextlib.contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """Opens a file to write to, which takes the place of `path` at the end of the block.

    Whatever goes wrong in the block or here, `path` stays as it was and nothing else is left.

    Args:
        path: in a folder that is there.

    Raises:
        InputError: the file cannot be written, or the block raised an `OSError`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _reported(path, "written"):
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


@contextlib.contextmanager
def _reported(path: Path, done: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path}: cannot be {done}: {error.strerror or error}; "
            "make room there or choose another folder"
        ) from error


def cache_folder() -> Path:
    """Returns where things that can be made or fetched again are kept; it may not exist yet.

    That is `$JAXDET_CACHE`, or else `~/.cache/jaxdet`.
    """
    return Path(os.environ.get("JAXDET_CACHE") or "~/.cache/jaxdet").expanduser()
