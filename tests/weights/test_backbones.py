"""ImageNet backbones under torchvision's and Detectron's names."""

import functools
import pickle

import jax
import numpy as np
import pytest
import reference_weights
from zoo_cases import detector_of, shapes_of

from jaxdet.config import Config, ModelConfig
from jaxdet.errors import InputError
from jaxdet.training.start import first_params
from jaxdet.weights.backbones import read_backbone
from jaxdet.weights.layout import to_state_dict
from jaxdet.weights.torch_file import write

EPSILON = np.float32(1e-5)


def template_of(**fields):
    return shapes_of(ModelConfig(**fields))["backbone"]


@functools.cache
def imagenet(depth=50, stages=2):
    """A backbone as torchvision names it."""
    full = reference_weights.seeded_state_dict(0, depth=depth, stages=stages, neck=False)
    names = [n for n in full if n.startswith("backbone.")]
    tensors = {n.removeprefix("backbone."): full[n] for n in names}
    return {**tensors, "fc.weight": np.ones((9, 8), np.float32), "fc.bias": np.ones(9, np.float32)}


def detectron(tensors):
    """The same tensors as Detectron's blobs, its momentum and its unused biases."""
    blobs = {"conv1_b": np.ones(64, np.float32), "fc1000_w": tensors["fc.weight"]}
    blobs["fc1000_b"] = tensors["fc.bias"]
    leaves = {"weight": "s", "bias": "b"}
    for name, array in tensors.items():
        *scopes, module, leaf = name.split(".")
        if leaf.startswith(("running", "num")) or module == "fc":
            continue
        if not scopes:
            blob = "conv1_w" if module == "conv1" else f"res_conv1_bn_{leaves[leaf]}"
        else:
            stage, block = int(scopes[0].removeprefix("layer")) + 1, scopes[1]
            down = scopes[-1] == "downsample"
            branch = "1" if down else "2" + "abc"[int(module[-1]) - 1]
            norm = module == "1" if down else module.startswith("bn")
            blob = f"res{stage}_{block}_branch{branch}_" + (f"bn_{leaves[leaf]}" if norm else "w")
        blobs[blob] = array
        blobs[f"{blob}_momentum"] = np.zeros_like(array)
    return blobs


def test_torchvision_backbone(tmp_path):
    tensors = imagenet()
    write(tmp_path / "r50.pth", tensors)
    tree = read_backbone(tmp_path / "r50.pth", template_of(num_stages=2))
    assert jax.tree.map(np.shape, tree) == jax.tree.map(
        lambda x: x.shape, template_of(num_stages=2)
    )
    kernel = tree["layer2_3"]["conv2"]["kernel"]
    np.testing.assert_array_equal(kernel, tensors["layer2.3.conv2.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(tree["conv1"]["var"], tensors["bn1.running_var"])


def test_stages_that_the_model_lacks_and_caffes_biases_are_left_out(tmp_path):
    biases = {
        f"{n.removesuffix('weight')}bias": np.ones(a.shape[0], np.float32)
        for n, a in imagenet().items()
        if a.ndim == 4
    }
    assert "layer1.0.downsample.0.bias" in biases
    write(tmp_path / "r50_caffe.pth", {**imagenet(), **biases})
    tree = read_backbone(tmp_path / "r50_caffe.pth", template_of(num_stages=1, style="caffe"))
    assert {name.partition("_")[0] for name in tree} == {"conv1", "layer1"}


def test_detectron_backbone(tmp_path):
    tensors = imagenet()
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"blobs": detectron(tensors), "cfg": "text"}, 2))
    tree = read_backbone(path, template_of(num_stages=2, style="caffe"))
    from_pth = tmp_path / "r50.pth"
    write(from_pth, tensors)
    expected = read_backbone(from_pth, template_of(num_stages=2, style="caffe"))
    for (where, actual), wanted in zip(
        jax.tree.leaves_with_path(tree), jax.tree.leaves(expected), strict=True
    ):
        if where[-1].key in ("kernel", "scale", "bias"):
            np.testing.assert_array_equal(actual, wanted, err_msg=str(where))
    # The norm is Detectron's affine map, exactly: its slope is the scale itself.
    norm = tree["layer1_0"]["downsample"]
    np.testing.assert_array_equal(norm["scale"] / np.sqrt(norm["var"] + EPSILON), norm["scale"])
    np.testing.assert_array_equal(norm["mean"], 0)
    # Without the wrapping dict, and with what has no name beside it, it is the same.
    path.write_bytes(pickle.dumps({**detectron(tensors), 3: np.ones(2)}, 4))
    again = read_backbone(path, template_of(num_stages=2, style="caffe"))
    jax.tree.map(np.testing.assert_array_equal, again, tree)


