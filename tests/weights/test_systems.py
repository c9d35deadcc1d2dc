"""Files of mmdet 2 and 3, detectron2 and torchvision: read, told apart, converted and back."""

import argparse
import dataclasses
import functools
import os
import pickle
import subprocess
import sys
import types
from collections import Counter, OrderedDict
from pathlib import Path

import convention_weights
import jax
import numpy as np
import pytest
import reference_weights
from pickle_assembler import many, message_of, name, number, program, text, written, zip_of

import jaxdet
from jaxdet import config as config_lib
from jaxdet.checkpoint import read_params
from jaxdet.convert import convert
from jaxdet.detectors.build import build_detector, param_shapes
from jaxdet.errors import InputError
from jaxdet.models.layers import fold_norms
from jaxdet.weights import layout, torch_file
from jaxdet.weights.systems import CONFIGS, SYSTEMS, require_fit
from jaxdet.zoo.published import MMDET2

ROOT = Path(__file__).parents[2]
C4 = {"stages": 3, "neck": False, "head_channels": 1024, "num_anchors": 15}
# A config of each kind, and the names and shapes of its system's tensors.
CASES = {
    "mmdet2": ("mmdet2_rpn_r50_fpn_1x", reference_weights.checkpoint_shapes()),
    "mmdet3_c4": ("mmdet3_rpn_r50_caffe_c4_1x", reference_weights.checkpoint_shapes(**C4)),
    "detectron2": ("detectron2_rpn_r50_fpn_1x", convention_weights.detectron2_shapes()),
    "detectron2_c4": ("detectron2_rpn_r50_c4_1x", convention_weights.detectron2_shapes("c4")),
    "torchvision": ("torchvision_rpn_r50_fpn", convention_weights.torchvision_shapes()),
    "torchvision_v2": ("torchvision_rpn_r50_fpn_v2", convention_weights.torchvision_shapes(2)),
}
SLOW = [pytest.param(x, marks=pytest.mark.slow) for x in ("mmdet3_c4", "detectron2", "torchvision")]


