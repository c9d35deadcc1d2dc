"""Writes pickles opcode by opcode, and the files around them: what PyTorch wrote, and worse."""

import io
import pickle
import struct
import zipfile

import pytest

from jaxdet.errors import InputError
from jaxdet.weights import torch_file


def message_of(path):
    """The one line that reading `path` fails with."""
    with pytest.raises(InputError) as caught:
        torch_file.read(path)
    line = str(caught.value)
    assert line.splitlines() == [line]
    assert line.startswith(f"{path}: ")
    return line


def written(tmp_path, data: bytes, name="file.pth"):
    """A file of these bytes."""
    path = tmp_path / name
    path.write_bytes(data)
    return path


def zip_of(pickled: bytes, storages=(), extra=(), compression=zipfile.ZIP_STORED) -> bytes:
    """A zip-format .pth around a pickle."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, data in (*extra, *((f"data/{i}", s) for i, s in enumerate(storages))):
            archive.writestr(f"archive/{name}", data)
        archive.writestr("archive/version", "3\n")
    return out.getvalue()


def legacy_of(pickled: bytes, storages=(), little_endian=True, itemsize=4) -> bytes:
    """An old .pth around a pickle; storages are named '0', '1', ..."""
    info = {"protocol_version": 1001, "little_endian": little_endian, "type_sizes": {}}
    head = [pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, info)]
    keys = pickle.dumps([str(i) for i in range(len(storages))], 2)
    body = [struct.pack("<q", len(s) // itemsize) + s for s in storages]
    return b"".join([*head, pickled, keys, *body])


def text(string: str) -> bytes:
    encoded = string.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value: int) -> bytes:
    digits = pickle.encode_long(value)
    return b"\x8a" + bytes([len(digits)]) + digits


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def many(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def program(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


def storage(count: int, *more: bytes, kind=("torch", "FloatStorage"), key="0") -> bytes:
    """Opcodes of a storage; `more` is the view that only old files have."""
    return many(text("storage"), name(*kind), text(key), text("cpu"), number(count), *more) + b"Q"


def tensor(stored: bytes, offset: int, shape, stride) -> bytes:
    sizes = (many(*map(number, shape)), many(*map(number, stride)))
    call = many(stored, number(offset), *sizes, b"\x89", name("collections", "OrderedDict") + b")R")
    return name("torch._utils", "_rebuild_tensor_v2") + call + b"R"
