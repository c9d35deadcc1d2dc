"""Images that a command line names: files, what lies in folders, lists and tar archives."""

import logging
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxdet.data.image import MAX_BYTES, decode_image, read_image
from jaxdet.errors import InputError
from jaxdet.files import open_regular, read_bytes, reported

_LOG = logging.getLogger(__name__)

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp"),
)
ARCHIVE = ".tar"  # as webdataset's shards
MAX_HEADER = 1 << 20  # bytes, of names in an archive
PART = 1000  # images


class Stored(NamedTuple):
    """Where an image is: a file, or a member of an archive."""

    name: str  # its path; of a member, the archive's and its own
    archive: str = ""
    offset: int = 0  # these two in bytes
    size: int = 0
    fault: str = ""  # a line, if there is no image

    def read(self) -> UInt8[np.ndarray, "h w 3"]:
        """Decodes the image as RGB; raises `InputError` if it cannot be read."""
        if self.fault:
            raise InputError(self.fault)
        if not self.archive:
            return read_image(self.name)
        with open_regular(self.archive) as file:
            file.seek(self.offset)
            return decode_image(file.read(self.size), self.name)


def find_images(names: Sequence[str]) -> list[str]:
    """Returns the paths of images and archives that are named, each once.

    A name is a file, a folder (its subfolders included, links to folders not), or a `.txt` file
    with a path in each line; folders come in the order of the alphabet.  Raises `InputError` if
    there are none, or a name cannot be read.
    """
    if not names:
        raise InputError("--images: names no image; give files or folders, separated by commas")
    return [*dict.fromkeys(path for name in names for path in _paths_in(name))]


def in_parts(paths: Sequence[str], size: int = PART) -> list[list[str]]:
    """Returns parts that go together: an archive, or up to `size` images in their order."""
    parts: list[list[str]] = []
    images: list[str] = []
    for path in paths:
        if path.lower().endswith(ARCHIVE):
            parts.append([path])
        else:
            if len(images) % size == 0:
                images = []
                parts.append(images)
            images.append(path)
    return parts


def stored_in(part: Sequence[str]) -> Iterator[Stored]:
    """Yields the images of a part; see `Stored.fault`."""
    for path in part:
        yield from _members(path) if path.lower().endswith(ARCHIVE) else [Stored(path)]


def _paths_in(name: str) -> Iterator[str]:
    if Path(name).suffix.lower() == ".txt":
        lines = os.fsdecode(read_bytes(name)).splitlines()
        paths = [line.strip() for line in lines if line.strip()]
        if not paths:
            raise InputError(f"{name}: names no image; give a path in each line")
        yield from paths
        return
    with reported(name, "read"):
        if Path(name).is_file():
            yield name
            return
        images, others = _walk(name)
    if not images:
        raise InputError(f"{name}: holds no images ({', '.join([*IMAGE_SUFFIXES, ARCHIVE])})")
    if others:
        said = ", ".join([*others[:3], "..."] if len(others) > 3 else others)
        _LOG.warning("%s: passes over %d links and other files (%s)", name, len(others), said)
    yield from images


def _walk(top: str) -> tuple[list[str], list[str]]:
    """Returns images and archives in a folder and below, and what is neither nor hidden."""

    def refuse(error: OSError) -> None:
        raise error

    images, others = [], []
    for folder, inner, files in os.walk(top, onerror=refuse):
        linked = [x for x in inner if Path(folder, x).is_symlink()]
        inner[:] = sorted(x for x in inner if not x.startswith("."))
        for name in sorted([*files, *linked]):
            if name in files and name.lower().endswith((*IMAGE_SUFFIXES, ARCHIVE)):
                images.append(os.path.join(folder, name))  # noqa: PTH118 - a million of them
            elif not name.startswith("."):
                others.append(name)
    return images, others


def _members(archive: str) -> Iterator[Stored]:
    """Yields an archive's images; a damaged one's as far as it can be read, then its fault."""
    try:
        with open_regular(archive) as file:
            tar = tarfile.TarFile(fileobj=_Forward(file))  # type: ignore[arg-type]
            while member := tar.next():
                tar.members = []  # type: ignore[attr-defined]  # or all would be kept
                name = f"{archive}/{member.name}"
                if member.isreg() and member.name.lower().endswith(IMAGE_SUFFIXES):
                    usable = 0 <= member.size <= MAX_BYTES and not member.issparse()
                    fault = "" if usable else f"{name}: sparse, or of {member.size} bytes; refused"
                    yield Stored(name, archive, member.offset_data, member.size, fault)
    except Exception as error:  # of many kinds, where bytes are damaged
        what = getattr(error, "strerror", None) or " ".join(str(error).split())
        line = f"{archive}: cannot be read as a tar archive without compression: {what}"
        yield Stored(archive, fault=line)


class _Forward:
    """A file that is only read onwards and in small pieces: what a list of members takes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._furthest = file, 0

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, position: int, *_: Any) -> int:
        if position < self._furthest - 1:  # tarfile looks at the byte before a header
            raise ValueError("its members lie over one another")
        return self._file.seek(position)

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise ValueError(f"a name of {size} bytes")
        data = self._file.read(size)
        self._furthest = max(self._furthest, self._file.tell())
        return data