def narrow_config(case):
    """The config with an eighth of the channels, as a ConfigDict."""
    config = config_lib.load_file(CASES[case][0])
    wide = config.model.head_channels
    config.model.update(stem_channels=8, head_channels=wide // 8)
    config.model.fpn_channels //= 8
    return config


@functools.cache
def shapes(case):
    return param_shapes(build_detector(config_lib.parse(narrow_config(case))))


@functools.cache
def state(case):
    """The system's tensors with an eighth of the channels."""
    narrow = {k: tuple(n // 8 if n >= 64 else n for n in v) for k, v in CASES[case][1].items()}
    return convention_weights._state_dict(narrow, 0)


def convention(case):
    return config_lib.parse(narrow_config(case)).model.convention


def read(path, case):
    return read_params(path, shapes(case), convention(case))


def expected(case):
    return layout.to_params(state(case), shapes(case))


def same(found, wanted):
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def tensors_of(torch, arrays):
    return OrderedDict((k, torch.from_numpy(np.array(v))) for k, v in arrays.items())


@pytest.fixture
def mmengine(monkeypatch):
    """Classes of the names and pickles that mmengine's have."""
    module = types.ModuleType("mmengine.logging.history_buffer")
    for part in ("mmengine", "mmengine.logging", module.__name__):
        monkeypatch.setitem(sys.modules, part, module)
    body = {"__module__": module.__name__, "min": _min}
    module.HistoryBuffer = type("HistoryBuffer", (), body)
    return module.HistoryBuffer


def _min(self):
    """Is pickled as an attribute of its class."""


_min.__qualname__, _min.__name__, _min.__module__ = (
    "HistoryBuffer.min",
    "min",
    "mmengine.logging.history_buffer",
)


def history(cls):
    buffer = cls()
    buffer.max_length = 1_000_000
    buffer._log_history = np.arange(5.0)
    buffer._count_history = np.ones(5, np.int64)
    buffer.statistics_methods = {"min": cls.min}
    return buffer


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_mmdet_3_with_its_logs(tmp_path, mmengine, zipped):
    torch = pytest.importorskip("torch")
    arrays = {k.replace("rpn_head.", "bbox_head."): v for k, v in state("mmdet3_c4").items()}
    hub = {
        "log_scalars": OrderedDict({"train/loss": history(mmengine)}),
        "runtime_info": {"epoch": 11, "seed": np.int64(7), "best": np.float32(0.5)},
        "resumed_keys": OrderedDict({"train/loss": True}),
    }
    saved = {
        "meta": {"epoch": 12, "mmengine_version": "0.10.4", "dataset_meta": {"classes": ("cat",)}},
        "state_dict": tensors_of(torch, arrays),
        "message_hub": hub,
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": []},
        "param_schedulers": [{"milestones": Counter([8, 11]), "last_step": 3}],
    }
    path = tmp_path / "epoch_12.pth"
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    same(read(path, "mmdet3_c4"), expected("mmdet3_c4"))
    with pytest.raises(InputError) as caught:
        read_params(path, shapes("mmdet3_c4"), "mmdet1")
    assert str(caught.value) == (
        f"{path}: of mmdet3 or mmdet2; config.model.convention is mmdet1: use "
        "--config=mmdet3_rpn_r50_fpn_1x, or another config of that convention"
    )


def test_mmdet_2_and_its_detectors(tmp_path):
    torch = pytest.importorskip("torch")
    arrays = {**state("mmdet2"), "roi_head.bbox_head.fc_cls.weight": np.zeros((81, 8))}
    meta = {"mmdet_version": "2.28.2+abc", "CLASSES": ("cat",), "env_info": "sys.platform: linux"}
    torch.save({"meta": meta, "state_dict": tensors_of(torch, arrays)}, tmp_path / "a.pth")
    same(read(tmp_path / "a.pth", "mmdet2"), expected("mmdet2"))
    same(read_params(tmp_path / "a.pth", shapes("mmdet2"), "mmdet3"), expected("mmdet2"))
    # What was trained before mmdet 2.0 had its name, and was published with it.
    saved = {"meta": {"mmdet_version": "1.0.0"}, "state_dict": tensors_of(torch, arrays)}
    torch.save(saved, tmp_path / "a.pth")
    with pytest.raises(InputError, match="of mmdet1; config"):
        read(tmp_path / "a.pth", "mmdet2")
    (tmp_path / "a.pth").rename(tmp_path / MMDET2[0].file)
    same(read(tmp_path / MMDET2[0].file, "mmdet2"), expected("mmdet2"))


@pytest.mark.parametrize("case", ["detectron2", "detectron2_c4"])
def test_detectron2(tmp_path, case):
    torch = pytest.importorskip("torch")
    extra = {
        "pixel_mean": np.zeros((3, 1, 1), np.float32),
        "proposal_generator.anchor_generator.cell_anchors.0": np.zeros((3, 4), np.float32),
        "roi_heads.box_head.fc1.bias": np.zeros(4, np.float32),
    }
    arrays = state(case) | extra
    for protocol in (2, 3, 4):
        pickled = pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}, protocol)
        (tmp_path / "model_final.pkl").write_bytes(pickled)
        same(read(tmp_path / "model_final.pkl", case), expected(case))
    saved = {
        "model": tensors_of(torch, arrays),
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.02, "params": [0]}]},
        "scheduler": {"base_lrs": [0.02], "last_epoch": 90000, "milestones": Counter([60000])},
        "iteration": 89999,
    }
    torch.save(saved, tmp_path / "model_final.pth")
    same(read(tmp_path / "model_final.pth", case), expected(case))


