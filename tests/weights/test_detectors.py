"""Whole detectors' files of every system: read into the agreed tree, written, told apart."""

import functools
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
import reference_detectors
import today_weights
import torchvision_weights
import zoo_cases
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxdet.checkpoint import params_of_file, read_params
from jaxdet.config import ModelConfig
from jaxdet.convert import read_momentum
from jaxdet.errors import InputError
from jaxdet.weights import layout, torch_file
from jaxdet.weights.systems import SYSTEMS, require_fit

# Convention, kind, and whether it is C4.
CASES = [
    *(
        ("mmdet1", kind, c4)
        for kind in ("faster_rcnn", "mask_rcnn", "fast_rcnn", "fast_mask_rcnn", "retinanet")
        for c4 in (False, True)[: 2 - (kind == "retinanet")]
    ),
    *(
        (convention, kind, c4)
        for convention in ("mmdet2", "detectron2")
        for kind, c4 in [
            *(("faster_rcnn", False), ("faster_rcnn", True), ("retinanet", False)),
            *(("mask_rcnn", False), ("mask_rcnn", True)),
        ]
    ),
    *(
        (convention, kind, False)
        for convention in ("torchvision", "torchvision_v2")
        for kind in ("faster_rcnn", "mask_rcnn", "retinanet")
    ),
]
each_case = pytest.mark.parametrize(
    "case", CASES, ids=lambda c: "-".join([*c[:2], "c4"[: 2 * c[2]]])
)


def system_of(convention: str) -> str:
    return next(name for name, x in SYSTEMS.items() if convention in x.conventions)


def file_shapes(convention: str, kind: str, c4: bool) -> dict[str, tuple[int, ...]]:
    if convention == "mmdet1":
        return reference_detectors.detector_shapes(kind, c4)
    if convention == "mmdet2":
        return today_weights.mmdet_shapes(kind, c4)
    if convention == "detectron2":
        return today_weights.detectron2_shapes(kind, c4)
    version = convention.removeprefix("torchvision")
    return torchvision_weights.shapes(f"{kind.replace('_r', 'r')}_resnet50_fpn{version}")


