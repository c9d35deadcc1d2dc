"""What stands in for the objects that a pickle asks for: notes of tensors and arrays.

A pickle may make them and hold them, but alter nothing about them: what its commands can
reach has no attributes to set, and sizes are checked when an array is made of a note.
Glossary: a *storage* is a flat run of numbers in the file; a tensor is a strided view of one.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
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
_MAX_EXPANDED = 2**20  # elements of a tensor that repeats its storage (stride 0)


class Sealed:
    """What a pickle may hold but not alter."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise ValueError(f"sets the state of a {type(self).__name__}")


class Call(Sealed):
    """A function that a pickle may call."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def __call__(self, *args: Any) -> Any:
        """Takes the note."""
        return self._function(*args)


class StorageType(Sealed):
    """The class of a storage or, in the oldest files, of a tensor."""

    __slots__ = ("dtype", "widen")

    def __init__(self, dtype: str):
        self.widen = dtype == "bfloat16"
        self.dtype = np.dtype("<u2" if self.widen else dtype)


class Storage(Sealed):
    """A flat run of numbers; `data` is filled by whoever reads the file."""

    __slots__ = ("data", "kind", "wide")

    def __init__(self, kind: StorageType, data: np.ndarray):
        self.kind = kind
        self.data = data
        self.wide: np.ndarray | None = None

    def numbers(self) -> np.ndarray:
        """Returns the filled storage; bfloat16 is widened once, not for each of its tensors."""
        if not self.kind.widen:
            return self.data
        if self.wide is None:
            self.wide = (self.data.astype("<u4") << 16).view("<f4")
        return self.wide


class Tensor(Sealed):
    """A strided view of a storage, not checked yet."""

    __slots__ = ("offset", "shape", "storage", "stride")

    def __init__(self, storage: Any, offset: Any, shape: Any, stride: Any, *_: Any):
        self.storage = storage
        self.offset = offset
        self.shape = shape
        self.stride = stride

    def array(self) -> np.ndarray:
        """Returns the tensor, sharing memory with its storage."""
        if not isinstance(self.storage, Storage):
            raise ValueError("a tensor without storage")
        flat = self.storage.numbers()
        numbers = [self.offset, *self.shape, *self.stride]
        if any(type(n) is not int or n < 0 for n in numbers):
            raise ValueError("a tensor whose size, stride or offset is no natural number")
        count = math.prod(self.shape)
        if count == 0:
            return np.zeros(self.shape, flat.dtype)
        steps = [(n - 1) * s for n, s in zip(self.shape, self.stride, strict=True)]
        if self.offset + sum(steps) >= flat.size or count > max(flat.size, _MAX_EXPANDED):
            raise ValueError("a tensor larger than its storage")
        strides = [s * flat.itemsize for s in self.stride]
        return np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides)


class Parameter(Sealed):
    """A tensor wrapped the way PyTorch did before 0.4; a class, since a pickle may subclass it."""

    __slots__ = ("data",)

    def __new__(cls, data: Any = None, *_: Any) -> "Parameter":
        """Not __init__: some files make the object first and set its state later."""
        self = super().__new__(cls)
        self.data = data
        return self

    def __setstate__(self, state: Any) -> None:
        if len(state) == 5:  # data and four flags; later files hold flags alone
            self.data = state[0]


class Ordered(OrderedDict):
    """An OrderedDict whose attributes (a module's `_metadata`) are dropped."""

    def __setstate__(self, state: Any) -> None:
        pass


class NumpyType(Sealed):
    """numpy.dtype of plain numbers."""

    __slots__ = ("code", "order")

    def __init__(self, code: str, *_: Any):
        self.code, self.order = code, "<"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]

    def dtype(self) -> np.dtype:
        """Returns the real type."""
        dtype = np.dtype(f"{self.order}{self.code}")
        if dtype.kind not in "biufc":
            raise ValueError(f"holds a NumPy array of {dtype.kind!r}, not of numbers")
        return dtype


class NumpyArray(Sealed):
    """numpy.ndarray or a NumPy scalar."""

    __slots__ = ("data", "fortran", "kind", "shape")

    def __init__(self, kind: Any = None, data: Any = b""):
        self.shape: tuple[int, ...] | None = None  # a scalar
        self.kind, self.fortran, self.data = kind, False, data

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.kind, self.fortran, self.data = state

    def array(self, data: bytes) -> Any:
        """Returns the real array or scalar, a read-only view of its bytes."""
        flat = np.frombuffer(data, self.kind.dtype())
        if self.shape is None:
            return flat[0]
        return np.reshape(flat, self.shape, order="F" if self.fortran else "C")


def ordered(items: Any = ()) -> Ordered:
    """Moves the pairs over: were they copied, naming one list often would fill the memory."""
    result = Ordered(items)
    if items:
        items.clear()
    return result
