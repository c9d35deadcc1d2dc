"""Checkpoints that are damaged, of another kind, or hold no numbers: one line, nothing executed."""

import dataclasses
import gc
import json
import os
import pickle
import shutil
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_coco import TINY_MODEL

from jaxdet import config as config_lib
from jaxdet import console
from jaxdet.checkpoint import Checkpoints, read_backbone, read_params
from jaxdet.detectors.build import build_detector, param_shapes
from jaxdet.errors import InputError
from jaxdet.inference.exported import load_exported
from jaxdet.weights import layout, torch_file

# What orbax leaves behind when a read fails; see `console.mute_abandoned`.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")

CONFIG = config_lib.Config(model=config_lib.ModelConfig(depth=18, **TINY_MODEL))
SHAPES = param_shapes(build_detector(CONFIG))
MEAN = ("backbone", "layer2_0", "conv1", "mean")


@pytest.fixture(scope="module", autouse=True)
def muted():
    """The rest of it, which pytest would report, as commands mute it."""
    shown = sys.unraisablehook
    console.mute_abandoned()
    yield
    gc.collect()
    sys.unraisablehook = shown


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.uniform(0, 1, x.shape).astype(np.float32), SHAPES)


@pytest.fixture(scope="module")
def workdir(params, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("run")
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(0, params, None, {})
    return workdir


def spoilt(params, path, value):
    """A copy with one number of a tensor replaced."""
    copy = jax.tree.map(np.array, params)
    leaf = copy
    for key in path:
        leaf = leaf[key]
    leaf.flat[leaf.size // 2] = value
    return copy


def refusal(path, read=lambda path: read_params(path, SHAPES)) -> str:
    with pytest.raises(InputError) as caught:
        read(path)
    line = str(caught.value)
    assert str(path) in line
    assert line.splitlines() == [line]
    return line


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (MEAN, np.nan),
        (("rpn_head", "rpn_cls", "kernel"), np.inf),
        (("neck", "fpn_convs_0", "bias"), -np.inf),
        ((*MEAN[:-1], "var"), -1.0),
    ],
)
def test_weights_that_are_no_numbers_are_refused_by_name(params, path, value, tmp_path):
    bad = spoilt(params, path, value)
    torch_file.write(tmp_path / "bad.pth", {"state_dict": layout.to_state_dict(bad)})
    with Checkpoints(tmp_path / "run") as checkpoints:
        checkpoints.save(0, bad, None, {})
    for file in (tmp_path / "bad.pth", tmp_path / "run"):
        line = refusal(file)
        assert "1 with NaN, infinity or a negative variance" in line
        assert ("/".join(path) if file.is_dir() else layout.torch_name(path)) in line
    if path[0] == "backbone":
        line = refusal(tmp_path / "bad.pth", lambda p: _backbone_of(p, bad, tmp_path))
        assert f"({layout.torch_name(path).removeprefix('backbone.')})" in line


def _backbone_of(path, bad, tmp_path):
    tensors = layout.to_state_dict({"backbone": bad["backbone"]})
    torch_file.write(path, {k.removeprefix("backbone."): v for k, v in tensors.items()})
    return read_backbone(path, SHAPES["backbone"])


def test_numbers_beyond_float32_are_refused(params, tmp_path):
    tensors = layout.to_state_dict(params)
    tensors["rpn_head.rpn_cls.bias"] = np.full_like(
        tensors["rpn_head.rpn_cls.bias"], 1e300, np.float64
    )
    torch_file.write(tmp_path / "bad.pth", {"state_dict": tensors})
    assert "rpn_head.rpn_cls.bias" in refusal(tmp_path / "bad.pth")


def test_wrong_shapes_are_refused_by_name(params, workdir, tmp_path):
    other = config_lib.ModelConfig(depth=18, **{**TINY_MODEL, "head_channels": 8})
    shapes = param_shapes(build_detector(dataclasses.replace(CONFIG, model=other)))
    torch_file.write(tmp_path / "a.pth", {"state_dict": layout.to_state_dict(params)})
    for file in (tmp_path / "a.pth", workdir):
        assert "rpn_head" in refusal(file, lambda path: read_params(path, shapes))


def test_a_zip_whose_names_climb_out_writes_nothing(params, tmp_path):
    """Entries are read by name; none is unpacked."""
    torch_file.write(tmp_path / "good.pth", {"state_dict": layout.to_state_dict(params)})
    inner = tmp_path / "inner"
    inner.mkdir()
    with zipfile.ZipFile(tmp_path / "good.pth") as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(inner / "x.pth", "w") as new:
        for name, data in entries.items():
            new.writestr(name, data)
        new.writestr("../escaped", b"x")
        new.writestr("/tmp/../escaped", b"x")
    jax.tree.map(np.testing.assert_array_equal, read_params(inner / "x.pth", SHAPES), params)
    with zipfile.ZipFile(inner / "y.pth", "w") as new:
        for name, data in entries.items():
            new.writestr(name.replace("archive/", "../"), data)
    jax.tree.map(np.testing.assert_array_equal, read_params(inner / "y.pth", SHAPES), params)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["good.pth", "inner", "x.pth", "y.pth"]


