"""Configs: any value of any field gives a usable config or one line that names the field."""

import copy
import dataclasses
import json
import math
import re
import typing

import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdet import config as config_lib
from jaxdet.config import Config, parse
from jaxdet.errors import InputError
from jaxdet.ops.anchors import base_anchors
from jaxdet.training import optimizer as optim

DEFAULT = dataclasses.asdict(Config())


def fields_of(cls=Config, prefix=(), **options):
    """The path and the type of every field that holds a value."""
    for name, kind in typing.get_type_hints(cls, **options).items():
        if dataclasses.is_dataclass(kind):
            yield from fields_of(kind, (*prefix, name), **options)
        else:
            yield (*prefix, name), kind


FIELDS = dict(fields_of())
NAMES = {path: ".".join(path) for path in FIELDS}


def with_value(path, value) -> ml_collections.ConfigDict:
    values = copy.deepcopy(DEFAULT)
    node = values
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = value
    return ml_collections.ConfigDict(values)


def is_usable(config: Config) -> None:
    """What would only fail far from here."""
    assert json.loads(json.dumps(dataclasses.asdict(config), allow_nan=False))
    for stride in config.model.strides:
        anchors = base_anchors(stride, config.model.anchor_scales, config.model.anchor_ratios)
        assert np.isfinite(anchors).all()
        assert (anchors[:, 2:] >= anchors[:, :2]).all()
    rate = optim.learning_rate(config.optimizer, 100_000, 16)
    for step in (0, 500, 2**31 - 1):
        assert 0 <= rate(jnp.int32(step)) < math.inf
    optim.make_optimizer(config.optimizer, rate)


PAIRED = ("config.model.anchor_scales", "config.model.base_width", "config.targets.negative_iou")


def check(path, value) -> None:
    try:
        config = parse(with_value(path, value))
    except InputError as error:
        line = str(error)
        # By its own name, or by that of the field that it does not go with.
        assert line.startswith((f"config.{NAMES[path]}", *PAIRED))
        assert "\n" not in line
        assert len(line) < 500
    else:
        is_usable(config)


NUMBERS = st.one_of(
    st.integers(),
    st.integers(-3, 300),
    st.floats(),
    st.floats(0, 1),
    st.sampled_from(
        [10**400, 10**5000, -(2**63), 2**63, 2**32, 2**31, 2**31 - 1, 1e308, 5e-324, 1e-30, -0.0]
    ),
)
TEXTS = st.text(max_size=8) | st.sampled_from(
    [
        "",
        ".",
        "..",
        "../x",
        "/etc",
        "a\nb",
        "a\0b",
        "\x1b[2J",
        "\u2028",
        "x" * 10_000,
        "sgd",
        "caffe",
    ]
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS | st.binary(max_size=4)
LISTS = st.lists(NUMBERS, max_size=4) | st.lists(SCALARS, max_size=4)
VALUES = st.one_of(
    SCALARS,
    LISTS,
    LISTS.map(tuple),
    st.lists(st.just(1.0), min_size=60, max_size=200),
    st.dictionaries(st.sampled_from(["depth", "x"]), SCALARS, max_size=2),
    st.frozensets(st.integers(), max_size=2),
    st.just(np.float32(0.5)),
    st.just(np.zeros(3)),
)


@settings(max_examples=1000, deadline=None)
@given(st.sampled_from(list(FIELDS)), VALUES)
def test_any_value_of_any_field_gives_a_usable_config_or_one_line(path, value):
    check(path, value)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None)
@given(st.sampled_from(list(FIELDS)), VALUES)
def test_many_values_give_a_usable_config_or_one_line(path, value):
    check(path, value)


@pytest.mark.parametrize("path", FIELDS, ids=NAMES.get)
def test_each_field_refuses_what_it_cannot_be(path):
    """Not a number, infinite, too large, of another type: each by the field's name."""
    kind = FIELDS[path]
    is_sequence = typing.get_origin(kind) is tuple
    if is_sequence:
        kind = typing.get_args(kind)[0]
    elif typing.get_origin(kind) is typing.Literal:
        kind = type(typing.get_args(kind)[0])
    wrong = [None, b"x", {"x": 1}, object()]
    if kind is not str:
        wrong += ["x"]
    if kind is not bool:
        wrong += [True]
    if kind in (int, float):
        wrong += [math.nan, math.inf, -math.inf, 10**400, 2**63, -(2**63), 1e308]
    for value in wrong:
        for tried in [value, (value,)] if is_sequence else [value, (), (value,)]:
            with pytest.raises(InputError, match=rf"^config\.{re.escape(NAMES[path])}") as caught:
                parse(with_value(path, tried))
            assert "\n" not in str(caught.value)


def test_help_has_every_field_with_its_default_and_meaning():
    shown = {name: (default, meaning) for name, default, meaning in config_lib.meanings()}
    assert [*shown] == [*NAMES.values()]
    for path, name in NAMES.items():
        value = DEFAULT
        for part in path:
            value = value[part]
        default, meaning = shown[name]
        assert eval(default.partition(" of ")[0]) == value
        assert len(meaning) > 5, name
        assert f"--config.{name}={default}\n    {meaning[:40]}" in config_lib.help_text()


