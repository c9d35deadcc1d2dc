"""Draws whole pickles: values of every kind, grown by the rules of the format, then bent.

Some are built to cost far more than they weigh: an object that holds the one before twice, sixty
times over; a call repeated thousands of times; huge numbers.
"""

import numpy as np
from pickle_assembler import legacy_of, many, name, number, program, storage, tensor, text, zip_of

DATA = np.arange(4, dtype=np.float32).tobytes()
SIZES = [0, 1, 2, 3, 4, 2**31, 2**40, 2**63, 2**64, -1, 2**2000]
WORDS = [text(x) for x in ("a", "storage", "cpu", "latin1", "<", "é" * 9, "k" * 5000, "0")]
LEAVES = [
    *[*WORDS, *map(number, SIZES), b"N", b"\x88", b"G\x7f\xf8" + bytes(6), b"S'\\x00'\n"],
    *[b"I3\n", b"L" + b"9" * 30 + b"L\n", b"L" + b"9" * 5000 + b"L\n", b"F1e999\n", b"C\x02\xff0"],
]
CALLS = [
    *[("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter")],
    *[("torch", "Size"), ("torch", "FloatStorage"), ("collections", "OrderedDict")],
    *[("_codecs", "encode"), ("__builtin__", "bytes"), ("numpy", "dtype"), ("numpy", "ndarray")],
    *[("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "scalar")],
    *[("builtins", "getattr"), ("argparse", "Namespace"), ("collections", "Counter")],
    *[("builtins", "eval"), ("os", "system"), ("torch.nn.parameter", "Parameter")],
]
CODES = ["f4", "f4", "f4", "<f4", "i8", "b1", "O8", "V8", "S1", "U9", "M8", "f99", "x" * 3000]
STRANGE = b"\x8f\x90\x91\x88\x89N012(.)]}\x85\x86\x87bRQPtludase\x81\x92\x93\x94\x96\x97\x98\x8b"
OFTEN = [10, 100, 1000, 30_000]


class Grammar:
    """Opcodes of random values; each method returns those of one more on the stack."""

    def __init__(self, rng: np.random.Generator, old: bool) -> None:
        self.rng = rng
        self.more = [b"N"] if old else []  # of a storage, in the older format
        self.memo = 0

    def one_of(self, items):
        return items[self.rng.integers(len(items))]

    def mostly(self, *good):
        """One of these; one time in ten another number."""
        return self.one_of(good if self.rng.random() < 0.9 else SIZES)

    def value(self, depth: int = 0) -> bytes:
        nested = [self.items, self.mapping, self.call, self.tensor, self.tensor, self.array]
        simple = [lambda _: self.one_of(LEAVES), lambda _: self.get()]
        if self.rng.random() < 0.03:
            return self.bomb(depth + 1)
        code = self.one_of(simple if depth > 3 else [*simple, *nested])(depth + 1)
        return code + self.put() if self.rng.random() < 0.2 else code

    def put(self) -> bytes:
        self.memo += 1
        return b"r" + (self.memo - 1).to_bytes(4, "little")

    def get(self) -> bytes:
        return b"j" + int(self.rng.integers(self.memo)).to_bytes(4, "little") if self.memo else b"N"

    def values(self, depth: int) -> bytes:
        return b"".join(self.value(depth) for _ in range(self.rng.integers(4)))

    def items(self, depth: int) -> bytes:
        start, end = self.one_of([(b"(", b"l"), (b"](", b"e"), (b"(", b"t"), (b"()", b"t")])
        return start + self.values(depth) + end

    def mapping(self, depth: int) -> bytes:
        key = self.one_of([*WORDS, b"K\x01", self.value(depth)])
        start, end = self.one_of([(b"}", b"s"), (b"}(", b"u"), (b"(", b"d")])
        return start + key + self.value(depth) + end

    def call(self, depth: int) -> bytes:
        if self.rng.random() < 0.5:
            return name("collections", "OrderedDict") + b")R(" + WORDS[0] + self.value(depth) + b"u"
        code = name(*self.one_of(CALLS)) + b"(" + self.values(depth) + b"t"
        code += self.one_of([b"R", b"R", b"\x81"])
        return code + (self.value(depth) + b"b" if self.rng.random() < 0.3 else b"")

    def tensor(self, depth: int) -> bytes:
        stored = storage(self.mostly(4), *self.more)
        if self.rng.random() < 0.1:
            stored = many(WORDS[1], self.value(depth), self.value(depth), b"N", number(4)) + b"Q"
        shape = [self.mostly(1, 2) for _ in range(self.one_of([0] + 9 * [1, 2] + [90]))]
        return tensor(stored, self.mostly(0, 1), shape, shape[::-1])

    def array(self, depth: int) -> bytes:
        made = name("numpy.core.multiarray", "_reconstruct")
        made += many(name("numpy", "ndarray"), many(number(0)), b"C\x01b") + b"R"
        dtype = name("numpy", "dtype") + many(text(self.one_of(CODES)), b"\x89", b"\x88") + b"R"
        order = text(self.one_of("<<=>")) if self.rng.random() < 0.9 else self.value(depth)
        shape = many(*(number(self.mostly(1, 2)) for _ in range(self.one_of([0, 1, 2]))))
        shape = shape if self.rng.random() < 0.9 else self.value(depth)
        data = self.one_of([b"C\x04abcd", b"C\x08abcdefgh", text("abcd")])
        data = data if self.rng.random() < 0.9 else self.value(depth)
        put = self.put() if self.rng.random() < 0.3 else b""
        dtype += many(b"N", order) + b"b"
        return made + put + many(b"N", shape, dtype, b"\x89", data) + b"b"

    def bomb(self, depth: int) -> bytes:
        often = self.one_of(OFTEN)
        match self.rng.integers(6):
            case 0:  # deep
                return self.one_of([b"]", b"(", b")", b"}"]) * often + b"a" * often
            case 1:  # long
                item = self.one_of([b"N", self.get()])
                return b"(" + item * often + self.one_of([b"t", b"l", b"d", b"\x90"])
            case 2:  # a call, or a state, again and again
                call = self.get() + self.one_of([b"(" + self.get() + self.get() + b"tR", b"h\x00b"])
                return b"](" + call * (often // 9) + b"e"
        # An object of 2 to the 3rd, 30th or 60th leaves.
        code, twice = self.value(depth), self.one_of([b"t", b"l", b"\x91", b"d", b"ios\nf\n"])
        for _ in range(self.one_of([3, 30, 60])):
            put = self.put()
            get = b"j" + put[1:]
            code += put + b"0(" + get + get + twice
        return code


def draw(seed: int) -> bytes:
    """A file: in either format of PyTorch's, or a bare pickle; one in three bent somewhere."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(5)
    grammar = Grammar(rng, old=kind == 0)
    pickled = program(b"}(", WORDS[0], grammar.value(), text("b"), grammar.value(), b"u")
    if rng.random() < 0.3:
        place = int(rng.integers(2, len(pickled)))
        code = STRANGE[rng.integers(len(STRANGE))]
        pickled = pickled[:place] + bytes([code]) + pickled[place + int(rng.integers(3)) :]
    if kind == 1:
        return pickled
    return legacy_of(pickled, [DATA]) if kind == 0 else zip_of(pickled, [DATA])