def test_other_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    assert "not a regular file" in refusal(tmp_path / "pipe.pth")
    for content in (b"", b"PK\x03\x04", pickle.dumps(print), bytes(1000)):
        (tmp_path / "x.pth").write_bytes(content)
        refusal(tmp_path / "x.pth")
        (tmp_path / "x").write_bytes(content)
        refusal(tmp_path / "x")
    assert "no such checkpoint; give a work directory or" in refusal(tmp_path / "y")


def damage(folder: Path, rng: np.random.Generator) -> str:
    """Does something to one file of a checkpoint; says what."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    file = files[rng.integers(len(files))]
    data = bytearray(file.read_bytes())
    kind = ["missing", "empty", "cut", "garbage", "a byte", "a folder"][rng.integers(6)]
    if kind in ("missing", "a folder"):
        file.unlink()
    if kind == "a folder":
        file.mkdir()
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif kind == "garbage":
        file.write_bytes(rng.bytes(len(data)))
    elif kind == "a byte" and data:
        data[rng.integers(len(data))] ^= int(rng.integers(1, 256))
        file.write_bytes(data)
    return f"{file.name}: {kind}"


def damaged_often(count, workdir, params, tmp_path):
    """`count` times: the very parameters that were written, or one line."""
    rng = np.random.default_rng(count)
    for _ in range(count):
        copy = tmp_path / "copy"
        shutil.copytree(workdir, copy)
        damage(copy / "checkpoints" / "0", rng)
        try:
            found = read_params(copy, SHAPES)
        except InputError as error:
            line = str(error)
            assert line.splitlines() == [line]
            assert str(copy) in line
        else:
            jax.tree.map(np.testing.assert_array_equal, found, params)
        shutil.rmtree(copy)
    gc.collect()  # while warnings of this are passed over


# When one of several reads fails, orbax drops the others unawaited, which Python remarks on; the
# commands keep that quiet (`console.start`), the library leaves it to its caller.
ORBAX_REMARKS = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine:RuntimeWarning"
)


@ORBAX_REMARKS
def test_damaged_work_directories_are_refused_or_whole(workdir, params, tmp_path):
    damaged_often(20, workdir, params, tmp_path)


@ORBAX_REMARKS
@pytest.mark.slow
def test_often_damaged_work_directories_are_refused_or_whole(workdir, params, tmp_path):
    damaged_often(400, workdir, params, tmp_path)


def test_folders_of_junk_are_refused(workdir, tmp_path):
    (tmp_path / "checkpoints" / "7" / "params").mkdir(parents=True)
    refusal(tmp_path)
    (tmp_path / "checkpoints" / ("9" * 400)[:200] / "params").mkdir(parents=True)
    refusal(tmp_path)
    shutil.copytree(workdir / "checkpoints" / "0", tmp_path / "other")
    shutil.rmtree(tmp_path / "other" / "params")
    assert "no such checkpoint; give" in refusal(tmp_path / "other")


def zip_of(tmp_path, members: dict[str, bytes], compression=zipfile.ZIP_STORED) -> Path:
    manifest = {
        "format": "jaxdet-exported",
        "format_version": 1,
        "name": "x",
        "image_scale": [64, 64],
        "buckets": [[64, 64]],
        "jaxdet": "0",
        "jax": "0",
    }
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("manifest.json", json.dumps(manifest))
        for name, data in members.items():
            file.writestr(name, data)
    return path


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"../escaped": b"x", "params/../../a.npy": b"x"},
        {"programs/64x64.jax": b"\xff" * 100},
    ],
    ids=["no program", "names that climb out", "no flatbuffer"],
)
def test_hostile_exported_files_are_refused(members, tmp_path):
    path = zip_of(tmp_path, members)
    assert "not a whole exported model" in refusal(path, load_exported)
    assert list(tmp_path.iterdir()) == [path]


def test_an_exported_file_that_unpacks_to_more_than_it_holds_is_refused(tmp_path):
    path = zip_of(tmp_path, {"params/a.npy": bytes(10**7)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10**5
    assert "compressed" in refusal(path, load_exported)
    os.mkfifo(tmp_path / "pipe.zip")
    assert "not a regular file" in refusal(tmp_path / "pipe.zip", load_exported)


@pytest.mark.parametrize("value", ["1e400", "NaN", "-1", "0", "[64]", "[[]]", "9" * 4000, '"x"'])
@pytest.mark.parametrize("field", ["image_scale", "buckets", "format_version"])
def test_hostile_manifests_are_refused(field, value, tmp_path):
    path = zip_of(tmp_path, {})
    with zipfile.ZipFile(path) as file:
        manifest = json.loads(file.read("manifest.json"))
    for tried in (value, f"[{value}, {value}]", f"[[{value}, {value}]]"):
        text = json.dumps({**manifest, field: "@"}).replace('"@"', tried)
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("manifest.json", text)
        refusal(path, load_exported)
