"""Weights as people have them: formats told by content, entries, averages, wrappers, backbones."""

import gzip
import io
import json
import pickle
import struct
import zipfile

import numpy as np
import pytest
from pickle_assembler import message_of, name, number, program, text, written, zip_of
from safetensors.numpy import save

from jaxdet.errors import InputError
from jaxdet.weights import layout, torch_file
from jaxdet.weights.backbones import read_backbone
from jaxdet.weights.state_dict import state_dict

ONE, TWO = np.ones(2, np.float32), np.full(2, 2, np.float32)


def archive(*members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for member in members:
            file.writestr(member, b"x")
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "what", "advice"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "Git LFS", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "web page", "download"),
        (gzip.compress(b"x" * 99, mtime=0), "compressed by gzip", "unpack"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5", "PyTorch's weights"),
        (b"\x08\x07\x12\x07pytorch\x1a\x052.3.0:\xff", "an ONNX model", "exported from"),
        (b"\x08\x01\x12\xff\x01\n\x05", "TensorFlow", "PyTorch's weights"),
        (b"\x1c\0\0\0TFL3\x14", "TensorFlow", "PyTorch's weights"),
        (struct.pack("<3iq", 0, 2, 5, 32013312) + bytes(99), "Darknet", "PyTorch's weights"),
        (json.dumps({"weight_map": {}}).encode(), "JSON, perhaps the index", "all weights"),
        (archive("m/data.pkl", "m/code/m.py", "m/constants.pkl"), "TorchScript", "torch.jit.load"),
        (archive("m/archive_format", "m/models/model.json"), "torch.export", "torch.export.load"),
        (archive("config.json", "model.weights.h5"), "Keras", "PyTorch's weights"),
        (archive("manifest.json", "params/a"), "--mode=export", "jaxdet.load_exported"),
        (archive("a.npy"), "NumPy's arrays", "safetensors"),
        (archive("readme.txt"), "zip archive", "unpack"),
    ],
)
def test_another_format_is_named_and_not_called_damaged(tmp_path, content, what, advice):
    line = message_of(written(tmp_path, content))
    assert what in line
    assert advice in line
    assert "damaged" not in line


def test_damaged_is_said_of_what_is_damaged(tmp_path):
    whole = [zip_of(program(b"N")), pickle.dumps({"a": ONE}), save({"a": ONE})]
    for content in whole:
        torch_file.read(written(tmp_path, content))
        assert "damaged or truncated" in message_of(written(tmp_path, content[:-3]))
    assert "no file of weights that is known here (it begins with b'hello'" in message_of(
        written(tmp_path, b"hello")
    )


def test_safetensors_of_every_type(tmp_path):
    header = {"__metadata__": {"format": "pt"}}
    header["brain"] = {"dtype": "BF16", "shape": [2, 1], "data_offsets": [0, 4]}
    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text)) + text + b"\x80\x3f\x49\xc0"
    (brain,) = torch_file.read(written(tmp_path, content, "a.bin")).values()
    np.testing.assert_array_equal(brain, np.float32([[1], [-3.140625]]), strict=True)
    kinds = "f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"
    tensors = {kind: np.arange(6).reshape(2, 3).astype(kind) for kind in kinds}
    tensors |= {"scalar": np.array(7.0), "empty": np.zeros((0, 3), np.float32)}
    found = torch_file.read(written(tmp_path, save(tensors), "a.safetensors"))
    assert found.keys() == tensors.keys()
    for key, array in tensors.items():
        np.testing.assert_array_equal(found[key], array, strict=True)
    strange = content.replace(b'"BF16"', b'"F8_E4M3"').replace(b"[2, 1]", b"[4,1]")
    strange = struct.pack("<Q", len(text) + 2) + strange[8:]
    assert "type F8_E4M3 (brain)" in message_of(written(tmp_path, strange))


@pytest.mark.parametrize(
    ("checkpoint", "taken"),
    [
        ({"model_state_dict": {"a": ONE}, "epoch": 3}, ""),
        ({"state_dict": {"model.a": ONE}, "pytorch-lightning_version": "2.4"}, ""),
        ({"model": {"module._orig_mod.a": ONE}, "optimizer": {}}, ""),
        ({"_orig_mod.module.a": ONE}, ""),
        # torchvision's and timm's scripts evaluate the average, mmengine has it in `state_dict`.
        (
            {"model": {"a": TWO}, "model_ema": {"n_averaged": np.array(9), "module.a": ONE}},
            "those of model_ema (not of: model)",
        ),
        ({"state_dict": {"a": TWO}, "state_dict_ema": {"a": ONE}}, "those of state_dict_ema"),
        ({"ema": {"module": {"a": ONE}, "updates": 3}, "model": {"a": TWO}}, "those of ema"),
        (
            {"state_dict": {"a": ONE}, "ema_state_dict": {"steps": np.array(9), "module.a": TWO}},
            "those of state_dict (not of: ema_state_dict)",
        ),
        ({"state_dict": {"a": ONE, "ema_a": TWO}, "meta": {}}, "those evaluated have the plain"),
        ({"ema_state_dict": {"module.a": ONE}}, "those of ema_state_dict (not of: -)"),
    ],
)
def test_where_tensors_lie_and_which_averages_are_taken(checkpoint, taken, caplog):
    found = state_dict(checkpoint, "x.ckpt")
    assert found == {"a": ONE}
    assert [line.startswith("x.ckpt: ") for line in caplog.messages] == [True] * bool(taken)
    assert taken in caplog.text


