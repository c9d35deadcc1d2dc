"""Reads a pickle as data: nothing that a file asks for is imported or called.

A pickle is a program that names functions and calls them.  Here every name is looked up in
one table of stand-ins, which only take notes of tensors and containers; other names are
refused.  `resolve` turns the notes into arrays and plain containers.
A *storage* is a flat run of numbers in the file; a tensor is a strided view of one.
"""

import io
import math
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO

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
_TORCH_DTYPES = (
    "float64 double float32 float float16 half bfloat16 complex64 complex128 "
    "int64 long int32 int int16 short int8 uint8 bool"
)
_MAX_DEPTH = 100  # containers within containers
_MAX_EXPANDED = 2**20  # elements of a tensor that repeats its storage (stride 0)


class Refused(ValueError):
    """A pickle asks for something that is not in the table."""


class _Sealed:
    """What a pickle may hold but not alter."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise ValueError(f"sets the state of a {type(self).__name__.strip('_')}")


class _Call(_Sealed):
    """A function that a pickle may call."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)


class StorageType(_Sealed):
    """The class of a storage or, in the oldest files, of a tensor."""

    __slots__ = ("dtype", "widen")

    def __init__(self, dtype: str):
        self.widen = dtype == "bfloat16"
        self.dtype = np.dtype("<u2" if self.widen else dtype)


class Storage(_Sealed):
    """A flat run of numbers; `data` is filled by whoever reads the file."""

    __slots__ = ("data", "kind")

    def __init__(self, kind: StorageType, data: np.ndarray):
        self.kind = kind
        self.data = data


class Tensor(_Sealed):
    """A strided view of a storage, not checked yet."""

    __slots__ = ("offset", "shape", "storage", "stride")

    def __init__(self, storage: Any, offset: Any, shape: Any, stride: Any, *_: Any):
        self.storage = storage
        self.offset = offset
        self.shape = shape
        self.stride = stride

    def array(self) -> np.ndarray:
        """The tensor, sharing memory with its storage (bfloat16: a float32 copy)."""
        if not isinstance(self.storage, Storage):
            raise ValueError("a tensor without storage")
        flat = self.storage.data
        numbers = [self.offset, *self.shape, *self.stride]
        if any(type(n) is not int or n < 0 for n in numbers):
            raise ValueError("a tensor whose size, stride or offset is no natural number")
        count = math.prod(self.shape)
        if count == 0:
            return np.zeros(self.shape, np.float32 if self.storage.kind.widen else flat.dtype)
        steps = [(n - 1) * s for n, s in zip(self.shape, self.stride, strict=True)]
        if self.offset + sum(steps) >= flat.size or count > max(flat.size, _MAX_EXPANDED):
            raise ValueError("a tensor larger than its storage")
        strides = [s * flat.itemsize for s in self.stride]
        view = np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides)
        return (view.astype("<u4") << 16).view("<f4") if self.storage.kind.widen else view


class _Parameter(_Sealed):
    """A tensor wrapped the way PyTorch did before 0.4; a class, since a pickle may subclass it."""

    __slots__ = ("data",)

    def __new__(cls, data: Any = None, *_: Any) -> "_Parameter":
        # Not __init__: some files make the object first and set its state later.
        self = super().__new__(cls)
        self.data = data
        return self

    def __setstate__(self, state: Any) -> None:
        if len(state) == 5:  # data and four flags; later files hold flags alone
            self.data = state[0]


class _Ordered(OrderedDict):
    """An OrderedDict whose attributes (a module's `_metadata`) are dropped."""

    def __setstate__(self, state: Any) -> None:
        pass


class _NumpyType(_Sealed):
    """numpy.dtype of plain numbers."""

    __slots__ = ("code", "order")

    def __init__(self, code: str, *_: Any):
        self.code, self.order = code, "<"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]

    def dtype(self) -> np.dtype:
        """The real type."""
        dtype = np.dtype(f"{self.order}{self.code}")
        if dtype.kind not in "biufc":
            raise ValueError(f"holds a NumPy array of {dtype.kind!r}, not of numbers")
        return dtype


class _NumpyArray(_Sealed):
    """numpy.ndarray or a NumPy scalar."""

    __slots__ = ("data", "fortran", "kind", "shape")

    def __init__(self, kind: Any = None, data: Any = b""):
        self.shape: tuple[int, ...] | None = None  # a scalar
        self.kind, self.fortran, self.data = kind, False, data

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.kind, self.fortran, self.data = state

    def array(self) -> Any:
        """The real array, in this machine's byte order."""
        # Python 2 wrote bytes as text.
        data = self.data.encode("latin1") if isinstance(self.data, str) else self.data
        flat = np.frombuffer(data, self.kind.dtype())
        flat = flat.astype(flat.dtype.newbyteorder("="))
        if self.shape is None:
            return flat[0]
        return np.reshape(flat, self.shape, order="F" if self.fortran else "C")


