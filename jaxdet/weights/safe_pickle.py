"""Reads a pickle as data: nothing that a file asks for is imported or called.

A pickle names functions and calls them.  Here every name is looked up in a table, and each
stands for a few lines of `_Objects`, which make arrays and plain containers of what they are
given; anything else is refused.
"""

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from io import SEEK_END
from typing import Any

import numpy as np

from jaxdet.weights import pickled_arrays
from jaxdet.weights.pickle_machine import Machine, Refused, Unbuilt, updated
from jaxdet.weights.pickled_arrays import STORAGE_DTYPES, Storage

_MAX_DEPTH = 100  # containers within containers

# The names that a pickle may use; `_Objects.call` does what the functions do.
_NAMES = frozenset(
    {
        *(f"builtins.{name}" for name in ("dict", "list", "int", "float")),  # never called
        *(f"torch.{name}" for name in STORAGE_DTYPES),
        *(f"torch.{name.replace('Storage', 'Tensor')}" for name in STORAGE_DTYPES),
        "collections.OrderedDict",
        "collections.defaultdict",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        "torch.nn.parameter.Parameter",
        "torch.Size",
        "numpy.dtype",
        "numpy.ndarray",
        "numpy.core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar",
        "_codecs.encode",
    }
)
_MODULES = {
    "__builtin__": "builtins",
    "torch.cuda": "torch",
    "numpy._core.multiarray": "numpy.core.multiarray",
}
_TORCH_DTYPE = re.compile(
    r"torch\.(double|float|half|long|int|short|bool|(b?float|complex|u?int)\d+)"
)


@dataclass(frozen=True, eq=False)
class Global:
    """A name that a pickle may use, e.g. 'torch.FloatStorage'."""

    name: str


def load(
    stream: Any, persistent: Callable[[Any], Any] | None = None, *, names: bool = False
) -> Any:
    """Reads the next pickle of a seekable stream, which is left right behind it.

    Args:
        stream: positioned at a pickle.
        persistent: returns the storage or the tensor of a persistent id.
        names: whether a `Global` may be among the data.

    Returns:
        Plain containers, numbers, text, bytes and np.ndarray; or a storage's tensor before the
        storage was filled.

    Raises:
        Refused: the pickle asks for what is not in the tables.
        Exception: of many kinds, when the bytes are damaged.
    """
    start = stream.tell()
    end = stream.seek(0, SEEK_END)
    stream.seek(start)
    root = Machine(stream, _Objects(end - start, persistent)).run()
    _require_data(root, names)
    return root


class _Objects:
    """What the names of the table mean."""

    def __init__(self, length: int, persistent: Callable[[Any], Any] | None) -> None:
        self._to_encode = length
        self._persistent = persistent

    def persistent(self, pid: Any) -> Any:
        """Returns the storage or the tensor that the file has under a persistent id."""
        if self._persistent is None:
            raise Refused("refers to data that is not there")
        return self._persistent(pid)

    def named(self, module: str, name: str) -> Any:
        """Returns a name of the table as a `Global`, and a dtype of PyTorch as text."""
        full = f"{_MODULES.get(module, module)}.{name}"
        if full in _NAMES:
            return Global(full)
        if _TORCH_DTYPE.fullmatch(full):
            return full
        asked = f"{module}.{name}"[:100]
        raise Refused(f"asks for {asked!a}; only tensors and plain containers are read")

    def call(self, called: Any, args: Any) -> Any:
        """Does what the named function would; only what weight files give it is understood."""
        name = called.name if type(called) is Global else ""
        match name, args:
            case "collections.OrderedDict", ():
                return OrderedDict()
            case "collections.OrderedDict", (list() as pairs,):
                # Moved: were they copied, naming one list often would fill the memory.
                items = [item for pair in pairs for item in _pair(pair)]
                pairs.clear()
                return updated(OrderedDict(), items)
            case "collections.defaultdict", tuple():
                return {}
            case "torch.Size", (tuple() as sizes,):
                return sizes
            case (
                "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2",
                (Storage() as stored, offset, tuple() as shape, tuple() as stride, *_),
            ):
                return pickled_arrays.tensor(stored.numbers, offset, shape, stride)
            case (
                "torch._utils._rebuild_parameter" | "torch.nn.parameter.Parameter",
                (np.ndarray() as array, *_),
            ):
                return array
            case "torch.nn.parameter.Parameter", ():
                return Unbuilt(name)
            case "numpy.core.multiarray._reconstruct", (Global("numpy.ndarray"), *_):
                return Unbuilt("numpy.ndarray")
            case "numpy.dtype", (str() as code, *_):
                return Unbuilt(name, code)
            case "numpy.core.multiarray.scalar", (np.dtype() as dtype, data):
                return pickled_arrays.numpy_array((), dtype, False, self._bytes(data))[()]
            case "_codecs.encode", (str() as text, "latin1"):
                return self._bytes(text)
        raise Refused("makes something that is not a tensor or a plain container")

    def build(self, target: Any, state: Any) -> Any:
        """Returns an object with its content; attributes of dicts and parameters are dropped."""
        if type(target) in (OrderedDict, np.ndarray):
            return target
        match target.name if type(target) is Unbuilt else "", state:
            case "torch.nn.parameter.Parameter", (np.ndarray() as array, _, _, _, _):
                return array
            case "numpy.dtype", (_, str() as order, *_):
                return pickled_arrays.numpy_dtype(target.args[0], order)
            case "numpy.ndarray", (_, shape, np.dtype() as dtype, fortran, data):
                return pickled_arrays.numpy_array(shape, dtype, fortran, self._bytes(data))
        raise Refused("sets the state of something that is not an array")

    def _bytes(self, data: Any) -> bytes:
        """Returns bytes that Python 2 or protocol 2 wrote as text; each text once."""
        if type(data) is bytes:
            return data
        if type(data) is not str:
            raise Refused("holds an array whose numbers are no bytes")
        self._to_encode -= len(data)
        if self._to_encode < 0:
            raise Refused("encodes the same text again and again")
        return data.encode("latin1")


def _pair(item: Any) -> Any:
    if type(item) not in (list, tuple) or len(item) != 2:
        raise ValueError("an OrderedDict of something other than pairs")
    return item


def _require_data(root: Any, names: bool) -> None:
    """Refuses what is not data, and containers that hold themselves or are too deep."""
    heights: dict[int, int] = {}  # of the containers gone through, by id
    entered: set[int] = set()
    todo = [(root, False)]
    while todo:
        item, left = todo.pop()
        if item is None or isinstance(item, str | bytes | int | float | np.generic | np.ndarray):
            continue
        if names and type(item) is Global:
            continue
        if type(item) not in (list, tuple, dict, OrderedDict):
            raise Refused("holds something that is not data")
        children = item.values() if isinstance(item, dict) else item
        if left:
            height = 1 + max((heights.get(id(child), 0) for child in children), default=0)
            if height > _MAX_DEPTH:
                raise ValueError(f"nests containers more than {_MAX_DEPTH} deep")
            heights[id(item)] = height
        elif id(item) not in heights:
            if id(item) in entered:
                raise ValueError(f"nests containers more than {_MAX_DEPTH} deep: within itself")
            entered.add(id(item))
            todo.append((item, True))
            todo.extend((child, False) for child in children)