def test_messages_have_the_names_of_the_file():
    wrapped = {"module.bbox_head.rpn_cls.weight": ONE, "module.backbone.layer1.0.bn1.weight": ONE}
    found = state_dict(wrapped).renamed(layout.SYSTEMS["mmdet"].rename)
    assert found.in_file("rpn_head.rpn_cls.weight") == "module.bbox_head.rpn_cls.weight"
    assert found.in_file("rpn_head.rpn_reg.bias") == "module.bbox_head.rpn_reg.bias"
    assert found.in_file("backbone.layer1.1.bn2.bias") == "module.backbone.layer1.1.bn2.bias"
    assert found.in_file("neck.x") == "module.neck.x"
    old = {"rpn.head.conv.weight": ONE, "backbone.body.conv1.weight": ONE}
    found = state_dict(old).renamed(layout.SYSTEMS["torchvision"].rename)
    assert found.in_file("rpn.head.conv.0.0.bias") == "rpn.head.conv.bias"
    with pytest.raises(InputError, match="found, that are none: epoch, teacher"):
        state_dict({"epoch": 3, "teacher": {"a": ONE}}, "x.pth")


def template():
    """The first block of a narrow ResNet."""
    scopes = "conv1", "layer1_0/conv1", "layer1_0/downsample"
    tree = {}
    for i, scope in enumerate(scopes):
        node = tree
        for part in scope.split("/"):
            node = node.setdefault(part, {})
        node |= {x: np.full(4, i + 1.0) for x in ("scale", "bias", "mean", "var")}
        node["kernel"] = np.full((1, 1, 4, 4), i + 0.5)
    return tree


def tensors_of(system, scope=""):
    """The template's tensors as a system names them, with another scope than its own."""
    named = layout.to_state_dict({"backbone": template()}, system)
    return {
        scope + key.replace("backbone.body.", "").replace("backbone.", ""): np.asarray(
            x, np.float32
        )
        for key, x in named.items()
    }


REST = {"neck.fpn.weight": ONE, "roi_head.bbox_head.fc_cls.bias": ONE}


@pytest.mark.parametrize(
    "checkpoint",
    [
        tensors_of("mmdet"),
        {"state_dict": tensors_of("mmdet", "backbone.") | {"head.fc.weight": ONE}},  # mmpretrain
        {"state_dict": tensors_of("mmdet", "model.backbone.") | REST},  # a detector of mmdet
        {"model": tensors_of("mmdet", "backbone.body.") | {"backbone.fpn.x": ONE} | REST},
        {"model": tensors_of("detectron2") | {"stem.fc.bias": ONE}, "__author__": "torchvision"},
        {"model": tensors_of("detectron2", "backbone.bottom_up.") | {"backbone.fpn_x": ONE}},
        {"state_dict": tensors_of("mmdet", "module.encoder_q.") | {"module.queue": ONE}},
    ],
    ids=["plain", "mmpretrain", "mmdet", "torchvision", "d2_imagenet", "detectron2", "moco"],
)
def test_a_backbone_in_any_file(tmp_path, checkpoint):
    torch_file.write(tmp_path / "a.pth.tar", checkpoint)
    found = read_backbone(tmp_path / "a.pth.tar", template())
    for (path, x), (_, wanted) in zip(layout.leaves(found), layout.leaves(template()), strict=True):
        np.testing.assert_array_equal(x, wanted, err_msg=str(path))


def test_c4s_fourth_stage_is_part_of_the_backbone(tmp_path):
    tree = template()
    tree["layer4_0"] = tree["layer1_0"]
    for system, scope, head in (
        ("mmdet", "backbone.layer4", "shared_head.layer4"),
        ("detectron2", "backbone.res5", "roi_heads.res5"),
    ):
        named = layout.to_state_dict({"backbone": tree}, system)
        tensors = {key.replace(scope, head): np.asarray(x, np.float32) for key, x in named.items()}
        torch_file.write(tmp_path / "a.pth", tensors)
        assert any(key.startswith(head) for key in tensors)
        assert read_backbone(tmp_path / "a.pth", tree).keys() == tree.keys()


def test_what_is_no_backbone_or_several_is_one_line(tmp_path):
    both = tensors_of("mmdet", "student.") | tensors_of("mmdet", "teacher.")
    for tensors, said in (
        ({"encoder.layer.0.weight": ONE}, "holds no ResNet's backbone"),
        (both, r"several backbones \(student\., teacher\.\)"),
        ({k: x for k, x in tensors_of("mmdet", "net.").items() if "bn1" not in k}, r"\(net\.bn1"),
    ):
        torch_file.write(tmp_path / "a.pth", tensors)
        with pytest.raises(InputError, match=said):
            read_backbone(tmp_path / "a.pth", template())


@pytest.mark.parametrize(
    "made",
    [
        name("torch", "device") + text("cuda") + number(0) + b"\x86R",
        name("pathlib", "PosixPath") + text("runs") + b"\x85R",
        name("yacs.config", "CfgNode") + b")\x81(" + text("LR") + number(1) + b"u}b",
        name("argparse", "Namespace") + b")\x81}" + text("lr") + number(1) + b"sb",
    ],
)
def test_what_scripts_save_beside_weights_is_stepped_over(tmp_path, made):
    body = b"}(" + text("args") + made + text("epoch") + number(7) + b"u"
    assert torch_file.read(written(tmp_path, zip_of(program(body)), "a.ckpt"))["epoch"] == 7
