"""Tensors and NumPy arrays as pickles describe them, checked before they are made."""

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

UNBUILT = np.dtype("S1")  # of arrays whose type is not yet known; weights are never bytes
_BFLOAT16 = np.dtype("|V2")  # NumPy has no such type: widened to float32
# Little-endian, as PyTorch writes them.
STORAGE_DTYPES: dict[str, np.dtype] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("|i1"),
    "ByteStorage": np.dtype("|u1"),
    "BoolStorage": np.dtype("|b1"),
    "ComplexFloatStorage": np.dtype("<c8"),
    "ComplexDoubleStorage": np.dtype("<c16"),
    "BFloat16Storage": _BFLOAT16,
}
_MAX_SIZE = 2**40  # of one dimension, stride, offset or storage


@dataclass(eq=False)
class Storage:
    """A flat run of numbers, filled after the tensors that are strided views of it were made."""

    dtype: np.dtype  # in the file
    numbers: np.ndarray

    @classmethod
    def empty(cls, dtype: np.dtype, count: int) -> "Storage":
        """Returns room for so many numbers."""
        return cls(dtype, np.empty(count, "<f4" if dtype == _BFLOAT16 else dtype))

    def fill(self, data: bytes | bytearray) -> None:
        """Sets the numbers from a file's bytes; raises a ValueError where they do not fit."""
        if len(data) != self.numbers.size * self.dtype.itemsize:
            raise ValueError("a storage of another size than its tensors say")
        stored = np.frombuffer(data, self.dtype)
        if self.dtype == _BFLOAT16:
            stored = (stored.view("<u2").astype("<u4") << 16).view("<f4")
        self.numbers[:] = stored


def is_size(value: Any) -> bool:
    """Returns whether a value from a file is an integer from 0 to 2**40."""
    return type(value) is int and 0 <= value <= _MAX_SIZE


def tensor(flat: np.ndarray, offset: Any, shape: Any, stride: Any) -> np.ndarray:
    """Returns a view of a storage's numbers; raises a ValueError where it reaches beyond them."""
    count = _count(shape)
    _count(stride)
    if not is_size(offset) or len(shape) != len(stride):
        raise ValueError("a tensor whose offset or stride is none")
    if count == 0:
        return np.zeros(shape, flat.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if last >= flat.size or count > flat.size:
        raise ValueError("a tensor larger than its storage")
    strides = [step * flat.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(flat[offset:], shape, strides)


def numpy_dtype(code: str) -> np.dtype:
    """Returns a type of plain numbers from its code, such as 'f4'; its byte order may follow."""
    if not re.fullmatch(r"[biufc]\d{1,2}", code):
        raise ValueError("holds a NumPy array that is not of plain numbers")
    return np.dtype(code, copy=True)


def build(array: Any, shape: Any, dtype: np.dtype, fortran: bool, data: bytes) -> np.ndarray:
    """Gives an array that is `UNBUILT` its numbers; raises a ValueError unless they fit exactly."""
    if _count(shape) * dtype.itemsize != len(data):
        raise ValueError("a NumPy array whose shape does not fit its bytes")
    array.__setstate__((1, shape, dtype, fortran, data))
    return array


def _count(shape: Any) -> int:
    """Returns the product of a shape; raises a ValueError where it is none."""
    if type(shape) is not tuple or len(shape) > 64 or not all(map(is_size, shape)):
        raise ValueError("a shape that is not at most 64 natural numbers")
    return math.prod(shape)
