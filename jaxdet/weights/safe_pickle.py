"""Reads a pickle as data: nothing that a file asks for is imported or called.

A pickle is a program that names functions and calls them.  Here every name is looked up in
one table of stand-ins, which only take notes of tensors and containers; other names are
refused.  `resolve` turns the notes into arrays and plain containers.
"""

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, ClassVar

from jaxdet.weights.stand_ins import (
    STORAGE_DTYPES,
    Call,
    NumpyArray,
    NumpyType,
    Ordered,
    Parameter,
    Sealed,
    StorageType,
    Tensor,
    ordered,
)

_TORCH_DTYPES = (
    "float64 double float32 float float16 half bfloat16 complex64 complex128 "
    "int64 long int32 int int16 short int8 uint8 bool"
)
_MAX_DEPTH = 100  # containers within containers


class Refused(ValueError):
    """A pickle asks for something that is not in the table."""


def _allowed() -> dict[str, Any]:
    """Returns every name a pickle may use, and what stands in for it."""
    table: dict[str, Any] = {
        "collections.OrderedDict": Call(ordered),
        "collections.defaultdict": Call(lambda *_: {}),
        "torch._utils._rebuild_tensor": Call(Tensor),
        "torch._utils._rebuild_tensor_v2": Call(Tensor),
        "torch._utils._rebuild_parameter": Call(lambda data, *_: data),
        "torch.nn.parameter.Parameter": Parameter,
        "torch.Size": Call(lambda sizes: sizes),
        "numpy.ndarray": Sealed(),
        "numpy.dtype": Call(NumpyType),
    }
    for kind in ("dict", "list", "int", "float"):  # what a defaultdict makes; never called
        table |= {f"{module}.{kind}": Sealed() for module in ("builtins", "__builtin__")}
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        table[f"{module}.scalar"] = Call(NumpyArray)
        table[f"{module}._reconstruct"] = Call(lambda *_: NumpyArray())
    for name, dtype in STORAGE_DTYPES.items():
        for module in ("torch", "torch.cuda"):
            table[f"{module}.{name}"] = StorageType(dtype)
            table[f"{module}.{name.replace('Storage', 'Tensor')}"] = StorageType(dtype)
    table |= {f"torch.{name}": f"torch.{name}" for name in _TORCH_DTYPES.split()}
    return table


_ALLOWED = _allowed()


class _Reader(pickle._Unpickler):
    """The standard library's reader in Python.

    Its twin in C keeps an array that a few bytes of a file can make as large as the memory.
    """

    dispatch: ClassVar = {
        code: method
        for code, method in pickle._Unpickler.dispatch.items()
        # Objects registered beforehand, and room for bytes that are not there.
        if bytes([code]) not in (pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.BYTEARRAY8)
    }

    def __init__(self, stream: io.BufferedIOBase, persistent_load: Callable[[Any], Any] | None):
        # Python 2's text is bytes; latin1 decodes any, and gives them back exactly.
        super().__init__(stream, encoding="latin1")
        self._persistent_load = persistent_load
        start = stream.tell()
        self._to_encode = stream.seek(0, io.SEEK_END) - start
        stream.seek(start)

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full == "_codecs.encode":
            return Call(self._encode)
        if full not in _ALLOWED:
            raise Refused(f"asks for {full[:100]!a}; only tensors and plain containers are read")
        return _ALLOWED[full]

    def _encode(self, text: str, encoding: str) -> bytes:
        """Returns how protocol 2 spells bytes: as text, and each text once."""
        self._to_encode -= len(text)
        if encoding != "latin1":
            raise Refused(f"encodes text as {encoding!a}; only latin1 is read")
        if self._to_encode < 0:
            raise Refused("encodes the same text again and again")
        return text.encode("latin1")

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent_load is None:
            raise ValueError("refers to data that is not there")
        return self._persistent_load(pid)


def load(stream: io.BufferedIOBase, persistent_load: Callable[[Any], Any] | None = None) -> Any:
    """Reads the next pickle of a seekable stream; the result is for `resolve`.

    Args:
        stream: positioned at a pickle; left right behind it.
        persistent_load: called with each persistent id (a storage or a tensor).

    Raises:
        Refused: the pickle asks for what is not in the table.
        Exception: of many kinds, when the bytes are damaged.
    """
    return _Reader(stream, persistent_load).load()


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
    encoded: dict[int, bytes] = {}

    def as_bytes(data: Any) -> Any:
        if type(data) is not str:
            return data
        if id(data) not in encoded:  # Python 2 wrote bytes as text
            encoded[id(data)] = data.encode("latin1")
        return encoded[id(data)]

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
        if isinstance(item, Tensor):
            return item.array()
        if isinstance(item, NumpyArray):
            return item.array(as_bytes(item.data))
        if isinstance(item, Parameter):
            return convert(item.data, depth)
        if type(item) in (list, tuple, set, frozenset):
            return type(item)(convert(x, depth) for x in item)
        if type(item) in (dict, Ordered):
            pairs = ((convert(k, depth), convert(v, depth)) for k, v in item.items())
            return OrderedDict(pairs) if type(item) is Ordered else dict(pairs)
        raise ValueError(f"holds a {type(item).__name__}, which is not data")

    return convert(root, 0)