def test_every_number_has_bounds_and_the_default_is_within_them():
    is_usable(parse(ml_collections.ConfigDict(DEFAULT)))
    bounded = dict(fields_of(include_extras=True))
    for path, kind in FIELDS.items():
        item = bounded[path]
        if typing.get_origin(kind) is tuple:
            kind, item = typing.get_args(kind)[0], typing.get_args(item)[0]
        if kind in (int, float):
            assert typing.get_origin(item) is typing.Annotated, NAMES[path]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("name", "../elsewhere", "the name of a folder"),
        ("name", "a\nb", "printable text"),
        ("data.image_scale", (800, 1333), "(long side, short side)"),
        ("data.image_scale", (1333,), "(long side, short side)"),
        ("model.anchor_scales", (), "one number or more"),
        ("model.anchor_scales", (0.1,), "anchors have a pixel's side"),
        ("model.pixel_std", (1.0, 1.0), "three numbers"),
        ("targets.negative_iou", 0.8, "at most positive_iou"),
        ("model.convention", "mmdet4", "one of mmdet1, mmdet2"),
        ("data.train_short_sides", (900,), "at most the short side"),
        ("data.train_long_sides", (900,), "as many as train_short_sides"),
        ("train.num_epochs", 0, "positive"),
        ("model.class_names", ("cat",), "() for an RPN"),
    ],
)
def test_values_that_only_go_wrong_together_or_later(path, value, said):
    with pytest.raises(InputError) as caught:
        parse(with_value(path.split("."), value))
    assert str(caught.value).startswith(f"config.{path}: must be ")
    assert said in str(caught.value)


def test_a_pyramid_begins_on_a_stage_that_there_is():
    values = copy.deepcopy(DEFAULT)
    values["model"] |= {"num_stages": 3, "fpn_start": 3}
    with pytest.raises(InputError, match=r"config\.model\.fpn_start: must be below num_stages"):
        parse(ml_collections.ConfigDict(values))


def test_a_second_stage_without_a_pyramid_shares_the_fifth_of_fifty_layers_or_more():
    values = copy.deepcopy(DEFAULT)
    values["model"] |= {"detector": "fast_rcnn", "fpn_channels": 0, "num_stages": 3}
    parse(ml_collections.ConfigDict(values))
    for field in ({"depth": 34}, {"num_stages": 4}):
        changed = {**values, "model": values["model"] | field}
        with pytest.raises(InputError, match=r"config\.model\.fpn_channels: must be positive, or"):
            parse(ml_collections.ConfigDict(changed))


def test_narrow_groups_are_refused():
    values = copy.deepcopy(DEFAULT)
    values["model"] |= {"groups": 32, "base_width": 4, "stem_channels": 4}
    with pytest.raises(InputError, match=r"config\.model\.base_width: must be 64"):
        parse(ml_collections.ConfigDict(values))


@pytest.mark.parametrize("value", [None, 3, "rpn", {"model": {}}, [1]])
def test_what_is_no_config_is_refused(value):
    with pytest.raises(InputError, match="must be a ConfigDict"):
        parse(value)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("train.seed", -1, "Expected `int` >= 0; it is -1"),
        ("optimizer.clip_norm", -1.0, "Expected `float` >= 0.0"),
        ("model.depth", 51, "it is 51, not one of 18, 34, 50, 101, 152"),
        ("data.image_scale", (1333, 8), "Expected `int` >= 32"),
    ],
)
def test_bounds_and_choices_are_said(path, value, said):
    with pytest.raises(InputError, match=rf"config\.{path}.*: .*{re.escape(said)}"):
        parse(with_value(path.split("."), value))


def test_unknown_missing_and_unset_fields_are_named():
    config = config_lib.to_config_dict(Config())
    config.model.depht = 3
    said = r"config\.model\.depht: no such field; did you mean model\.depth"
    with pytest.raises(InputError, match=said):
        parse(config)
    del config.model.depht
    del config.train.seed
    with pytest.raises(InputError, match=r"config\.train\.seed: missing"):
        parse(config)
    config.train.seed = ml_collections.config_dict.required_placeholder(int)
    with pytest.raises(InputError, match=r"config: cannot be read: .*required"):
        parse(config)


BROKEN = {
    "syntax": "def get_config(:\n",
    "nothing": "",
    "raises": "raise RuntimeError('two\\nlines')\n",
    "none": "def get_config():\n    return None\n",
    "not UTF-8": b"\xff\xfe\x00 = 3\n",
    "NUL": b"x = '\0'\n",
    "endless": "def get_config():\n    return get_config()\n",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_config_files_that_are_none(tmp_path, text):
    path = tmp_path / "bad.py"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as caught:
        parse(config_lib.load_file(path))
    assert "\n" not in str(caught.value)


def test_a_config_is_found_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse(config_lib.load_file("rpn_r101_fpn_2x")).name == "rpn_r101_fpn_2x"
    for other in ("none.py", tmp_path, "rpn_r51", "configs/rpn_r50_fpn_1x", "", "../config"):
        with pytest.raises(InputError, match="no such config"):
            config_lib.load_file(other)
