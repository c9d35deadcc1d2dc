"""Tensors and NumPy arrays as pickles describe them, checked before they are made.

A *storage* is a flat run of numbers in the file; a tensor is a strided view of one.
"""

import re
from typing import Any

import numpy as np

# Little-endian, as PyTorch writes them.
STORAGE_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
    "ComplexFloatStorage": "<c8",
    "ComplexDoubleStorage": "<c16",
    "BFloat16Storage": "bfloat16",  # NumPy has no such type: widened to float32
}
MAX_DIMENSIONS = 64
_MAX_SIZE = 2**40  # of one dimension, stride, offset or storage
_MAX_EXPANDED = 2**20  # elements of a tensor that repeats its storage (stride 0)


class Storage:
    """A flat run of numbers, allocated at once and filled later; tensors are views of it."""

    def __init__(self, kind: str, count: int) -> None:
        """`kind` is one of `STORAGE_DTYPES`; the caller knows that `count` numbers are there."""
        self.kind = kind
        dtype = STORAGE_DTYPES[kind]
        self._widened = dtype == "bfloat16"
        self._stored = np.empty(count, "<u2" if self._widened else dtype)
        self.numbers = np.empty(count, "<f4") if self._widened else self._stored

    def part(self, offset: Any, count: Any) -> "Storage":
        """Returns a storage that is a piece of this one."""
        if not is_size(offset) or not is_size(count) or offset + count > self.numbers.size:
            raise ValueError("a storage view beyond its storage")
        part = Storage(self.kind, 0)
        part.numbers = self.numbers[offset : offset + count]
        return part

    def fill(self, stream: Any) -> None:
        """Reads the numbers; raises a ValueError where the stream ends before them."""
        data = self._stored.view(np.uint8)
        if stream.readinto(data) != data.nbytes:
            raise ValueError("it ends within a storage; it is truncated")
        if self._widened:
            self.numbers.view("<u4")[:] = self._stored.astype("<u4") << 16


def item_bytes(kind: str) -> int:
    """Returns the bytes that one number of this kind of storage takes in the file."""
    dtype = STORAGE_DTYPES[kind]
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def is_size(value: Any) -> bool:
    """Returns whether a value from a file is an integer from 0 to 2**40."""
    return type(value) is int and 0 <= value <= _MAX_SIZE


def tensor(flat: np.ndarray, offset: Any, shape: Any, stride: Any) -> np.ndarray:
    """Returns a view of a storage's numbers; raises a ValueError where it reaches beyond them."""
    count = _count(shape, max(flat.size, _MAX_EXPANDED))
    if not is_size(offset) or len(shape) != len(stride) or not all(map(is_size, stride)):
        raise ValueError("a tensor whose size, stride or offset is no natural number")
    if count == 0:
        return np.zeros(shape, flat.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if last >= flat.size:
        raise ValueError("a tensor larger than its storage")
    strides = [step * flat.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(flat[offset:], shape, strides)


def numpy_dtype(code: str, order: str) -> np.dtype:
    """Returns a type of plain numbers from its code, such as 'f4', and its byte order."""
    if not re.fullmatch(r"[biufc]\d{1,2}", code) or order not in ("<", ">", "=", "|"):
        raise ValueError("holds a NumPy array that is not of plain numbers")
    return np.dtype(order + code)


def numpy_array(shape: Any, dtype: np.dtype, fortran: Any, data: bytes) -> np.ndarray:
    """Returns a read-only view of `data`; raises a ValueError unless it fits exactly."""
    count = _count(shape, len(data))
    if count * dtype.itemsize != len(data):
        raise ValueError("a NumPy array whose shape does not fit its bytes")
    flat = np.frombuffer(data, dtype)
    return flat.reshape(shape, order="F" if fortran is True else "C")


def _count(shape: Any, limit: int) -> int:
    """Returns the product of a shape; raises a ValueError where it is none or beyond `limit`."""
    if type(shape) is not tuple or len(shape) > MAX_DIMENSIONS or not all(map(is_size, shape)):
        raise ValueError("a shape that is not at most 64 natural numbers")
    count = 0 if 0 in shape else 1
    for size in shape:
        count *= size
        if count > limit:
            raise ValueError("a tensor larger than its storage")
    return count
