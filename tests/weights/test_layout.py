"""Names and shapes of all eight architectures, there and back."""

import functools
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import jax
import numpy as np
import pytest
import reference_weights
import zoo_cases

from jaxdet.config import ModelConfig
from jaxdet.errors import InputError
from jaxdet.weights import layout, torch_file
from jaxdet.weights.state_dict import state_dict


@functools.cache
def template_of(case: str):
    return zoo_cases.shapes_of(zoo_cases.config_of(case).model)


@functools.cache
def shapes_of(case: str) -> dict[str, tuple[int, ...]]:
    arch = {k: v for k, v in zoo_cases.CASES[case][1].items() if k != "input_std"}
    return reference_weights.checkpoint_shapes(**arch)


def numbered(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """An array whose elements all differ."""
    if name.endswith("num_batches_tracked"):
        return np.array(0, np.int64)
    return np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize("case", zoo_cases.CASES)
def test_names_and_shapes_are_the_checkpoints(case):
    ours = {}
    for path, leaf in layout.leaves(template_of(case)):
        hwio = leaf.shape
        oihw = (hwio[3], hwio[2], *hwio[:2]) if len(hwio) == 4 else hwio
        ours[layout.torch_name(path)] = oihw
    counters = {n: s for n, s in shapes_of(case).items() if n.endswith("num_batches_tracked")}
    assert {**ours, **counters} == shapes_of(case)
    assert not ours.keys() & counters.keys()


def narrow(shape: tuple[int, ...]) -> tuple[int, ...]:
    """An eighth of the channels, to be quick."""
    return tuple(n // 8 if n >= 64 else n for n in shape)


@pytest.mark.parametrize("case", zoo_cases.CASES)
def test_round_trip_is_bit_identical_and_complete(case):
    tensors = {name: numbered(name, narrow(shape)) for name, shape in shapes_of(case).items()}
    template = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(narrow(leaf.shape), leaf.dtype), template_of(case)
    )
    params = layout.to_params(tensors, template)
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda x: x.shape, template)
    back = layout.to_state_dict(params)
    assert set(back) == set(tensors)
    for name, array in tensors.items():
        assert back[name].dtype == array.dtype
        assert back[name].shape == array.shape
        assert back[name].tobytes() == array.tobytes()
        assert back[name].flags.c_contiguous


def test_kernels_and_norms_go_where_they_belong():
    tensors = {name: numbered(name, shape) for name, shape in shapes_of("r50_c4").items()}
    for i, name in enumerate(n for n in tensors if tensors[n].ndim == 1):
        tensors[name] += i * 1e4
    params = layout.to_params(tensors, template_of("r50_c4"))
    block = params["backbone"]["layer2_0"]
    weight = tensors["backbone.layer2.0.conv2.weight"]
    assert block["conv2"]["kernel"][2, 1, 7, 5] == weight[5, 7, 2, 1]
    prefix = "backbone.layer2.0.downsample.1."
    for leaf, name in (
        ("scale", "weight"),
        ("bias", "bias"),
        ("mean", "running_mean"),
        ("var", "running_var"),
    ):
        np.testing.assert_array_equal(block["downsample"][leaf], tensors[prefix + name])
        stem = tensors[f"backbone.bn1.{name}"]
        np.testing.assert_array_equal(params["backbone"]["conv1"][leaf], stem)
    head = params["rpn_head"]["rpn_reg"]
    np.testing.assert_array_equal(head["bias"], tensors["rpn_head.rpn_reg.bias"])
    assert head["kernel"][0, 0, 9, 4] == tensors["rpn_head.rpn_reg.weight"][4, 9, 0, 0]


def test_names_come_in_the_order_of_the_references_modules():
    reference = list(shapes_of("r50_fpn"))
    laterals = [n for n in reference if n.startswith("neck.lateral")]
    convs = [n for n in reference if n.startswith("neck.fpn")]
    rest = [n for n in reference if not n.startswith("neck.")]
    heads = rest.index("rpn_head.rpn_conv.weight")
    expected = [*rest[:heads], *laterals, *convs, *rest[heads:]]
    tree = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), template_of("r50_fpn"))
    assert list(layout.to_state_dict(tree)) == expected
    # Ten and more blocks must not sort as text.
    names = [layout.torch_name(path) for path, _ in layout.leaves(template_of("r101_fpn"))]
    counters = [n for n in shapes_of("r101_fpn") if n.endswith("num_batches_tracked")]
    backbone = [n for n in shapes_of("r101_fpn") if n.startswith("backbone") and n not in counters]
    assert names[: len(backbone)] == backbone


