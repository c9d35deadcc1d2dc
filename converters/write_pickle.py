"""Writes a pickle that refers to PyTorch's tensors, without PyTorch."""

import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from converters.stand_ins import STORAGE_DTYPES


def _int(number: int) -> bytes:
    if -(2**31) <= number < 2**31:
        return b"J" + struct.pack("<i", number)
    digits = pickle.encode_long(number)
    return b"\x8a" + bytes([len(digits)]) + digits


def _str(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


_STORAGE_NAMES = {dtype: name for name, dtype in STORAGE_DTYPES.items()}
_CONSTANTS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"N",
    bool: lambda item: b"\x88" if item else b"\x89",
    int: _int,
    float: lambda item: b"G" + struct.pack(">d", item),
    str: _str,
}


def dumps(obj: Any) -> tuple[bytes, list[np.ndarray]]:
    """The pickle of `obj` (protocol 2, no memo) and the arrays it refers to by position.

    Args:
        obj: see `converters.torch_file.write`.

    Returns:
        The bytes and the contiguous, little-endian arrays; storage "0" is the first of them.

    Raises:
        TypeError: `obj` holds what a `.pth` file cannot.
    """
    out = [b"\x80\x02"]
    arrays: list[np.ndarray] = []

    def put(item: Any) -> None:
        if isinstance(item, np.ndarray):
            put_tensor(np.ascontiguousarray(item).reshape(item.shape))
        elif isinstance(item, np.bool | np.number):
            put(item.item())
        elif type(item) in _CONSTANTS:
            out.append(_CONSTANTS[type(item)](item))
        elif type(item) in (dict, OrderedDict):
            out.append(b"}(" if type(item) is dict else b"ccollections\nOrderedDict\n)R(")
            for key, value in item.items():
                put(key)
                put(value)
            out.append(b"u")
        elif type(item) in (list, tuple):
            out.append(b"](" if type(item) is list else b"(")
            for value in item:
                put(value)
            out.append(b"e" if type(item) is list else b"t")
        else:
            raise TypeError(f"cannot write a {type(item).__name__} to a .pth file")

    def put_tensor(array: np.ndarray) -> None:
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        if array.dtype.str not in _STORAGE_NAMES:
            raise TypeError(f"PyTorch has no tensors of dtype {array.dtype}")
        out.append(b"ctorch._utils\n_rebuild_tensor_v2\n((")
        put("storage")
        out.append(b"ctorch\n" + _STORAGE_NAMES[array.dtype.str].encode() + b"\n")
        put(str(len(arrays)))
        put("cpu")
        put(array.size)
        out.append(b"tQ")
        put(0)  # offset
        put(array.shape)
        put(tuple(s // array.itemsize for s in array.strides))
        put(False)  # requires_grad
        put(OrderedDict())  # hooks
        out.append(b"tR")
        arrays.append(array)

    put(obj)
    return b"".join(out) + b".", arrays
