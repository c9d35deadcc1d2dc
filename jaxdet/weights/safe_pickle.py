"""Reads a pickle as data: nothing that a file asks for is imported or called.

A pickle is a program for a stack machine.  The rule, all of it:

- the operations and the names of weight files are done here, and others refused: `_NAMES`, `_call`
- keys are text or integers of 64 bits, and nothing else is hashed, compared or shown: `_updated`
- a shape is at most 64 integers, whose product its numbers have: `pickled_arrays`
- steps are counted as they are done, and the bytes of arrays: `run`, `_bytes`; depth, before anyone
  walks what was built: `_height`
- what is named again is not copied
"""

import codecs
import pickletools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxdet.weights import pickled_arrays
from jaxdet.weights.pickled_arrays import STORAGE_DTYPES, Storage

_MAX_STEPS = 250_000  # operations: some 50 for a tensor
_MAX_DEPTH = 100  # containers within containers
_MAX_KEY = 2**63  # integers beyond it are no keys

_OPERATIONS = {op.code.encode("latin1"): op.name for op in pickletools.opcodes}
_READERS = {op.name: op.arg.reader for op in pickletools.opcodes if op.arg}
# Python 2's text is bytes: latin1 decodes any, and gives them back exactly.
_READERS["STRING"] = lambda stream: str(codecs.escape_decode(stream.readline()[1:-2])[0], "latin1")
_VALUES = {
    *("INT", "LONG", "LONG1", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
}
_NEW: dict[str, Callable[[], Any]] = {
    **{"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False},
    **{"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple},
}

# The names that a pickle may use, and what they make in `_Machine._call`.
_NAMES = {
    **{f"torch.{name}": name for name in STORAGE_DTYPES},
    **{f"torch.cuda.{name}": name for name in STORAGE_DTYPES},
    "torch._utils._rebuild_tensor": "tensor",
    "torch._utils._rebuild_tensor_v2": "tensor",
    "torch._utils._rebuild_parameter": "parameter",
    "torch.nn.parameter.Parameter": "parameter",
    "torch.Size": "size",
    "numpy.dtype": "dtype",
    "numpy.ndarray": "ndarray",
    "numpy.core.multiarray._reconstruct": "array",
    "numpy._core.multiarray._reconstruct": "array",
    "numpy.core.multiarray.scalar": "scalar",
    "numpy._core.multiarray.scalar": "scalar",
    "collections.OrderedDict": "dict",
    "_codecs.encode": "bytes",
    "__builtin__.bytes": "bytes",
    # Dicts with methods, of configs.
    "mmcv.utils.config.ConfigDict": "dict",
    "mmengine.config.config.ConfigDict": "dict",
    "yacs.config.CfgNode": "dict",
    # Stepped over: what training scripts save beside their weights.
    "argparse.Namespace": "sealed",
    "collections.Counter": "sealed",
    "datetime.datetime": "sealed",
    "pathlib.Path": "sealed",
    "pathlib.PosixPath": "sealed",
    "pathlib.WindowsPath": "sealed",
    "torch.device": "sealed",
    "mmengine.logging.history_buffer.HistoryBuffer": "sealed",
    "mmengine.logging.message_hub.MessageHub": "sealed",
    "__builtin__.getattr": "attribute",
    "builtins.getattr": "attribute",
}


class Refused(ValueError):
    """A pickle asks for something that is not data."""


@dataclass(frozen=True, eq=False)
class Global:
    """What a name that a pickle may use makes: a value of `_NAMES`."""

    makes: str


class Sealed:
    """An object of a class that is stepped over; what it held was read as data and dropped."""


_LEAVES = (type(None), str, bytes, int, float, np.generic, np.ndarray, Sealed)


def load(
    stream: Any,
    persistent: Callable[[Any], Storage] | None = None,
    max_steps: int = 0,
) -> Any:
    """Returns the data of the stream's next pickle: containers, numbers, text, bytes and arrays.

    `persistent` returns the storage of a persistent id; `max_steps`, or a number that suits
    tensors, bounds the operations.  Raises `Refused` where the pickle asks for what is not in the
    tables, exceptions of many kinds where the bytes are damaged.
    """
    root = _Machine(stream, persistent).run(max_steps or _MAX_STEPS)
    _height(root, {}, 0)
    return root


class _Machine:
    """The stack, the memo and what the operations do."""

    def __init__(self, stream: Any, persistent: Callable[[Any], Storage] | None) -> None:
        self._stream = stream
        self._persistent = persistent
        self._given = 0
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self, max_steps: int) -> Any:
        """Returns what the program leaves on the stack."""
        for _ in range(max_steps):
            code = self._stream.read(1)
            if not code:
                raise ValueError("it ends too early; it is truncated")
            name = _OPERATIONS.get(code, repr(code))
            if name == "STOP":
                return self._stack.pop()
            if name in _VALUES:
                self._stack.append(self._argument(name))
            elif name in _NEW:
                self._stack.append(_NEW[name]())
            else:
                self._container(name)
        raise Refused(f"takes more than {max_steps:,} steps")

    def _argument(self, name: str) -> Any:
        return _READERS[name](self._stream)

    def _taken(self, start: int) -> list[Any]:
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _container(self, name: str) -> None:
        stack, marks = self._stack, self._marks
        match name:
            case "MARK":
                marks.append(len(stack))
            case "POP":
                stack.pop()
            case "TUPLE":
                stack.append(tuple(self._taken(marks.pop())))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._taken(-int(name[-1]))))
            case "LIST":
                stack.append(self._taken(marks.pop()))
            case "DICT":
                stack.append(_updated({}, self._taken(marks.pop())))
            case "APPEND" | "APPENDS":
                items = self._taken(-1 if name == "APPEND" else marks.pop())
                if type(stack[-1]) is not list:
                    raise Refused("appends to what is no list")
                stack[-1].extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._taken(-2 if name == "SETITEM" else marks.pop())
                _updated(stack[-1], items)
            case _:
                self._object(name)

    def _object(self, name: str) -> None:
        stack = self._stack
        match name:
            case "PUT" | "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                key = len(self._memo) if name == "MEMOIZE" else self._argument(name)
                self._memo[key] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memo[self._argument(name)])
            case "GLOBAL":
                stack.append(_named(*self._argument(name).split(" ", 1)))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(_named(module, attribute))
            case "REDUCE" | "NEWOBJ":
                args = stack.pop()
                stack[-1] = self._call(stack[-1], args)
            case "BUILD":
                self._build(stack[-2], stack.pop())
            case "BINPERSID":
                if self._persistent is None:
                    raise Refused("refers to data that is not there")
                stack[-1] = self._persistent(stack[-1])
            case "PROTO" | "FRAME":
                self._argument(name)
            case _:
                raise Refused(f"has the operation {name}; only tensors and containers are read")

    def _call(self, called: Any, args: Any) -> Any:
        """Does what the named function would; only what weight files give it is understood."""
        match called.makes if type(called) is Global else "", args:
            case "dict", ():
                return OrderedDict()
            case "dict", (list() as pairs,):
                # Moved: were they copied, naming one list often would fill the memory.
                items = [item for key, value in pairs for item in (key, value)]
                pairs.clear()
                return _updated(OrderedDict(), items)
            case "size", (tuple() as sizes,):
                return sizes
            case "tensor", (Storage() as storage, offset, shape, stride, *_):
                return pickled_arrays.tensor(storage.numbers, offset, shape, stride)
            case "parameter", (np.ndarray() as array, *_):
                return array
            case "array", (Global("ndarray"), *_):
                return np.empty(0, pickled_arrays.UNBUILT)
            case "dtype", (str() as code, *_):
                return pickled_arrays.numpy_dtype(code)
            case "scalar", (np.dtype() as dtype, data):
                array = np.empty(0, pickled_arrays.UNBUILT)
                return pickled_arrays.build(array, (), dtype, False, self._bytes(data))[()]
            case "bytes", ():
                return b""
            case "bytes", (str() as text, str("latin1")):
                return self._bytes(text)
            case ("sealed", tuple()) | ("attribute", (Global("sealed"), str())):
                return Sealed()
        raise Refused("makes something that is not a tensor or a plain container")

    def _build(self, target: Any, state: Any) -> None:
        """Gives an array its numbers, a type its order; attributes of other data are dropped."""
        match target, state:
            case np.ndarray(dtype=pickled_arrays.UNBUILT), (_, shape, np.dtype() as dtype, *more):
                order, data = more
                pickled_arrays.build(target, shape, dtype, order is True, self._bytes(data))
            case np.dtype(), (_, "<" | ">" | "=" | "|" as order, *_):
                target.__setstate__((3, order, None, None, None, -1, -1, 0))  # type: ignore[attr-defined]
            case OrderedDict() | np.ndarray() | Sealed(), _:
                return
            case _:
                raise Refused("sets the state of something that is not an array")

    def _bytes(self, data: Any) -> bytes:
        """Returns the bytes of an array, or the text that Python 2 or protocol 2 wrote as such.

        Each was in the file once, may be decoded and then given to an array: more than twice what
        was read so far are named again and again.
        """
        if type(data) not in (bytes, str):
            raise Refused("holds an array whose numbers are no bytes")
        self._given += len(data)
        if self._given > 2 * self._stream.tell():
            raise Refused("uses the same bytes again and again")
        return data if type(data) is bytes else data.encode("latin1")