@pytest.fixture
def basic():
    """A ResNet-18 backbone: the tensors and the template."""
    template = {"backbone": zoo_cases.shapes_of(ModelConfig(depth=18, num_stages=1))["backbone"]}
    tensors = OrderedDict()
    for name, shape in (
        ("conv1", (64, 3, 7, 7)),
        *((f"layer1.{j}.conv{k}", (64, 64, 3, 3)) for j in (0, 1) for k in (1, 2)),
    ):
        tensors[f"backbone.{name}.weight"] = numbered(name, shape)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            norm = f"backbone.{name.replace('conv', 'bn')}.{leaf}"
            tensors[norm] = np.full(64, len(tensors), np.float32)
    return tensors, template


def test_wrapped_prefixed_and_half_precision_checkpoints(basic):
    tensors, template = basic
    plain = layout.to_params(tensors, template)
    wrapped = {f"module.{k}": v.astype(np.float16) for k, v in tensors.items()}
    wrapped["module.backbone.bn1.num_batches_tracked"] = np.array(3, np.int64)
    params = layout.to_params({"meta": {}, "state_dict": wrapped, "optimizer": {}}, template)
    kernel = params["backbone"]["layer1_1"]["conv2"]["kernel"]
    assert kernel.dtype == np.float32
    expected = plain["backbone"]["layer1_1"]["conv2"]["kernel"].astype(np.float16)
    np.testing.assert_array_equal(kernel, expected)


def test_every_tensor_is_accounted_for(basic):
    tensors, template = basic
    del tensors["backbone.bn1.bias"]
    tensors["fc.weight"] = np.zeros((10, 64), np.float32)
    tensors["backbone.conv1.weight"] = np.zeros((64, 4, 7, 7), np.float32)
    tensors["backbone.bn1.weight"] = np.zeros(64, np.int64)
    with pytest.raises(InputError) as caught:
        layout.to_params(tensors, template, source="x.pth")
    assert str(caught.value) == (
        "x.pth: does not fit the config's model: 1 missing (backbone.bn1.bias); "
        "1 unused (fc.weight); 2 misshaped (backbone.conv1.weight is float32[64, 4, 7, 7], not "
        "[64, 3, 7, 7], backbone.bn1.weight is int64[64], not [64])"
    )


def test_another_models_checkpoint_names_the_first_and_counts_the_rest():
    tensors = {n: np.broadcast_to(np.float32(0), s) for n, s in shapes_of("r101_fpn").items()}
    with pytest.raises(InputError, match=r"255 unused \(backbone\.layer3\.6\..*, and 250 more\)$"):
        layout.to_params(tensors, template_of("r50_fpn"))


@pytest.mark.parametrize(
    "checkpoint",
    [None, [], {}, {"a": 1}, {"state_dict": {}}, {"state_dict": [1]}, {1: np.zeros(1)}],
)
def test_what_is_no_state_dict(checkpoint):
    with pytest.raises(InputError, match=r"^y\.pth: holds no state dict"):
        state_dict(checkpoint, "y.pth")


def test_a_name_both_with_and_without_prefix():
    twice = {"module.a": np.zeros(1), "a": np.zeros(1)}
    with pytest.raises(InputError, match="names of one tensor"):
        state_dict(twice)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_pth_to_params_to_pth_is_bit_identical_for_pytorch(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    tensors = zoo_cases.state_dict_of("r50_c4")
    state = OrderedDict((f"module.{k}", torch.from_numpy(v)) for k, v in tensors.items())
    path = tmp_path / "reference.pth"
    torch.save(
        {"meta": {"epoch": 12}, "state_dict": state}, path, _use_new_zipfile_serialization=zipped
    )
    params = layout.to_params(torch_file.read(path), template_of("r50_c4"))
    torch_file.write(tmp_path / "back.pth", {"state_dict": layout.to_state_dict(params)})
    back = torch.load(tmp_path / "back.pth", weights_only=True)["state_dict"]
    assert set(back) == set(tensors)
    for name, array in tensors.items():
        assert back[name].numpy().tobytes() == array.tobytes()
        assert back[name].shape == array.shape


def test_the_library_modules_need_numpy_alone():
    code = (
        "import sys; from jaxdet.weights import backbones, layout, torch_file; "
        "sys.exit(str([m for m in ('jax', 'torch', 'ml_dtypes', 'orbax') if m in sys.modules]))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False
    )
    assert done.stderr.strip() == "[]"
