"""Malicious and malformed files: one line each, nothing executed."""

import io
import os
import pickle
import re
import time
import zipfile

import numpy as np
import pytest
from limited import read_each
from pickle_assembler import (
    legacy_of,
    many,
    message_of,
    name,
    number,
    program,
    storage,
    tensor,
    text,
    written,
    zip_of,
)
from pickle_grammar import draw

from jaxdet.weights import safe_pickle, torch_file
from jaxdet.weights.safe_pickle import load

FOUR = np.arange(4, dtype=np.float32).tobytes()
WRAPPERS = {"zip": zip_of, "legacy": legacy_of}


class Evil:
    """A pickle of it asks for a shell command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_malicious_pickle_is_refused_by_name_and_not_executed(tmp_path, wrap):
    target = tmp_path / "executed"
    pickled = pickle.dumps({"state_dict": Evil(f"touch {target}")}, 2)
    line = message_of(written(tmp_path, wrap(pickled)))
    assert "refused" in line
    assert f"'{os.name}.system'" in line
    assert "refused" in message_of(written(tmp_path, pickled))
    assert not target.exists()
    pickle.loads(pickled)
    assert target.exists()  # it does work where pickles are trusted


@pytest.mark.parametrize(
    ("body", "asked_for"),
    [
        (name("builtins", "eval") + text("1/0") + b"\x85R", "builtins.eval"),
        (text("os") + text("system") + b"\x93", "os.system"),
        (b"(" + text("true") + b"iposix\nsystem\n", "INST"),
        (name("torch.hub", "load") + b")R", "torch.hub.load"),
        (name("torch._utils", "_rebuild_tensor.__globals__"), "_rebuild_tensor.__globals__"),
        (text("torch") + text("nn\n\u2028x") + b"\x93", "torch.nn"),
        (name("numpy", "load"), "numpy.load"),
        (name("functools", "partial"), "functools.partial"),
        (name("builtins", "set") + b"](K\x01e\x85R", "builtins.set"),
        (name("builtins", "bytearray") + number(2**40) + b"\x85R", "builtins.bytearray"),
    ],
)
def test_other_names_are_refused(tmp_path, body, asked_for):
    for wrap in WRAPPERS.values():
        line = message_of(written(tmp_path, wrap(program(body))))
        assert "refused" in line
        assert asked_for in line


def numpy_scalar(code: str, data: bytes) -> bytes:
    dtype = name("numpy", "dtype") + many(text(code), b"\x89", b"\x88") + b"R"
    return name("numpy.core.multiarray", "scalar") + many(dtype, data) + b"R"


@pytest.mark.parametrize(
    "body",
    [
        # An object scalar's bytes would be another pickle, loaded by NumPy without restrictions.
        numpy_scalar("O8", b"U" + bytes([9]) + b"cos\nsyste"),
        name("torch", "FloatStorage"),  # a class, not data
        name("torch._utils", "_rebuild_tensor_v2"),
        name("torch._utils", "_rebuild_tensor_v2") + b"}b",  # sets its state
        name("torch.nn.parameter", "Parameter") + text("data") + b"N\x86b",
        name("torch", "Size") + many(number(1)) + b"b",
        name("_codecs", "encode") + many(text("x"), text("rot13")) + b"R",
        name("collections", "OrderedDict") + number(3) + b"\x85R",
        text("3") + b"Q",  # a persistent id that is no storage
        b"\x96" + (2**40).to_bytes(8, "little"),  # room for a bytearray, but no bytes
        b"\x82\x01",  # an extension
        b"(" * 10 + b"1",
    ],
)
def test_what_is_not_data_is_refused(tmp_path, body):
    for wrap in WRAPPERS.values():
        message_of(written(tmp_path, wrap(program(body))))


@pytest.mark.parametrize(
    "body",
    [
        b"]" * 20_000 + b"a" * 19_999,  # deep
        b"]q\x00h\x00a",  # a list within itself
        b"}q\x00" + text("a") + b"h\x00s",
    ],
)
def test_endless_containers_are_refused(tmp_path, body):
    for wrap in WRAPPERS.values():
        assert "deep" in message_of(written(tmp_path, wrap(program(body))))


def doubled(first: bytes, combine: bytes, times=60) -> bytes:
    """Opcodes of an object of 2**times leaves: each holds the one before twice."""
    steps = (b"q%c0(h%ch%c" % (i, i, i) + combine for i in range(times))
    return first + b"".join(steps)


HUGE_TUPLE = doubled(b")", b"t")
HUGE_SET = doubled(b"(\x91", b"\x91")
FLOATS = name("numpy", "dtype") + many(text("f4"), b"\x89", b"\x88") + b"R"
FLOATS += many(number(3), text("<"), *[b"N"] * 3) + b"b"
ARRAY = name("numpy.core.multiarray", "_reconstruct") + many(
    name("numpy", "ndarray"), many(number(0)), b"C\x01b"
)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        # What never ends where it is hashed, compared, formatted or multiplied.
        (b"}" + HUGE_TUPLE + b"Ns", "a key that is neither text nor a small integer"),
        (b"}" + number(2**64) + b"Ns", "a key that is neither text nor a small integer"),
        (b"})2\x86Ns", "operation"),
        (b"}" + HUGE_SET + b"Ns", "operation"),
        (name("numpy", "dtype") + b"(" + HUGE_TUPLE + b"K\x00K\x01tR", "makes something"),
        (b"\x80\x02" + HUGE_TUPLE + b"Q", "no storage|not there"),
        (many(text("storage"), name("torch", "FloatStorage"), HUGE_TUPLE, b"N", b"N") + b"Q", ""),
        (tensor(storage(4, b"N"), 0, [2**2000] * 90, [1] * 90), ""),
        (ARRAY + b"R" + many(b"N", HUGE_TUPLE, FLOATS, b"\x89", b"C\x04abcd") + b"b", "shape"),
        (
            ARRAY + b"R" + many(b"N", many(number(2)), FLOATS, b"\x89", b"C\x04abcd") + b"b",
            "does not fit its bytes",
        ),
    ],
)
def test_what_would_take_for_ever_is_refused_at_once(tmp_path, body, reason):
    for path in (
        written(tmp_path, program(body), "x.pkl"),
        written(tmp_path, zip_of(program(body))),
    ):
        start = time.process_time()
        assert re.search(reason, message_of(path))
        assert time.process_time() - start < 10


def test_a_program_of_too_many_steps_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(safe_pickle, "_MAX_STEPS", 1000)
    assert torch_file.read(written(tmp_path, zip_of(program(b"N" * 998)))) is None
    line = message_of(written(tmp_path, zip_of(program(b"N" * 999))))
    assert "takes more than 1,000 steps" in line


def read_drawn(count, tmp_path):
    lines = read_each(
        "jaxdet.weights.torch_file:read", zip_of(program(b"N")), map(draw, range(count)), tmp_path
    )
    said = [line.split(": ")[1] for line in lines.values() if line]
    # Now and then what is left is a pickle like any other, and is called one.
    said = [text for text in said if text != "a pickle, but not one of PyTorch's; this is not read"]
    assert {text.split()[0] for text in said} == {"refused,", "damaged"}
    assert sum(not line for line in lines.values()) > 0.1 * count


def test_drawn_pickles_are_read_or_one_line(tmp_path):
    read_drawn(300, tmp_path)


@pytest.mark.slow
def test_many_drawn_pickles_are_read_or_one_line(tmp_path):
    read_drawn(10_000, tmp_path)


def test_a_large_memo_index_takes_no_memory(tmp_path):
    body = b"K\x07r\xff\xff\xff\xff"
    for wrap in WRAPPERS.values():
        assert torch_file.read(written(tmp_path, wrap(program(body)))) == 7


def test_a_container_met_twice_is_one_object():
    # Thirty doublings: a billion leaves if each was converted on its own.
    body = b"]" + b"".join(b"q%c0](h%ch%ce" % (i, i, i) for i in range(30))
    root = load(io.BytesIO(program(body)))
    assert root[0] is root[1]


def test_a_text_encoded_again_and_again_is_refused(tmp_path):
    first = name("_codecs", "encode") + b"q\x00(" + text("x" * 9000) + b"q\x01" + text("latin1")
    again = b"h\x00(h\x01" + text("latin1") + b"tR"
    body = b"](" + first + b"tR" + again * 500 + b"e"
    for wrap in WRAPPERS.values():
        assert "again and again" in message_of(written(tmp_path, wrap(program(body))))


def test_pairs_of_an_ordered_dict_are_moved_not_copied():
    """Python 2 gave them as a list; a list named twice is empty the second time."""
    pair = b"](" + text("a") + number(1) + b"e"
    made = name("collections", "OrderedDict") + b"q\x00](" + pair + b"eq\x01\x85R"
    root = load(io.BytesIO(program(b"](", made, b"h\x00h\x01\x85Re")))
    assert root == [{"a": 1}, {}]


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [
        (0, (5,), (1,)),
        (1, (4,), (1,)),
        (0, (2, 2), (3, 1)),
        (3, (2,), (-1,)),
        (-1, (1,), (1,)),
        (0, (2, 2), (2,)),
        (0, (2**62,), (0,)),
        (0, (2**40, 2**40), (0, 0)),
        (2**63, (1,), (1,)),
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(tmp_path, offset, shape, stride):
    body = tensor(storage(4), offset, shape, stride)
    message_of(written(tmp_path, zip_of(program(body), [FOUR])))
    body = tensor(storage(4, b"N"), offset, shape, stride)
    message_of(written(tmp_path, legacy_of(program(body), [FOUR])))


def test_strided_and_expanded_tensors(tmp_path):
    body = b"](" + tensor(storage(4), 1, (2,), (2,)) + tensor(storage(4), 0, (2, 2), (0, 1)) + b"e"
    for stride in torch_file.read(written(tmp_path, zip_of(program(body), [FOUR]))):
        assert stride.dtype == np.float32
    first, second = torch_file.read(tmp_path / "file.pth")
    np.testing.assert_array_equal(first, [1, 3])
    np.testing.assert_array_equal(second, [[0, 1]] * 2)


@pytest.mark.parametrize("count", [2**40, 2**62, -1, 3, 5])
def test_a_storage_of_another_size_is_refused(tmp_path, count):
    body = tensor(storage(count), 0, (1,), (1,))
    message_of(written(tmp_path, zip_of(program(body), [FOUR])))
    body = tensor(storage(count, b"N"), 0, (1,), (1,))
    message_of(written(tmp_path, legacy_of(program(body), [FOUR])))


def test_storages_must_be_consistent(tmp_path):
    double = storage(4, kind=("torch", "DoubleStorage"))
    for body in (b"](" + storage(4) + double + b"e", storage(4, key="../0"), storage(4, key="1")):
        message_of(written(tmp_path, zip_of(program(body), [FOUR])))
    unused = legacy_of(program(b"N"), [FOUR])
    assert "storages are not those" in message_of(written(tmp_path, unused))
    unfilled = legacy_of(program(tensor(storage(4, b"N"), 0, (4,), (1,))), [])
    assert "storages are not those" in message_of(written(tmp_path, unfilled))


def test_archives_of_other_kinds(tmp_path):
    body = program(tensor(storage(4), 0, (4,), (1,)))
    squeezed = zip_of(body, [FOUR], compression=zipfile.ZIP_DEFLATED)
    assert "compressed" in message_of(written(tmp_path, squeezed))
    big = zip_of(body, [FOUR], extra=[("byteorder", b"big")])
    assert "big-endian" in message_of(written(tmp_path, big))
    big = legacy_of(program(b"N"), little_endian=False)
    assert "big-endian" in message_of(written(tmp_path, big))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "not one of PyTorch's" in message_of(written(tmp_path, out.getvalue()))
    assert "not one of PyTorch's" in message_of(written(tmp_path, pickle.dumps(7, 2)))


def test_files_that_are_none(tmp_path):
    for data in (b"", b"\n", b"hello world\n" * 100, b"\x89PNG\r\n\x1a\n" + bytes(1000)):
        message_of(written(tmp_path, data))
    assert "No such file" in message_of(tmp_path / "absent.pth")
    message_of(tmp_path)
