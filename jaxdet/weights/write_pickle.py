"""Writes pickles: of NumPy's arrays for any NumPy, and what refers to PyTorch's tensors."""

import pickle
from collections import OrderedDict
from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np

from jaxdet.weights.pickled_arrays import STORAGE_DTYPES

_STORAGE_NAMES = {dtype: name for name, dtype in STORAGE_DTYPES.items()}


def plain(obj: Any) -> bytes:
    """Returns a pickle of plain containers and NumPy's arrays, which NumPy 1 reads, too."""
    # The module's newer name is text in the last protocol without lengths of it.
    return pickle.dumps(obj, 3).replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def dumps(obj: Any) -> tuple[bytes, list[np.ndarray]]:
    """Returns the pickle of `obj` and the contiguous, little-endian arrays that it refers to.

    Storage "0" is the first of them.  Raises a TypeError if `obj` holds what a `.pth` file cannot;
    see `jaxdet.weights.torch_file.write`.
    """
    arrays: list[np.ndarray] = []
    return b"\x80\x02" + _commands(obj, arrays) + b".", arrays


def _commands(item: Any, arrays: list[np.ndarray]) -> bytes:
    """Returns the operations that make `item`; the arrays they refer to are added to `arrays`."""
    match item:
        case np.ndarray():
            return _tensor(np.ascontiguousarray(item).reshape(item.shape), arrays)
        case np.generic():
            return _commands(item.item(), arrays)
        case _ if type(item) in (type(None), bool, int, float, str):
            return pickle.dumps(item, 2)[2:-1]  # without the protocol and the stop
        case dict():
            new = b"ccollections\nOrderedDict\n)R" if isinstance(item, OrderedDict) else b"}"
            return new + b"(" + _each(chain(*item.items()), arrays) + b"u"
        case list():
            return b"](" + _each(item, arrays) + b"e"
        case tuple():
            return b"(" + _each(item, arrays) + b"t"
    raise TypeError(f"cannot write a {type(item).__name__} to a .pth file")


def _each(items: Iterable[Any], arrays: list[np.ndarray]) -> bytes:
    return b"".join(_commands(item, arrays) for item in items)


def _tensor(array: np.ndarray, arrays: list[np.ndarray]) -> bytes:
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if array.dtype not in _STORAGE_NAMES:
        raise TypeError(f"PyTorch has no tensors of dtype {array.dtype}")
    key = str(len(arrays))
    arrays.append(array)
    strides = tuple(s // array.itemsize for s in array.strides)
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(("
        + _commands("storage", arrays)
        + f"ctorch\n{_STORAGE_NAMES[array.dtype]}\n".encode()
        + _each((key, "cpu", array.size), arrays)
        + b"tQ"
        # Offset, shape, strides, requires_grad, hooks.
        + _each((0, array.shape, strides, False, OrderedDict()), arrays)
        + b"tR"
    )
