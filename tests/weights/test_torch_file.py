"""Files written by PyTorch in all its formats, damaged ones, and files written by us."""

import io
import pickle
import tarfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from pickle_assembler import (
    legacy_of,
    many,
    message_of,
    name,
    number,
    program,
    storage,
    text,
    written,
)

from jaxdet.errors import InputError
from jaxdet.weights import torch_file

DATA = Path(__file__).parent / "data"
SAMPLES = [DATA / "sample_zip.pth", DATA / "sample_legacy.pth"]


def assert_same(actual, expected):
    """Equal dtypes, shapes and bits."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert actual.tobytes() == expected.tobytes()


@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: p.stem)
def test_reads_what_pytorch_wrote(path, sample):
    checkpoint = torch_file.read(path)
    state = checkpoint["state_dict"]
    assert type(state) is OrderedDict
    assert list(state) == list(sample)
    for key, expected in sample.items():
        assert_same(np.ascontiguousarray(state[key]).reshape(expected.shape), expected.copy())
    assert np.shares_memory(state["whole"], state["rows"])
    meta = checkpoint["meta"]
    assert meta["iter"] == 2**40
    assert meta["classes"] == ("person", "café")
    assert meta["score"] == 0.571
    np.testing.assert_array_equal(meta["history"], [[0, 1, 2], [3, 4, 5]])  # big-endian
    assert meta["none"] is None
    buffer = checkpoint["optimizer"]["state"][140251]["momentum_buffer"]
    assert_same(buffer, np.ones(2, np.float32))
    group = {"lr": 0.02, "nesterov": False, "params": [140251]}
    assert checkpoint["optimizer"]["param_groups"] == [group]


@pytest.mark.parametrize("zipped", [True, False])
def test_reads_what_this_pytorch_writes(tmp_path, torch_checkpoint, sample, zipped):
    import torch

    path = tmp_path / "now.pth"
    torch.save(torch_checkpoint, path, _use_new_zipfile_serialization=zipped)
    state = torch_file.read(path)["state_dict"]
    for key, expected in sample.items():
        assert_same(np.ascontiguousarray(state[key]).reshape(expected.shape), expected.copy())


def test_a_tar_archive_is_named_with_what_to_do(tmp_path):
    """As PyTorch before 0.1.10 wrote."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("sys_info"))
    assert "tar archive" in message_of(written(tmp_path, out.getvalue()))
    assert "save the model's state_dict()" in message_of(tmp_path / "file.pth")


def test_stream_of_pytorch_before_0_4(tmp_path):
    """Storage views, `_rebuild_tensor` and a Parameter that is called and then given its flags."""
    view = many(text("view"), number(2), number(3))
    old = name("torch._utils", "_rebuild_tensor") + many(
        storage(6, view), number(1), many(number(2)), many(number(1))
    )
    parameter = name("torch.nn.parameter", "Parameter") + old + b"R\x85R"
    parameter += many(b"\x88", b"\x89", name("collections", "OrderedDict") + b")R") + b"b"
    data = np.arange(6, dtype=np.float32)
    path = written(tmp_path, legacy_of(program(parameter), [data.tobytes()]))
    assert_same(torch_file.read(path), np.array([3, 4], np.float32))


@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: p.stem)
def test_a_truncated_file_is_one_line(tmp_path, path):
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 61), len(whole) - 1]:
        message_of(written(tmp_path, whole[:length]))


@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: p.stem)
def test_a_damaged_file_is_one_line_or_reads(tmp_path, path):
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    failed = 0
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        broken = written(tmp_path, bytes(damaged))
        try:
            torch_file.read(broken)
        except InputError:
            message_of(broken)
            failed += 1
    assert failed > 10


def test_damaged_numbers_in_a_zip_are_noticed(tmp_path, sample):
    whole = bytearray(SAMPLES[0].read_bytes())
    whole[whole.index(sample["whole"].tobytes()) + 5] ^= 4
    assert "CRC" in message_of(written(tmp_path, bytes(whole)))


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_numpy_pickles_of_python_2(protocol):
    """Written by Python 2.7 and NumPy 1.16."""
    loaded = torch_file.read(DATA / f"python2_{protocol}.pkl")
    blobs = loaded["blobs"]
    rows = np.arange(6, dtype=np.float32).reshape(2, 3) / 8 - 0.5
    assert_same(blobs["rows"], rows)
    np.testing.assert_array_equal(blobs["fortran"], np.arange(6.0).reshape(2, 3))
    assert blobs["fortran"].flags.f_contiguous
    assert blobs["number"] == 2.5
    assert blobs["empty"].shape == (0, 3)
    assert loaded["text"] == "caf\xe9"
    assert loaded["unicode"] == "caf\xe9"
    assert loaded["pairs"] == OrderedDict([("x", 1), ("y", None)])
    assert list(loaded["pairs"]) == ["x", "y"]


def test_numpy_pickles_of_python_3(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    for protocol in (0, 1, 2, 3, 4):
        values = {"a": np.asfortranarray(array), "b": np.int64(3), "c": b"\xff"}
        path = written(tmp_path, pickle.dumps(values, protocol), "new.pkl")
        back = torch_file.read(path)
        np.testing.assert_array_equal(back["a"], array)
        assert (back["b"], back["c"]) == (3, b"\xff")


@pytest.fixture
def tree(sample):
    """Everything that `write` takes."""
    sample["nan"] = np.array([0x7FC00001, 0xFF800000, 0x80000000], np.uint32).view(np.float32)
    sample["swapped"] = np.array([1.5, 2.5], ">f4")
    meta = {"epoch": 12, "iter": -(2**40), "lr": 0.1, "none": None, "text": "é\n", "flag": True}
    meta |= {"list": [1, (2, ())], "scalar": np.float32(0.5), 3: "three", "empty": {}}
    return {"meta": meta, "state_dict": OrderedDict(sample)}


def test_write_and_read_again(tmp_path, tree):
    path = tmp_path / "out.pth"
    torch_file.write(path, tree)
    back = torch_file.read(path)
    assert back["meta"] == tree["meta"]
    assert list(back["state_dict"]) == list(tree["state_dict"])
    for key, array in tree["state_dict"].items():
        assert_same(back["state_dict"][key], array.astype(array.dtype.newbyteorder("="), order="C"))
    first = path.read_bytes()
    torch_file.write(path, tree)
    assert path.read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == ["out.pth"]


@pytest.mark.parametrize("mmap", [False, True])
def test_pytorch_loads_what_is_written(tmp_path, tree, mmap):
    torch = pytest.importorskip("torch")
    path = tmp_path / "out.pth"
    torch_file.write(path, tree)
    back = torch.load(path, weights_only=True, mmap=mmap)
    assert back["meta"] == tree["meta"]
    for key, array in tree["state_dict"].items():
        assert_same(back["state_dict"][key].numpy(), array.astype(array.dtype.newbyteorder("=")))
        assert mmap is False or back["state_dict"][key].data_ptr() % 64 == 0 or array.size == 0


def test_write_refuses_what_it_cannot_keep(tmp_path):
    path = tmp_path / "out.pth"
    for item in (object(), np.array(["a"]), np.array([1], np.uint32), b"bytes"):
        with pytest.raises(TypeError):
            torch_file.write(path, {"a": item})
    assert not any(tmp_path.iterdir())
    with pytest.raises(InputError, match="cannot be written"):
        torch_file.write(tmp_path / "absent" / "out.pth", {})
    path.mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        torch_file.write(path, {})
    assert [p.name for p in tmp_path.iterdir()] == ["out.pth"]