def _named(module: Any, name: Any) -> Global:
    if type(module) is not str or type(name) is not str:
        raise Refused("asks for a name that is no text")
    makes = _NAMES.get(f"{module}.{name}")
    if makes is None:
        raise Refused(f"asks for '{module}.{name}'; only tensors and plain containers are read")
    return Global(makes)


def _updated(target: Any, items: list[Any]) -> Any:
    """Sets keys and values, which alternate in `items`, and returns the dict."""
    if type(target) not in (dict, OrderedDict) or len(items) % 2:
        raise Refused("sets items of what is no dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) is not str and not (type(key) is int and -_MAX_KEY <= key < _MAX_KEY):
            raise Refused("has a key that is neither text nor a small integer")
        target[key] = value
    return target


def _height(item: Any, heights: dict[int, int], depth: int) -> int:
    """Returns how deep containers nest in an item; refuses what is not data, and endless ones.

    `heights` has the containers gone through, by id; `depth` is that of the item.
    """
    if isinstance(item, _LEAVES):
        return 0
    if type(item) not in (list, tuple, dict, OrderedDict):
        raise Refused("holds something that is not data")
    if id(item) not in heights and depth < _MAX_DEPTH:
        heights[id(item)] = _MAX_DEPTH  # until it is left, so that none holds itself
        children = item.values() if isinstance(item, dict) else item
        heights[id(item)] = max((1 + _height(x, heights, depth + 1) for x in children), default=1)
    if heights.get(id(item), _MAX_DEPTH) >= _MAX_DEPTH:
        raise ValueError(f"nests containers more than {_MAX_DEPTH} deep")
    return heights[id(item)]
