"""Reads files of weights, told by their content, and writes PyTorch's, without PyTorch.

Since 1.6 `torch.save` writes a zip archive of one pickle and an entry per storage; from 0.1.10 on
it wrote a stream of pickles followed by the storages, as most of the zoo's files are.
"""

import io
import os
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from jaxdet.errors import InputError
from jaxdet.files import open_regular, whole
from jaxdet.weights import formats, write_pickle
from jaxdet.weights.formats import Unsupported
from jaxdet.weights.pickled_arrays import STORAGE_DTYPES, Storage, is_size
from jaxdet.weights.safe_pickle import Global, Refused, load

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_ALIGNMENT = 64  # bytes


def read(path: str | os.PathLike[str]) -> Any:
    """Reads what `torch.save` or safetensors wrote, or a pickle of arrays such as Detectron's.

    A plain pickle is of any protocol below 5, from Python 2 (whose text is decoded as latin1) or 3.
    Tensors become np.ndarray, in plain containers; bfloat16 is widened to float32, other dtypes
    stay, and devices are forgotten.  Nothing in the file is executed.  Raises `InputError` if it
    cannot be opened, is damaged, is of another format, or its pickle asks for anything but tensors
    and plain containers.
    """
    head = b""
    try:
        with open_regular(path) as stream:
            head = stream.peek(formats.HEAD)[: formats.HEAD]
            return _read(stream, head, os.fstat(stream.fileno()).st_size)
    except InputError:
        raise
    except Unsupported as error:
        raise InputError(f"{path}: {error}") from error
    except Refused as error:
        raise InputError(
            f"{path}: refused, nothing was executed: its pickle {error}; if you trust it, load it "
            "where it was made, and save the model's state_dict() alone"
        ) from error
    # Damaged bytes make the standard readers raise nearly anything.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if head and not head.startswith((b"PK", b"\x80")) and not formats.is_safetensors(head):
            line = f"no file of weights that is known here (it begins with {head[:16]!r}): {reason}"
            raise InputError(f"{path}: {line}") from error
        raise InputError(
            f"{path}: damaged or truncated ({reason}); copy or download it again"
        ) from error


def _read(stream: BinaryIO, head: bytes, size: int) -> Any:
    formats.refuse_others(head)
    if formats.is_safetensors(head):
        return formats.read_safetensors(stream.read())
    if head.startswith(b"PK"):
        return _read_zip(stream, size)
    first = load(stream)
    if type(first) is not int:
        return first
    if first != _MAGIC or load(stream) != _PROTOCOL:
        raise Unsupported("a pickle, but not one of PyTorch's")
    return _read_stream(stream, size)


class _Storages(dict[str, Storage]):
    """The storages of one file, by key; together never larger than the file."""

    def __init__(self, file_size: int) -> None:
        super().__init__()
        self._left = file_size

    def find(self, pid: Any) -> Storage:
        """Returns the storage of a persistent id, or the part that an old file's id names."""
        match pid:
            case (str("storage"), Global(kind), str(key), _, count, *view) if is_size(count):
                dtype = STORAGE_DTYPES[kind]
            case _:
                raise ValueError("refers to something that is no storage")
        if key not in self:
            self._left -= count * dtype.itemsize
            if self._left < 0:
                raise ValueError("its storages are larger than the file; it is truncated")
            self[key] = Storage.empty(dtype, count)
        found = self[key]
        if found.dtype != dtype or found.numbers.size != count:
            raise ValueError(f"storage {key} is described twice, differently")
        match view:
            case [] | [None]:
                return found
            case [(_, start, part)] if is_size(start) and is_size(part) and start + part <= count:
                return Storage(dtype, found.numbers[start : start + part])
        raise ValueError("a storage view beyond its storage")


def _read_stream(stream: BinaryIO, size: int) -> Any:
    if load(stream).get("little_endian") is not True:
        raise Unsupported("written on a big-endian machine")
    storages = _Storages(size)
    root = load(stream, storages.find)
    keys = load(stream)
    if not all(type(key) is str for key in keys) or sorted(keys) != sorted(storages):
        raise ValueError("its storages are not those its tensors use")
    for key in keys:
        (count,) = struct.unpack("<q", stream.read(8))
        if count != storages[key].numbers.size:
            raise ValueError(f"storage {key}'s length differs from its description")
        storages[key].fill(stream.read(count * storages[key].dtype.itemsize))
    return root


def _read_zip(stream: BinaryIO, size: int) -> Any:
    with zipfile.ZipFile(stream) as archive:
        members = archive.namelist()
        pickles = [n for n in members if n.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1 or any(n.split("/")[1:2] == ["code"] for n in members):
            formats.refuse_archive(members)
        folder = pickles[0].removesuffix("data.pkl")
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise Unsupported("a zip archive that was compressed, as PyTorch's are not")
        order = folder + "byteorder"
        if order in members and archive.read(order) != b"little":
            raise Unsupported("written on a big-endian machine")
        storages = _Storages(size)
        root = load(io.BytesIO(archive.read(pickles[0])), storages.find)
        for key, stored in storages.items():
            stored.fill(archive.read(f"{folder}data/{key}"))  # which verifies the CRC
        return root


def write(path: str | os.PathLike[str], obj: Any) -> None:
    """Writes a zip-format `.pth` that `torch.load(path, weights_only=True)` reads.

    Every array becomes a contiguous CPU tensor of its own, bit for bit; NumPy scalars become
    Python's numbers.  The same `obj` gives the same bytes.  Raises `InputError` if the file cannot
    be written, and a TypeError if `obj` holds what is no plain container, number, text or array of
    PyTorch's types.
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