@pytest.mark.parametrize("case", ["torchvision", "torchvision_v2"])
def test_torchvision(tmp_path, case):
    torch = pytest.importorskip("torch")
    model = tensors_of(torch, state(case) | {"roi_heads.box_head.fc6.bias": np.zeros(4)})
    old = OrderedDict(
        (k.replace("rpn.head.conv.0.0.", "rpn.head.conv.").replace(".0.weight", ".weight"), v)
        if k.startswith(("rpn.", "backbone.fpn.inner"))
        else (k, v)
        for k, v in model.items()
    )
    old = {
        k.replace(".0.bias", ".bias") if k.startswith("backbone.fpn.inner") else k: v
        for k, v in old.items()
    }
    scripts = {
        "optimizer": {"state": {}, "param_groups": []},
        "lr_scheduler": {"milestones": Counter([16, 22]), "last_epoch": 25},
        "args": argparse.Namespace(lr=0.02, lr_steps=[16, 22], device="cuda"),
        "epoch": 25,
    }
    forms = [model, {"model": model, **scripts}] + [old] * (case == "torchvision")
    for saved in forms:
        for zipped in (True, False):
            torch.save(saved, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
            same(read(tmp_path / "a.pth", case), expected(case))


def test_one_that_is_a_function_of_images(tmp_path):
    pickled = pickle.dumps({"model": state("detectron2"), "__author__": "x"})
    (tmp_path / "a.pkl").write_bytes(pickled)
    predictor = jaxdet.load(narrow_config("detectron2"), tmp_path / "a.pkl")
    same(jax.device_get(predictor.params), fold_norms(expected("detectron2")))
    with pytest.raises(InputError, match=r"a\.pkl: of detectron2; config\.model\.convention is mm"):
        jaxdet.load(narrow_config("mmdet2"), tmp_path / "a.pkl")


HEADS = {
    "detectron2": ["proposal_generator.rpn_head.conv.weight"],
    "torchvision": ["rpn.head.cls_logits.weight"],
    "torchvision_v2": ["rpn.head.conv.1.0.weight", "rpn.head.cls_logits.weight"],
    "mmdet1": ["rpn_head.rpn_cls.weight"],
}
MMDET = {
    "0.6.0+3a6f4a3": {"mmdet1"},
    "1.2.0": {"mmdet1"},
    "2.0.0+unknown": {"mmdet2", "mmdet3"},
    "3.3.0": {"mmdet2", "mmdet3"},
    "soon": {"mmdet1", "mmdet2", "mmdet3"},
}


def fits(checkpoint, tensors, name):
    tensors = {key: np.zeros(1) for key in tensors}
    try:
        require_fit(checkpoint, tensors, (), name, "x.pth")
    except InputError:
        return False
    return True


def test_a_file_is_told_by_its_names_and_by_what_it_says():
    for system, tensors in HEADS.items():
        own = next(x.conventions for x in SYSTEMS.values() if system in x.conventions)
        assert {x for x in CONFIGS if fits({}, tensors, x)} == set(own)
        assert fits({}, tensors, "my_own")
    for version, wanted in MMDET.items():
        meta = {"meta": {"mmdet_version": version}}
        assert {x for x in CONFIGS if fits(meta, HEADS["mmdet1"], x)} == wanted
    logs = {"message_hub": {}, "meta": {"mmengine_version": "0.7"}}
    assert not fits(logs, HEADS["mmdet1"], "mmdet1")
    assert not fits({"meta": 3}, ["bbox_head.rpn_cls.weight"], "mmdet1")
    tensors = {key: np.zeros(1) for key in HEADS["torchvision_v2"]}
    with pytest.raises(InputError, match=r"of torchvision_v2; .*=torchvision_rpn_r50_fpn_v2, or"):
        require_fit({}, tensors, (), "mmdet1", "x.pth")
    for own, config in CONFIGS.items():
        assert config_lib.load_file(config).model.convention == own


def test_torchvisions_versions_differ_in_their_heads(tmp_path):
    torch_file.write(tmp_path / "a.pth", state("torchvision"))
    with pytest.raises(
        InputError,
        match=r"of torchvision; .* is torchvision_v2: use --config=torchvision_rpn_r50_fpn, ",
    ):
        read(tmp_path / "a.pth", "torchvision_v2")


@pytest.mark.parametrize("leaf", ["weight", "running_mean", "running_var"])
@pytest.mark.parametrize("scope", ["backbone.body.layer1.0.bn2", "backbone.fpn.layer_blocks.2.1"])
@pytest.mark.parametrize("value", [None, np.zeros((2, 2), np.float32), np.float32(1.0)])
def test_an_incomplete_norm_is_one_line(scope, leaf, value):
    case = "torchvision_v2" if "fpn" in scope else "torchvision"
    spoilt = dict(state(case))
    spoilt.pop(f"{scope}.{leaf}")
    if value is not None:
        spoilt[f"{scope}.{leaf}"] = np.asarray(value)
    before = dict(spoilt)
    with pytest.raises(InputError, match="does not fit the config's model") as caught:
        layout.to_params(spoilt, shapes(case))
    assert scope.removesuffix(".1") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert spoilt.keys() == before.keys()
    assert all(spoilt[k] is before[k] for k in before)


def test_a_caffe2_backbone_is_one_line(tmp_path):
    for blobs in ({"conv1_w": np.zeros(1)}, {"blobs": {"conv1_w": np.zeros(1)}}):
        (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(blobs))
        with pytest.raises(InputError, match=r"R-50\.pkl: a backbone only; set config.model.pretr"):
            read(tmp_path / "R-50.pkl", "detectron2")


def test_the_epsilon_of_a_file_without_counters(tmp_path, caplog):
    torch_file.write(tmp_path / "a.pth", state("torchvision"))
    config = config_lib.parse(narrow_config("torchvision"))
    for bn_eps in (0.0, 1e-5):
        run = f"{tmp_path}/run{bn_eps}"
        convert(f"{tmp_path}/a.pth", run, config, system="torchvision", bn_eps=bn_eps)
        scale = read(run, "torchvision")["backbone"]["conv1"]["scale"]
        variance = state("torchvision")["backbone.body.bn1.running_var"]
        own = state("torchvision")["backbone.body.bn1.weight"]
        wanted = own * np.sqrt((variance + 1e-5) / (variance + bn_eps))
        np.testing.assert_allclose(scale, wanted, rtol=1e-6)
        assert f"an epsilon of {bn_eps:g} " in caplog.text


@pytest.mark.parametrize("case", ["mmdet2", "detectron2_c4", "torchvision_v2", *SLOW])
def test_there_and_back(tmp_path, case):
    """What comes out has every name that the system's own file has, and means the same."""
    torch = pytest.importorskip("torch")
    config = config_lib.parse(narrow_config(case))
    system = next(k for k, v in SYSTEMS.items() if config.model.convention in v.conventions)
    if system == "mmdet":
        torch_file.write(tmp_path / "a.pth", {"state_dict": state(case)})
    else:
        torch_file.write(tmp_path / "a.pth", {"model": state(case)})
    out = tmp_path / f"out{SYSTEMS[system].suffix}"
    convert(f"{tmp_path}/a.pth", f"{tmp_path}/run", config, system=system)
    same(read(tmp_path / "run", case), expected(case))
    convert(f"{tmp_path}/run", str(out), config, system=system)
    same(read(out, case), expected(case))
    if system == "detectron2":
        assert b"numpy._core" not in out.read_bytes()
        saved = pickle.loads(out.read_bytes())
        assert saved.keys() == {"model", "__author__"}
        found = saved["model"]
    else:
        saved = torch.load(out, weights_only=True)
        found = {k: v.numpy() for k, v in saved.get("state_dict", saved).items()}
    counters = {
        k.replace("running_var", "num_batches_tracked"): () for k in found if "running_var" in k
    }
    wanted = {k: np.shape(v) for k, v in state(case).items()}
    wanted |= {} if system == "detectron2" else counters
    assert {k: np.shape(v) for k, v in found.items()} == wanted
    if case in ("mmdet2", "mmdet3_c4", "detectron2", "detectron2_c4"):
        for key, array in state(case).items():
            np.testing.assert_array_equal(found[key], array)


def test_targets_and_conventions_that_do_not_fit(tmp_path):
    config = config_lib.parse(narrow_config("detectron2"))
    with pytest.raises(InputError, match=r"convention is detectron2: use converters\.detectron2"):
        convert("a.pth", f"{tmp_path}/run", config)
    with pytest.raises(InputError, match=r"detectron2 reads \.pkl files"):
        convert(f"{tmp_path}/run", "a.pth", config, system="detectron2")
    with pytest.raises(InputError, match=r"--with_optimizer: only to read mmdet's"):
        convert("a.pkl", f"{tmp_path}/run", config, True, system="detectron2")
    own = dataclasses.replace(config.model, convention="mmdet1")
    with pytest.raises(InputError, match="No such file"):
        convert("a.pkl", f"{tmp_path}/run", dataclasses.replace(config, model=own))


def test_the_command(tmp_path):
    torch_file.write(tmp_path / "a.pth", state("torchvision"))
    (tmp_path / "narrow.py").write_text(
        "from jaxdet.config import load_file\n\ndef get_config():\n"
        "    config = load_file('torchvision_rpn_r50_fpn')\n"
        "    config.model.update(stem_channels=8, head_channels=32, fpn_channels=32)\n"
        "    return config\n"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "converters.torchvision", tmp_path / "a.pth", tmp_path / "run"),
            *(f"--config={tmp_path}/narrow.py", "--bn_eps=1e-5"),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        check=True,
    )
    assert done.stdout == f"wrote {tmp_path}/run\n"
    assert "read with an epsilon of 1e-05" in done.stderr


SEALED = name("argparse", "Namespace") + b")\x81"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (SEALED + b"}(" + text("x") + name("os", "system") + b"ub", "'os.system'"),
        (name("builtins", "getattr") + many(name("numpy", "dtype"), text("f4")) + b"R", "makes"),
        (name("builtins", "getattr") + many(SEALED, text("__class__")) + b"R", "makes"),
        (name("builtins", "getattr"), "not data"),
        (name("argparse", "Namespace"), "not data"),
        (SEALED + text("a") + number(1) + b"s", "no dict"),
        (SEALED + b")R", "makes"),
        (b"}" + SEALED + b"Ns", "a key that"),
        (name("argparse", "_ActionsContainer") + b")\x81", "'argparse._ActionsContainer'"),
        (name("mmengine.logging.history_buffer", "HistoryBuffer.min") + b")R", "asks for"),
    ],
)
def test_sealed_objects_are_good_for_nothing(tmp_path, body, reason):
    assert reason in message_of(written(tmp_path, zip_of(program(body))))
