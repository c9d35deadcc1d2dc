"""Checkpoints whose heads do not fit: refused with what to add, or begun anew where asked for."""

import functools

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from tiny_coco import TINY_MODEL

from jaxdet.checkpoint import Checkpoints, params_of_file, read_params
from jaxdet.config import load_file, parse
from jaxdet.detectors.build import build_detector, param_shapes
from jaxdet.errors import InputError, OtherHeads
from jaxdet.weights import layout

RPN = ("rpn_head/rpn_cls", "rpn_head/rpn_reg")
BOX = ("bbox_head/fc_cls", "bbox_head/fc_reg")
SHARED = ("bbox_head/shared_fcs_0", "bbox_head/shared_fcs_1")
MASK = ("mask_head/conv_logits", *(f"mask_head/convs_{i}" for i in range(4)), "mask_head/upsample")
# The detector of the file and the config's, with changes; and the layers that begin anew.
CASES = {
    "classes": ("faster_rcnn", "faster_rcnn", {"class_names": ("a", "b")}, BOX),
    "anchors": ("rpn", "rpn", {"anchor_ratios": (0.5, 1.0)}, RPN),
    "an RPN's": ("rpn", "faster_rcnn", {}, (*BOX, *SHARED)),
    "no masks": ("faster_rcnn", "mask_rcnn", {}, MASK),
    "too many masks": ("mask_rcnn", "faster_rcnn", {}, ()),
}


def params(kind: str, seed: int, **changes) -> dict:
    """Random parameters of a small detector of three classes."""
    rng = np.random.default_rng(seed)
    shapes = shapes_of(kind, tuple(changes.items()))
    return jax.tree.map(lambda x: rng.uniform(0.5, 1, x.shape).astype(np.float32), shapes)


@functools.cache
def shapes_of(kind: str, changes: tuple) -> dict:
    name = "rpn_r18_fpn_shapes" if kind == "rpn" else f"{kind}_r18_fpn_shapes"
    config = load_file(name)
    config.model.update({**TINY_MODEL, "mask_convs": 4, "box_channels": 8, "mask_channels": 4})
    config.model.anchor_scales = (8.0,)
    config.model.update(dict(changes))
    return param_shapes(build_detector(parse(config)))


def is_adapted(found, there, fresh, anew) -> None:
    found, there, fresh = map(flatten_dict, (found, there, fresh))
    assert found.keys() == fresh.keys()
    for path, x in found.items():
        expected = fresh if "/".join(path[:-1]) in anew else there
        np.testing.assert_array_equal(x, expected[path], str(path))


@pytest.mark.parametrize(
    ("case", "system", "convention"),
    [
        *((case, "mmdet", "mmdet2") for case in CASES),
        ("classes", "mmdet", "mmdet1"),
        ("classes", "detectron2", "detectron2"),
        ("an RPN's", "detectron2", "detectron2"),
        ("anchors", "torchvision", "torchvision"),
        ("too many masks", "torchvision", "torchvision"),
    ],
)
def test_heads_of_a_file_begin_anew_where_asked_for(case, system, convention, tmp_path, caplog):
    kind, own, changes, anew = CASES[case]
    there, fresh = params(kind, 0), params(own, 1, **changes)
    tensors = layout.to_state_dict(there, system, convention)
    path = tmp_path / "x.pth"
    found = params_of_file(tensors, path, fresh, convention, 1e-5, fresh_heads=True)
    there = params_of_file(tensors, path, there, convention, 1e-5)  # with nothing for a background
    is_adapted(found, there, fresh, anew)
    line = f"{path}: heads that do not fit begin anew: {', '.join(sorted(anew))}"
    assert [r.message for r in caplog.records if "anew" in r.message] == ([line] if anew else [])
    with pytest.raises(OtherHeads, match=r"x\.pth: (does not fit the config's model|of \w+; )"):
        params_of_file(tensors, path, fresh, convention, 1e-5)


@pytest.mark.parametrize("case", CASES)
def test_heads_of_a_run_begin_anew_where_asked_for(case, tmp_path):
    kind, own, changes, anew = CASES[case]
    there, fresh = params(kind, 0), params(own, 1, **changes)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, there, None, {})
    is_adapted(read_params(tmp_path, fresh, fresh_heads=True), there, fresh, anew)
    with pytest.raises(OtherHeads, match=r"of another architecture than the config: \d+ tensors"):
        read_params(tmp_path, fresh)


def test_what_fits_stays_and_what_is_no_head_is_refused(tmp_path, caplog):
    there, wider = params("faster_rcnn", 0), params("faster_rcnn", 1, fpn_channels=8)
    tensors = layout.to_state_dict(there)
    same = params_of_file(tensors, tmp_path / "x.pth", there, "mmdet1", fresh_heads=True)
    jax.tree.map(np.testing.assert_array_equal, same, there)
    assert not caplog.records
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, there, None, {})
    for read in (
        lambda: params_of_file(tensors, tmp_path / "x.pth", wider, "mmdet1", fresh_heads=True),
        lambda: read_params(tmp_path, wider, fresh_heads=True),
    ):
        with pytest.raises(InputError, match="neck") as caught:
            read()
        assert not isinstance(caught.value, OtherHeads)