@functools.cache
def state(case) -> dict[str, np.ndarray]:
    """The file's tensors with an eighth of the channels, as many classes, and no two alike."""
    tensors = {}
    for name, shape in file_shapes(*case).items():
        narrow = [n // 8 if n % 64 == 0 and n != 4 * 80 else n for n in shape]
        x = np.random.default_rng(zlib.crc32(name.encode())).uniform(0.5, 1.5, narrow)
        tensors[name] = x.astype(np.int64 if name.endswith("num_batches_tracked") else np.float32)
    return tensors


def layer(name: str, *kernel: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}/kernel": kernel, f"{name}/bias": kernel[-1:]}


@functools.cache
def template(case):
    """The agreed tree: an RPN's own, and the heads by name and shape."""
    convention, kind, c4 = case
    first, tv, v2 = convention == "mmdet1", "torchvision" in convention, "_v2" in convention
    small = {"stem_channels": 8, "fpn_channels": 32, "head_channels": 32, "head_convs": 1 + v2}
    whole = zoo_cases.shapes_of(ModelConfig(**small))
    if c4:
        small |= {"num_stages": 3, "fpn_channels": 0, "head_channels": 128}
        small |= {"anchor_scales": (2.0, 4.0, 8.0, 16.0, 32.0)}
    tree = zoo_cases.shapes_of(ModelConfig(**small))
    if kind.startswith(("fast_", "retina")):
        del tree["rpn_head"]
    classes = 91 if tv else 81
    shapes = {}
    if kind == "retinanet":
        del tree["neck"]
        for i, channels in enumerate((64, 128, 256)):
            shapes |= layer(f"neck/lateral_convs_{i}", 1, 1, channels, 32)
        for i, channels in enumerate((32, 32, 32, 32 if tv and not v2 else 256, 32)):
            shapes |= layer(f"neck/fpn_convs_{i}", 3, 3, channels, 32)
        for i in range(4):
            for name in (f"bbox_head/cls_convs_{i}", f"bbox_head/reg_convs_{i}"):
                shapes |= layer(name, 3, 3, 32, 32)
                shapes |= {f"{name}/scale": (32,)} if v2 else {}
        shapes |= layer("bbox_head/retina_cls", 3, 3, 32, 9 * (91 if tv else 80))
        shapes |= layer("bbox_head/retina_reg", 3, 3, 32, 36)
    elif c4:
        stage = {k: v for k, v in whole["backbone"].items() if k.startswith("layer4_")}
        tree["shared_head"] = stage
    else:
        for i in range(4 * v2):
            shapes |= layer(f"bbox_head/convs_{i}", 3, 3, 32, 32)
        shapes |= layer("bbox_head/shared_fcs_0", 7, 7, 32, 128)
        shapes |= {} if v2 else layer("bbox_head/shared_fcs_1", 128, 128)
    if kind != "retinanet":
        shapes |= layer("bbox_head/fc_cls", 256 if c4 else 128, classes)
        shapes |= layer("bbox_head/fc_reg", 256 if c4 else 128, 4 * classes)
    if "mask" in kind:
        for i in range(0 if c4 else 4):
            shapes |= layer(f"mask_head/convs_{i}", 3, 3, 32, 32)
        shapes |= layer("mask_head/upsample", 2, 2, 256 if c4 else 32, 32)
        shapes |= layer("mask_head/conv_logits", 1, 1, 32, classes)
    assert first or kind in ("faster_rcnn", "mask_rcnn", "retinanet")
    heads = {tuple(k.split("/")): jax.ShapeDtypeStruct(v, np.float32) for k, v in shapes.items()}
    return unflatten_dict({**flatten_dict(tree), **heads})


@functools.cache
def params(case):
    return layout.to_params(state(case), template(case), source="x.pth")


def same(found, wanted):
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@each_case
def test_there_and_back(case):
    """Names, shapes and, where nothing is folded into anything, bits."""
    convention, kind, _ = case
    assert jax.tree.map(np.shape, params(case)) == jax.tree.map(lambda x: x.shape, template(case))
    back = layout.to_state_dict(params(case), system_of(convention), convention)
    counter = "num_batches_tracked"
    assert {k: v.shape for k, v in back.items() if not k.endswith(counter)} == {
        k: v.shape for k, v in state(case).items() if not k.endswith(counter)
    }
    same(layout.to_params(back, template(case)), params(case))
    for name, x in state(case).items():
        if not folded(convention, kind, name):
            assert back[name].tobytes() == x.tobytes(), name
        assert back[name].flags.c_contiguous


def folded(convention: str, kind: str, name: str) -> bool:
    """Whether the tree holds a tensor of a file otherwise than the file."""
    if name.endswith("num_batches_tracked"):
        return True
    if convention == "torchvision":  # an epsilon of 0, in scales
        return ".bn" in name or ".downsample.1." in name
    norms = ("backbone.fpn.", "roi_heads.box_head.", "roi_heads.mask_head.")
    return convention == "torchvision_v2" and kind != "retinanet" and name.startswith(norms)


def test_fully_connected_and_transposed_layers_compute_what_the_files_do():
    """In PyTorch's meaning of (out, in), of channel, y, x and of (in, out, y, x)."""
    case = ("mmdet1", "mask_rcnn", False)
    file, tree = state(case), params(case)
    rng = np.random.default_rng(0)
    x, head = rng.normal(size=(7, 7, 32)), tree["bbox_head"]
    wanted = file["bbox_head.shared_fcs.0.weight"] @ x.transpose(2, 0, 1).ravel()
    found = np.einsum("yxi,yxio->o", x, head["shared_fcs_0"]["kernel"])
    np.testing.assert_allclose(found, wanted, rtol=1e-9)  # float64, but for another order
    np.testing.assert_array_equal(head["fc_cls"]["kernel"], file["bbox_head.fc_cls.weight"].T)
    kernel = tree["mask_head"]["upsample"]["kernel"]
    assert kernel[1, 0, 7, 5] == file["mask_head.upsample.weight"][7, 5, 1, 0]


@pytest.mark.parametrize("convention", ["mmdet2", "detectron2"])
def test_the_background_comes_first(convention):
    tree = params((convention, "mask_rcnn", False))
    box = "roi_head.bbox_head.fc_" if convention == "mmdet2" else "roi_heads.box_predictor."
    mask = (
        "roi_head.mask_head.conv_logits"
        if convention == "mmdet2"
        else "roi_heads.mask_head.predictor"
    )
    names = ("cls", "reg") if convention == "mmdet2" else ("cls_score", "bbox_pred")
    file = state((convention, "mask_rcnn", False))
    scores, deltas = (file[f"{box}{name}.weight"] for name in names)
    head = tree["bbox_head"]
    np.testing.assert_array_equal(head["fc_cls"]["kernel"].T, [scores[80], *scores[:80]])
    np.testing.assert_array_equal(head["fc_reg"]["kernel"].T[4:], deltas)
    assert not head["fc_reg"]["kernel"][:, :4].any()
    logits = tree["mask_head"]["conv_logits"]
    np.testing.assert_array_equal(logits["bias"], [0, *file[f"{mask}.bias"]])


def test_detectron2s_anchors_become_ratio_major():
    case = ("detectron2", "retinanet", False)
    for layer_, name, per in (("retina_cls", "cls_score", 80), ("retina_reg", "bbox_pred", 4)):
        ours = params(case)["bbox_head"][layer_]["bias"].reshape(3, 3, per)  # ratio, scale
        theirs = state(case)[f"head.{name}.bias"].reshape(3, 3, per)
        np.testing.assert_array_equal(ours, theirs.transpose(1, 0, 2))


def test_norms_of_heads_go_into_their_convolutions():
    case = ("torchvision_v2", "mask_rcnn", False)
    conv = params(case)["mask_head"]["convs_2"]
    start = "roi_heads.mask_head.2"
    leaves = ("weight", "bias", "running_mean", "running_var")
    scale, bias, mean, variance = (state(case)[f"{start}.1.{leaf}"] for leaf in leaves)
    slope = scale / np.sqrt(variance + np.float32(1e-5))
    kernel = state(case)[f"{start}.0.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_allclose(conv["kernel"], kernel * slope, rtol=1e-6)
    np.testing.assert_allclose(conv["bias"], bias - mean * slope, rtol=1e-5)


OLD = [
    (("mmdet1", "retinanet", False), {".conv.weight": ".weight", ".conv.bias": ".bias"}),
    (
        ("torchvision", "retinanet", False),
        {f".conv.{i}.0.": f".conv.{2 * i}." for i in range(4)}
        | {f"_blocks.{i}.0.": f"_blocks.{i}." for i in range(3)},
    ),
    (
        ("torchvision", "mask_rcnn", False),
        {f".mask_head.{i}.0.": f".mask_head.mask_fcn{i + 1}." for i in range(4)},
    ),
]


@pytest.mark.parametrize(("case", "spellings"), OLD, ids=lambda x: x[1] if len(x) == 3 else "")
def test_old_spellings(case, spellings):
    def old(name: str) -> str:
        new = next((new for new in spellings if new in name and not name.startswith("neck.")), None)
        return name.replace(new, spellings[new]) if new else name

    tensors = {old(name): x for name, x in state(case).items()}
    assert len(tensors.keys() - state(case).keys()) > 3
    same(layout.to_params(tensors, template(case)), params(case))


@pytest.mark.parametrize("convention", ["mmdet1", "mmdet2", "detectron2", "torchvision"])
def test_an_rpn_takes_its_part_of_a_detectors_file(convention, tmp_path):
    case = (convention, "mask_rcnn", False)
    rooms = ("backbone", "neck", "rpn_head")
    rpn = {room: template(case)[room] for room in rooms}
    torch_file.write(tmp_path / "a.pth", {"state_dict": state(case)})
    found = read_params(tmp_path / "a.pth", rpn, convention)
    same(found, {room: params(case)[room] for room in rooms})


@pytest.mark.parametrize(
    ("file", "model", "words"),
    [
        ("mmdet1 faster_rcnn", "mask_rcnn", "of faster_rcnn; config.model.detector is mask_rcnn: "
         "use --config=faster_rcnn_r50_fpn_1x, or another config of that detector"),
        ("mmdet1 fast_mask_rcnn", "mask_rcnn", "=fast_mask_rcnn_r50_fpn_1x, "),
        ("mmdet2 mask_rcnn", "faster_rcnn", "=mmdet2_mask_rcnn_r50_fpn_1x, "),
        ("detectron2 retinanet", "faster_rcnn", "=detectron2_retinanet_r50_fpn_1x, "),
        ("torchvision mask_rcnn", "retinanet", "=torchvision_mask_rcnn_r50_fpn, "),
    ],
)  # fmt: skip
def test_another_kind_of_detector_is_one_line(file, model, words):
    convention, kind = file.split()
    tensors, shapes = state((convention, kind, False)), template((convention, model, False))
    with pytest.raises(InputError) as caught:
        params_of_file(tensors, Path("x.pth"), shapes, convention)
    assert str(caught.value).startswith(f"x.pth: of {kind}; ")
    assert words in str(caught.value)


def test_another_convention_is_one_line_that_names_a_config_of_the_same_kind():
    retinanet = state(("torchvision_v2", "retinanet", False))
    with pytest.raises(
        InputError, match=r"=torchvision_retinanet_r50_fpn_v2, or another config of"
    ):
        require_fit({}, retinanet, (), "mmdet2", "x.pth")
    shapes = template(("torchvision", "retinanet", False))
    with pytest.raises(InputError, match=r"of torchvision_v2; config.model.convention is torchv"):
        params_of_file(retinanet, Path("x.pth"), shapes, "torchvision")
    faster = state(("mmdet2", "faster_rcnn", False))  # which says nothing of its version
    with pytest.raises(InputError, match=r"of mmdet2 or mmdet3; .*=mmdet2_faster_rcnn_r50_fpn_1x"):
        require_fit({}, faster, (), "mmdet1", "x.pth")
    faster = state(("mmdet1", "faster_rcnn", False))
    with pytest.raises(InputError, match=r"of mmdet1; .* is mmdet3: .*=faster_rcnn_r50_fpn_1x"):
        require_fit({}, faster, (), "mmdet3", "x.pth")


def test_momentum_has_the_order_of_the_files_tensors():
    case = ("mmdet2", "faster_rcnn", False)
    heads = {room: params(case)[room] for room in ("neck", "bbox_head")}
    trained = layout.to_state_dict(heads, "mmdet", "mmdet2")
    names = [name for name in state(case) if name in trained]
    slots = {i: {"momentum_buffer": trained[name]} for i, name in enumerate(names)}
    groups = [{"params": list(range(len(names)))}]
    saved = {"state_dict": state(case), "optimizer": {"state": slots, "param_groups": groups}}
    same(read_momentum(saved, heads), heads)
