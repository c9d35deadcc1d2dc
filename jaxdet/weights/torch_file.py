"""Reads and writes PyTorch's `.pth` files without PyTorch.

Three formats exist.  Since 1.6 `torch.save` writes a **zip** archive of one pickle and one
entry per storage; from 0.1.10 on it wrote a **stream** of pickles followed by the storages,
as most of the zoo's files are; before that a **tar** archive, as torchvision's ResNets of
2016 still are.  `read` knows all three, `write` writes the first.
"""

import io
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from jaxdet.errors import InputError
from jaxdet.files import open_regular, whole
from jaxdet.weights import write_pickle
from jaxdet.weights.pickled_arrays import (
    MAX_DIMENSIONS,
    STORAGE_DTYPES,
    Storage,
    is_size,
    item_bytes,
    tensor,
)
from jaxdet.weights.safe_pickle import Global, Refused, load

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_ALIGNMENT = 64  # bytes


class _UnsupportedError(ValueError):
    """The file is sound, but of a kind that is not read."""


def read(path: str | os.PathLike[str]) -> Any:
    """Reads a `.pth` file.

    Args:
        path: a file written by `torch.save`, any version.

    Returns:
        What was saved, with np.ndarray in place of tensors and plain containers around them.
        bfloat16 is widened to float32; other dtypes stay.  Devices are forgotten.

    Raises:
        InputError: the file cannot be opened, is damaged, is no `.pth`, or its pickle asks
            for anything but tensors and plain containers.  Nothing in it is executed.
    """
    return _read(path, _read_any_format)


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Reads a plain pickle of NumPy arrays, such as Detectron's `.pkl` files.

    Args:
        path: a pickle of any protocol below 5, from Python 2 or 3; text is decoded as latin1.

    Returns:
        Plain containers and np.ndarray.

    Raises:
        InputError: as `read`.
    """
    return _read(path, lambda stream, _: load(stream))


def _read(path: str | os.PathLike[str], reader: Callable[[BinaryIO, int], Any]) -> Any:
    try:
        with open_regular(path) as stream:
            return reader(stream, os.fstat(stream.fileno()).st_size)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except _UnsupportedError as error:
        raise InputError(
            f"{path}: cannot be read: {error}; save it again with torch.save"
        ) from error
    except Refused as error:
        raise InputError(f"{path}: refused, nothing was executed: its pickle {error}") from error
    # Damaged bytes make the standard readers raise nearly anything.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"{path}: damaged, truncated or no weight file ({reason}); copy or download it again"
        ) from error


def _read_any_format(stream: BinaryIO, size: int) -> Any:
    head = stream.read(512)
    stream.seek(0)
    if head.startswith(b"PK\x03\x04"):
        return _read_zip(stream, size)
    if head[257:262] == b"ustar":
        return _read_tar(stream, size)
    return _read_legacy(stream, size)


class _Storages:
    """The storages of one file, by key; together never larger than the file."""

    def __init__(self, file_size: int) -> None:
        self._left = file_size
        self.by_key: dict[str | int, Storage] = {}

    def add(self, key: Any, named: Any, count: Any) -> Storage:
        """Makes room for `count` numbers, or returns the storage of an earlier mention."""
        kind = named.name.removeprefix("torch.") if type(named) is Global else ""
        if kind not in STORAGE_DTYPES or not is_size(count):
            raise ValueError("a storage without type or size")
        if _key(key) in self.by_key:
            storage = self.by_key[key]
            if storage.kind != kind or storage.numbers.size != count:
                raise ValueError(f"storage {_short(key)} is described twice, differently")
            return storage
        self._left -= count * item_bytes(kind)
        if self._left < 0:
            raise ValueError("its storages are larger than the file; it is truncated or damaged")
        storage = self.by_key[key] = Storage(kind, count)
        return storage


def _key(key: Any) -> str | int:
    if type(key) is not str and not is_size(key):
        raise ValueError("a storage whose name is neither text nor a number")
    return key


def _short(key: str | int) -> str:
    return str(key)[:40]


def _described(pid: Any, fields: int) -> tuple[Any, ...]:
    """Returns what a persistent id of so many fields says of a storage."""
    if type(pid) is not tuple or len(pid) != fields or type(pid[0]) is not str:
        raise ValueError("refers to something that is no storage")
    if pid[0] != "storage" or type(pid[2]) is not str:
        raise ValueError("refers to something that is no storage")
    return pid[1:]


def _require_little_endian(system: Any) -> None:
    if type(system) is not dict or system.get("little_endian") is not True:
        raise _UnsupportedError("it was written on a big-endian machine")


def _int64(stream: Any) -> int:
    number = stream.read(8)
    if len(number) < 8:
        raise ValueError("it ends too early; it is truncated")
    return struct.unpack("<q", number)[0]


def _read_legacy(stream: BinaryIO, size: int) -> Any:
    for expected in (_MAGIC, _PROTOCOL):
        number = load(stream)
        if type(number) is not int or number != expected:
            raise ValueError("it is a pickle, but not one of PyTorch's")
    _require_little_endian(load(stream))
    storages = _Storages(size)

    def storage_of(pid: Any) -> Storage:
        kind, key, _, count, view = _described(pid, 6)
        storage = storages.add(key, kind, count)
        return storage if view is None else storage.part(*view[1:])

    root = load(stream, storage_of)
    keys = load(stream)
    if type(keys) is not list or any(type(key) is not str for key in keys):
        raise ValueError("it names no storages")
    if len(keys) != len(storages.by_key) or storages.by_key.keys() != set(keys):
        raise ValueError("its storages are not those its tensors use")
    for key in keys:
        if _int64(stream) != storages.by_key[key].numbers.size:
            raise ValueError(f"storage {_short(key)}'s length differs from its description")
        storages.by_key[key].fill(stream)
    return root


def _read_zip(stream: BinaryIO, size: int) -> Any:
    with zipfile.ZipFile(stream) as archive:
        pickles = [n for n in archive.namelist() if n.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise ValueError("it is a zip archive, but not one of PyTorch's")
        folder = pickles[0].removesuffix("data.pkl")
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise _UnsupportedError("its entries are compressed; PyTorch stores them as they are")
        order = folder + "byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise _UnsupportedError("it was written on a big-endian machine")
        storages = _Storages(size)

        def storage_of(pid: Any) -> Storage:
            kind, key, _, count = _described(pid, 5)
            known = key in storages.by_key
            storage = storages.add(key, kind, count)
            if not known:
                with archive.open(f"{folder}data/{key}") as entry:
                    storage.fill(entry)
                    if entry.read(1):  # at its end, this verifies the CRC
                        raise ValueError(f"storage {_short(key)} is longer than its description")
            return storage

        return load(io.BytesIO(archive.read(pickles[0])), storage_of)


def _read_tar(stream: BinaryIO, size: int) -> Any:
    with tarfile.open(fileobj=stream, mode="r:") as archive:

        def member(name: str) -> Any:
            info = archive.getmember(name)
            if not info.isreg() or info.issparse():
                raise ValueError(f"its {name} is not a plain file")
            return archive.extractfile(info)

        _require_little_endian(load(member("sys_info")))
        storages = _Storages(size)
        entries = member("storages")
        for _ in range(load(entries)):
            key, _, kind = load(entries, names=True)
            storages.add(key, kind, _int64(entries)).fill(entries)
        views = dict(storages.by_key)
        for key, root, offset, count in load(entries):
            views[_key(key)] = views[_key(root)].part(offset, count)
        tensors = {}
        entries = member("tensors")
        for _ in range(load(entries)):
            key, storage, _ = load(entries, names=True)
            dimensions = min(struct.unpack("<i4x", entries.read(8))[0], MAX_DIMENSIONS + 1)
            shape, stride = (tuple(_int64(entries) for _ in range(dimensions)) for _ in range(2))
            numbers = views[_key(storage)].numbers
            tensors[_key(key)] = tensor(numbers, _int64(entries), shape, stride)
        return load(member("pickle"), lambda pid: tensors[int(_short(_key(pid)))])


def write(path: str | os.PathLike[str], obj: Any) -> None:
    """Writes a zip-format `.pth` that `torch.load(path, weights_only=True)` reads.

    Every array becomes a contiguous CPU tensor of its own, bit for bit.  The same `obj` gives
    the same bytes.

    Args:
        path: replaced only once the file is complete.
        obj: dict, OrderedDict, list, tuple, str, int, float, bool, None, np.ndarray and NumPy
            scalars (written as Python's numbers), nested as you like.

    Raises:
        InputError: the file cannot be written.
        TypeError: `obj` holds something else, or an array of a dtype that PyTorch lacks.
    """
    pickled, arrays = write_pickle.dumps(obj)
    with whole(Path(path)) as file, zipfile.ZipFile(file, "w") as archive:
        _add(archive, "data.pkl", pickled)
        _add(archive, "byteorder", b"little")
        for i, array in enumerate(arrays):
            _add(archive, f"data/{i}", array.tobytes())
        _add(archive, "version", b"3\n")


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(f"archive/{name}", date_time=(1980, 1, 1, 0, 0, 0))
    # Like PyTorch, pads the header so that storages can be memory-mapped as they lie.
    header = archive.fp.tell() + 30 + len(info.filename) + 4 if archive.fp else 0
    padding = -header % _ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + bytes(padding)
    archive.writestr(info, data)
