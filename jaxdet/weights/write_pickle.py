"""Writes a pickle that refers to PyTorch's tensors, without PyTorch."""

import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxdet.weights.pickled_arrays import STORAGE_DTYPES


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
    """Returns the pickle of `obj` (protocol 2, no memo) and the arrays it refers to by position.

    Args:
        obj: see `jaxdet.weights.torch_file.write`.

    Returns:
        The bytes and the contiguous, little-endian arrays; storage "0" is the first of them.

    Raises:
        TypeError: `obj` holds what a `.pth` file cannot.
    """
    arrays: list[np.ndarray] = []
    return b"".join([b"\x80\x02", *_parts(obj, arrays), b"."]), arrays


def _parts(item: Any, arrays: list[np.ndarray]) -> Iterator[bytes]:
    """Yields the commands that make `item`; what they refer to is added to `arrays`."""
    if isinstance(item, np.ndarray):
        yield from _tensor(np.ascontiguousarray(item).reshape(item.shape), arrays)
    elif isinstance(item, np.bool | np.number):
        yield from _parts(item.item(), arrays)
    elif type(item) in _CONSTANTS:
        yield _CONSTANTS[type(item)](item)
    elif type(item) in (dict, OrderedDict):
        yield b"}(" if type(item) is dict else b"ccollections\nOrderedDict\n)R("
        for key, value in item.items():
            yield from _parts(key, arrays)
            yield from _parts(value, arrays)
        yield b"u"
    elif type(item) in (list, tuple):
        yield b"](" if type(item) is list else b"("
        for value in item:
            yield from _parts(value, arrays)
        yield b"e" if type(item) is list else b"t"
    else:
        raise TypeError(f"cannot write a {type(item).__name__} to a .pth file")


def _tensor(array: np.ndarray, arrays: list[np.ndarray]) -> Iterator[bytes]:
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if array.dtype.str not in _STORAGE_NAMES:
        raise TypeError(f"PyTorch has no tensors of dtype {array.dtype}")
    name = str(len(arrays))
    arrays.append(array)
    yield b"ctorch._utils\n_rebuild_tensor_v2\n(("
    yield _str("storage")
    yield b"ctorch\n" + _STORAGE_NAMES[array.dtype.str].encode() + b"\n"
    yield _str(name) + _str("cpu") + _int(array.size)
    yield b"tQ"
    strides = tuple(s // array.itemsize for s in array.strides)
    # Offset, shape, strides, requires_grad, hooks.
    rest: list[Any] = [0, array.shape, strides, False, OrderedDict()]
    for argument in rest:
        yield from _parts(argument, arrays)
    yield b"tR"