def _encode(text: str, encoding: str) -> bytes:
    """How protocol 2 spells bytes."""
    if encoding != "latin1":
        raise ValueError(f"encodes text as {encoding!a}")
    return text.encode("latin1")


def _allowed() -> dict[str, Any]:
    """Every name a pickle may use, and what stands in for it."""
    table: dict[str, Any] = {
        "collections.OrderedDict": _Call(lambda items=(): _Ordered(items)),
        "collections.defaultdict": _Call(lambda *_: {}),
        "_codecs.encode": _Call(_encode),
        "torch._utils._rebuild_tensor": _Call(Tensor),
        "torch._utils._rebuild_tensor_v2": _Call(Tensor),
        "torch._utils._rebuild_parameter": _Call(lambda data, *_: data),
        "torch.nn.parameter.Parameter": _Parameter,
        "torch.Size": _Call(tuple),
        "numpy.ndarray": _Sealed(),
        "numpy.dtype": _Call(_NumpyType),
    }
    for kind in (dict, list, set, frozenset):
        table |= {f"{m}.{kind.__name__}": _Call(kind) for m in ("builtins", "__builtin__")}
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        table[f"{module}.scalar"] = _Call(_NumpyArray)
        table[f"{module}._reconstruct"] = _Call(lambda *_: _NumpyArray())
    for name, dtype in STORAGE_DTYPES.items():
        for module in ("torch", "torch.cuda"):
            table[f"{module}.{name}"] = StorageType(dtype)
            table[f"{module}.{name.replace('Storage', 'Tensor')}"] = StorageType(dtype)
    table |= {f"torch.{name}": f"torch.{name}" for name in _TORCH_DTYPES.split()}
    return table


_ALLOWED = _allowed()


class _Reader(pickle.Unpickler):
    def __init__(self, data: bytes, persistent_load: Callable[[Any], Any] | None):
        # Python 2's text is bytes; latin1 decodes any, and gives them back exactly.
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._persistent_load = persistent_load

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in _ALLOWED:
            raise Refused(f"asks for {full[:100]!a}; only tensors and plain containers are read")
        return _ALLOWED[full]

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent_load is None:
            raise ValueError("refers to data that is not there")
        return self._persistent_load(pid)


def _cut(stream: BinaryIO) -> bytes:
    """The bytes of the pickle that begins here; leaves the stream behind them."""
    start = stream.tell()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        # The memo is an array: a large index alone would take that much memory.
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > count + 1:
            raise ValueError("uses a memo index out of order")
    end = stream.tell()
    stream.seek(start)
    return stream.read(end - start)


def load(stream: BinaryIO, persistent_load: Callable[[Any], Any] | None = None) -> Any:
    """Reads the next pickle of a seekable stream; the result is for `resolve`.

    Args:
        stream: positioned at a pickle; left right behind it.
        persistent_load: called with each persistent id (a storage or a tensor).

    Raises:
        Refused: the pickle asks for what is not in the table.
        Exception: of many kinds, when the bytes are damaged.
    """
    return _Reader(_cut(stream), persistent_load).load()


def resolve(root: Any) -> Any:
    """Turns the notes taken by `load` into arrays and plain containers.

    Args:
        root: what `load` returned, all storages filled.

    Returns:
        Plain containers, numbers, text and np.ndarray; tensors of one storage share memory.

    Raises:
        ValueError: anything else, a container within itself, or a tensor beyond its storage.
    """
    done: dict[int, Any] = {}
    open_ids: set[int] = set()

    def convert(item: Any, depth: int) -> Any:
        if item is None or type(item) in (str, bytes, int, float, complex, bool):
            return item
        if id(item) not in done:
            if id(item) in open_ids or depth > _MAX_DEPTH:
                raise ValueError(f"nests containers more than {_MAX_DEPTH} deep")
            open_ids.add(id(item))
            done[id(item)] = build(item, depth + 1)
        return done[id(item)]

    def build(item: Any, depth: int) -> Any:
        if isinstance(item, Tensor | _NumpyArray):
            return item.array()
        if isinstance(item, _Parameter):
            return convert(item.data, depth)
        if type(item) in (list, tuple, set, frozenset):
            return type(item)(convert(x, depth) for x in item)
        if type(item) in (dict, _Ordered):
            pairs = ((convert(k, depth), convert(v, depth)) for k, v in item.items())
            return OrderedDict(pairs) if type(item) is _Ordered else dict(pairs)
        raise ValueError(f"holds a {type(item).__name__.strip('_')}, which is not data")

    return convert(root, 0)