@pytest.mark.parametrize(
    "leaves", [("gamma", "beta", "running_mean", "running_var"), ("s", "bias", "rm", "riv")]
)
def test_detectron2s_norms_are_whole(tmp_path, leaves):
    """As its own conversion reads them: with statistics, of two spellings."""
    tensors = imagenet(stages=1)
    blobs = {k: v for k, v in detectron(tensors).items() if not k.endswith(("_bn_b", "_momentum"))}
    norms = {k.removesuffix("_s"): v for k, v in blobs.items() if k.endswith("_bn_s")}
    own = {id(v): k.removesuffix("weight") for k, v in tensors.items()}
    for norm, scale in norms.items():
        del blobs[f"{norm}_s"]
        start = own[id(scale)]
        for leaf, name in zip(
            leaves, ("weight", "bias", "running_mean", "running_var"), strict=True
        ):
            blobs[f"{norm}_{leaf}"] = tensors[start + name]
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(blobs))
    write(tmp_path / "r50.pth", tensors)
    template = template_of(num_stages=1, style="caffe")
    found, wanted = (read_backbone(tmp_path / x, template) for x in ("R-50.pkl", "r50.pth"))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_other_backbones_are_refused(tmp_path):
    path = tmp_path / "r50.pth"
    write(path, imagenet())
    with pytest.raises(InputError, match=r"r50\.pth: does not fit .* missing \(layer3"):
        read_backbone(path, template_of(num_stages=3))
    with pytest.raises(InputError, match="misshaped"):
        read_backbone(path, template_of(num_stages=2, groups=32, base_width=4))
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"blobs": {"a": np.zeros(1)}}, 2))
    with pytest.raises(InputError, match=r"R-50\.pkl: holds no Detectron backbone"):
        read_backbone(path, template_of(num_stages=2))
    blobs = {**detectron(imagenet()), "res2_0_branch2a_gn_s": np.ones(64, np.float32)}
    path.write_bytes(pickle.dumps(blobs, 2))
    with pytest.raises(InputError, match=r"1 unused \(res2_0_branch2a_gn_s\)"):
        read_backbone(path, template_of(num_stages=2))


def test_c4s_second_stage_begins_as_the_backbones_fourth(tmp_path):
    template = template_of(depth=18)
    rng = np.random.default_rng(0)
    whole = {"backbone": jax.tree.map(lambda x: rng.random(x.shape, np.float32), template)}
    tensors = {k.removeprefix("backbone."): x for k, x in to_state_dict(whole).items()}
    write(tmp_path / "r18.pth", tensors)
    rooms = {"backbone": {}, "shared_head": {}}
    for name, leaves in jax.tree.map(lambda x: np.zeros(x.shape), template).items():
        rooms["shared_head" if name.startswith("layer4") else "backbone"][name] = leaves
    fresh = {**rooms, "rpn_head": {"rpn_cls": {"bias": np.ones(3)}}}
    detector = detector_of(ModelConfig())._replace(init=lambda key: fresh)
    config = Config(model=ModelConfig(pretrained=str(tmp_path / "r18.pth")))
    found = first_params(config, detector, "")
    both = {**found["backbone"], **found["shared_head"]}
    jax.tree.map(np.testing.assert_array_equal, both, whole["backbone"])
    assert jax.tree.structure(found) == jax.tree.structure(fresh)
