"""The stack machine that a pickle is a program for, with the operations of weight files.

Work and memory are bounded by the length of the program: only text and integers are hashed,
nothing is compared or formatted but text, and what is named again is not copied.
"""

import codecs
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from io import SEEK_END
from typing import Any

_MAX_STEPS = 250_000  # operations: some 50 for a tensor
_MAX_KEY = 2**63  # integers beyond it are no keys

_CONSTANTS: dict[bytes, Any] = {b"N": None, b"\x88": True, b"\x89": False}
_NUMBERS = {b"J": "<i", b"K": "<B", b"M": "<H", b"G": ">d"}
# Format of the length, and what the bytes mean.  Python 2's text is bytes: latin1 decodes any,
# and gives them back exactly.
_SIZED: dict[bytes, tuple[str, Callable[[bytes], Any]]] = {
    b"U": ("<B", lambda data: data.decode("latin1")),
    b"T": ("<i", lambda data: data.decode("latin1")),
    b"X": ("<I", lambda data: data.decode("utf-8", "surrogatepass")),
    b"\x8c": ("<B", lambda data: data.decode("utf-8", "surrogatepass")),
    b"B": ("<I", bytes),
    b"C": ("<B", bytes),
    b"\x8a": ("<B", pickle.decode_long),
}
_MEMO_NUMBERS = {b"q": "<B", b"r": "<I", b"h": "<B", b"j": "<I"}


class Refused(ValueError):
    """A pickle asks for something that is not in the tables."""


class Unbuilt:
    """An object whose content follows: until then the memo's keys of it are kept."""

    def __init__(self, name: str, *args: Any) -> None:
        self.name = name
        self.args = args
        self.memo_keys: list[int] = []


class Machine:
    """The stack, the memo and one method for each group of operations.

    `objects` knows the meaning of names: `named(module, name)`, `call(called, args)`,
    `build(target, state)` and `persistent(pid)` return what the program goes on with.
    """

    def __init__(self, stream: Any, objects: Any) -> None:
        self._stream = stream
        self._objects = objects
        start = stream.tell()
        self._end = stream.seek(0, SEEK_END)
        stream.seek(start)
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Returns what the program leaves on the stack."""
        for _ in range(_MAX_STEPS):
            code = self._stream.read(1)
            if code == b".":
                return self._stack.pop()
            if not code:
                raise ValueError("it ends too early; it is truncated")
            if code in _CONSTANTS:
                self._stack.append(_CONSTANTS[code])
            elif code in _NUMBERS:
                self._stack.append(self._number(_NUMBERS[code]))
            elif code in _SIZED:
                length, meaning = _SIZED[code]
                self._stack.append(meaning(self._take(self._number(length))))
            elif code in b"ILFSV":
                self._stack.append(_text_value(code, self._line()))
            elif code in b"]})(0tlde\x85\x86\x87asu":
                self._container(code)
            elif code in b"pqr\x94ghj":
                self._remember(code)
            elif code in b"ci\x93R\x81bQ":
                self._object(code)
            elif code in b"\x80\x95":  # the protocol, and the length of what follows
                self._take(1 if code == b"\x80" else 8)
            else:
                raise Refused(f"has the operation {code!r}; only tensors and containers are read")
        raise Refused(f"takes more than {_MAX_STEPS:,} steps")

    def _take(self, count: int) -> bytes:
        # Asked first, as the stream would make room for bytes that are not there.
        if not 0 <= count <= self._end - self._stream.tell():
            raise ValueError("it ends too early; it is truncated")
        return self._stream.read(count)

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _line(self) -> bytes:
        line = self._stream.readline()
        if not line.endswith(b"\n"):
            raise ValueError("it ends too early; it is truncated")
        return line[:-1]

    def _named(self) -> Any:
        return self._objects.named(self._line().decode("latin1"), self._line().decode("latin1"))

    def _since_mark(self) -> list[Any]:
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def _container(self, code: bytes) -> None:
        stack = self._stack
        match code:
            case b"(":
                self._marks.append(len(stack))
            case b"0":
                stack.pop()
            case b"]":
                stack.append([])
            case b"}":
                stack.append({})
            case b")":
                stack.append(())
            case b"t":
                stack.append(tuple(self._since_mark()))
            case b"l":
                stack.append(self._since_mark())
            case b"d":
                stack.append(updated({}, self._since_mark()))
            case b"\x85" | b"\x86" | b"\x87":
                count = code[0] - 0x84
                if len(stack) < count:
                    raise ValueError("its stack is empty")
                stack[-count:] = [tuple(stack[-count:])]
            case b"a" | b"e":
                items = self._since_mark() if code == b"e" else [stack.pop()]
                if type(stack[-1]) is not list:
                    raise Refused("appends to what is no list")
                stack[-1].extend(items)
            case b"s" | b"u":
                items = self._since_mark() if code == b"u" else [stack.pop(), stack.pop()][::-1]
                updated(stack[-1], items)

    def _remember(self, code: bytes) -> None:
        if code == b"\x94":
            key = len(self._memo)
        elif code in b"pg":
            key = int(self._line()[:20])
        else:
            key = self._number(_MEMO_NUMBERS[code])
        if code in b"ghj":
            self._stack.append(self._memo[key])
            return
        self._memo[key] = self._stack[-1]
        if type(self._stack[-1]) is Unbuilt:
            self._stack[-1].memo_keys.append(key)

    def _object(self, code: bytes) -> None:
        stack = self._stack
        match code:
            case b"c":
                stack.append(self._named())
            case b"\x93":
                name, module = stack.pop(), stack.pop()
                if type(name) is not str or type(module) is not str:
                    raise Refused("asks for a name that is no text")
                stack.append(self._objects.named(module, name))
            case b"i":
                stack.append(self._objects.call(self._named(), tuple(self._since_mark())))
            case b"R" | b"\x81":
                args = stack.pop()
                stack[-1] = self._objects.call(stack[-1], args)
            case b"b":
                state, target = stack.pop(), stack.pop()
                stack.append(self._objects.build(target, state))
                if type(target) is Unbuilt:
                    for key in target.memo_keys:
                        self._memo[key] = stack[-1]
            case b"Q":
                stack[-1] = self._objects.persistent(stack[-1])


def _text_value(code: bytes, line: bytes) -> Any:
    """Returns the number or text that protocol 0 writes as a line."""
    if code == b"V":
        return line.decode("raw-unicode-escape")
    if code == b"S":
        if len(line) < 2 or line[:1] not in b"'\"" or line[:1] != line[-1:]:
            raise ValueError("a text without quotes")
        return codecs.escape_decode(line[1:-1])[0].decode("latin1")
    if len(line) > 100:
        raise ValueError("a number of more than 100 digits")
    if code == b"F":
        return float(line)
    return line == b"01" if line in (b"00", b"01") else int(line.removesuffix(b"L"))


def updated(target: Any, items: list[Any]) -> Any:
    """Sets keys and values, which alternate in `items`, and returns the dict."""
    if type(target) not in (dict, OrderedDict) or len(items) % 2:
        raise Refused("sets items of what is no dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) is not str and not (type(key) is int and -_MAX_KEY <= key < _MAX_KEY):
            raise Refused("has a key that is neither text nor a small integer")
        target[key] = value
    return target
