"""From a config's file to checked, frozen fields.

Config files change some of the defaults (`configs/base.py`), the command line changes more
(`--config.data.root=/data/coco`), and `parse` turns the result into the dataclasses of `fields`,
which the rest of the code takes.
"""

import dataclasses
import difflib
import importlib.util
import re
import reprlib
import typing
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import ml_collections
import msgspec

from jaxdet.config.fields import Config
from jaxdet.errors import InputError
from jaxdet.files import read_bytes
from jaxdet.ops.boxes import CONVENTIONS

FOLDER = Path(__file__).parents[1] / "configs"
_MODULE = "jaxdet_config"  # what a config's file is called as a module


def to_config_dict(config: Config) -> ml_collections.ConfigDict:
    """Returns a mutable copy for config files and the command line."""
    copy = ml_collections.ConfigDict(dataclasses.asdict(config))
    # Of any type, as a config file may set the function itself.
    with copy.data.ignore_type():
        copy.data.augment = ml_collections.FieldReference(config.data.augment, field_type=object)
    return copy


def load_file(name: str | Path) -> ml_collections.ConfigDict:
    """Runs `get_config()` of a config's file, or of a name such as `rpn_r50_fpn_1x`.

    A run's `config.json` is such a file, too, but names no code to run: it comes without
    `data.augment`.  Raises `InputError` if there is no such config, or the file is not one.
    """
    path = Path(name)
    if path.suffix == ".json":
        config = to_config_dict(load_run(path))
        config.data.augment = ""
        return config
    if not path.is_file():
        named = FOLDER / f"{name}.py"
        if path.name != str(name) or not named.is_file():
            raise InputError(f"{name}: no such config; give a file or the name of one in {FOLDER}")
        path = named
    if path.suffix != ".py":
        raise InputError(f"{path}: not a Python file; a config defines get_config()")
    try:
        config = load_module(path).get_config()
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: cannot be used as a config: {what}") from error
    if not isinstance(config, ml_collections.ConfigDict):
        what = type(config).__name__
        raise InputError(f"{path}: its get_config() returns a {what}, not a ConfigDict")
    return config


def load_module(path: str | Path) -> ModuleType:
    """Runs a Python file and returns it as a module; raises whatever it raises."""
    spec = importlib.util.spec_from_file_location(_MODULE, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parse(config: Any) -> Config:
    """Checks every field of a ConfigDict and returns the frozen form.

    Raises `InputError` if a field is unknown, missing, of the wrong type or out of range.
    """
    if isinstance(config, Config):
        return config
    if not isinstance(config, ml_collections.ConfigDict):
        raise InputError(f"config: must be a ConfigDict, not {type(config).__name__}")
    try:
        values = config.to_dict()
        data = values.get("data")
        if isinstance(data, dict) and callable(data.get("augment")):
            data["augment"] = _name_of(data["augment"])
        given = flat(values)
        for name, value in given.items():
            if isinstance(value, int) and abs(value) >= 2**64:  # perhaps too long to be said
                raise InputError(f"config.{name}: too large")
        parsed = msgspec.convert(values, Config)
    except InputError:
        raise
    except msgspec.ValidationError as error:
        what, _, path = str(error).rpartition(" - at `$")
        seen = _seen(values, path[:-1])
        raise InputError(f"config{path[:-1]}: {what[:80]}{seen}") from None
    except Exception as error:  # a placeholder without a value, or references in a circle
        raise InputError(f"config: cannot be read: {error}") from None
    known = flat(dataclasses.asdict(parsed))
    for name in (name for name in given if name not in known):
        near = difflib.get_close_matches(name, known, 3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise InputError(f"config.{name}: no such field{hint}")
    if missing := known.keys() - given.keys():
        raise InputError(f"config.{min(missing)}: missing; start from configs/base.py")
    _check_together(parsed)
    return parsed


def _name_of(function: Any) -> str:
    """Returns MODULE:FUNCTION, or FILE.py:FUNCTION of a config's file, by which workers find it."""
    name, module = getattr(function, "__qualname__", ""), getattr(function, "__module__", None)
    if not name.isidentifier() or not module:
        raise InputError("config.data.augment: must be a function on a module's top level")
    file = Path(function.__code__.co_filename).absolute() if module == _MODULE else module
    return f"{file}:{name}"


def load_run(path: Path) -> Config:
    """Returns the config in a `config.json`; a field that came later had its default then.

    Raises `InputError` if it cannot be read or is none.
    """
    text, whole = read_bytes(path), dataclasses.asdict(Config())
    try:
        for name, value in msgspec.json.decode(text, type=dict).items():
            group = "proposals" if name == "test" else name  # as earlier versions called it
            whole[group] = {**whole.get(group, {}), **value} if isinstance(value, dict) else value
        return parse(ml_collections.ConfigDict(whole))
    except Exception as error:  # of many kinds, as of keys that no config can have
        raise InputError(f"{path}: not a config: {error}") from error


def flat(values: dict[str, Any]) -> dict[str, Any]:
    """Returns fields by names like `data.root`."""
    fields: dict[str, Any] = {}
    for name, value in values.items():
        inner = flat(value) if isinstance(value, dict) else {"": value}
        fields |= {f"{name}.{key}".rstrip("."): x for key, x in inner.items()}
    return fields


def _seen(value: Any, path: str) -> str:
    """Returns what stands at a path like `.model.depth`, and its choices where there are few."""
    kind: Any = Config
    for name in re.findall(r"\w+", path):
        value = value[name] if isinstance(value, dict) else list(value)[int(name)]
        kind = typing.get_type_hints(kind).get(name) if dataclasses.is_dataclass(kind) else None
    try:
        seen = f"; it is {reprlib.repr(value)}"
    except ValueError:  # Python writes out no integer of thousands of digits
        seen = "; it is too large"
    is_choice = typing.get_origin(kind) is Literal
    return f"{seen}, not one of {', '.join(map(str, typing.get_args(kind)))}" if is_choice else seen


def _check_together(config: Config) -> None:
    """Refuses values that go wrong together, or far from their cause."""
    name, model, sides = config.name, config.model, config.data.image_scale
    is_name = name not in ("", ".", "..") and not set(name) & set("/\\")
    smallest = model.strides[0] * min(model.anchor_scales, default=0)
    stretch = max((max(r, 1 / r) for r in model.anchor_ratios), default=1) ** 0.5
    wide = model.groups == 1 or model.stem_channels * model.base_width >= 64
    is_scale = len(sides) == 2 and sides[0] >= sides[1]
    shorts = all(short <= min(sides, default=0) for short in config.data.train_short_sides)
    data = config.data
    longs = data.train_long_sides
    paired = not longs or len(longs) == len(data.train_short_sides)
    within = max(longs, default=0) <= max(sides, default=0)
    files = data.train_annotations, data.train_images, data.val_annotations, data.val_images
    targets, dense = config.targets, model.detector == "retinanet"
    ordered = targets.negative_iou <= targets.positive_iou
    counted = (targets.loss_count in ("positives", "per_image", "average")) == dense
    counts = "positives, per_image or average for RetinaNet, another for others"
    two_stage_c4 = not (model.fpn_channels or dense or model.detector == "rpn")
    shared = not two_stage_c4 or (model.num_stages == 3 and model.depth >= 50)
    rules = [
        ("name", is_name, "the name of a folder"),
        ("model.convention", model.convention in CONVENTIONS, f"one of {', '.join(CONVENTIONS)}"),
        ("model.fpn_start", model.fpn_start < model.num_stages, "below num_stages"),
        ("model.fpn_channels", shared, "positive, or num_stages 3 and depth 50 or more"),
        ("model.class_names", model.detector != "rpn" or not model.class_names, "() for an RPN"),
        ("data.train_short_sides", shorts, "at most the short side of image_scale"),
        ("data.train_long_sides", paired, "as many as train_short_sides, or none"),
        ("data.train_long_sides", within, "at most the long side of image_scale"),
        ("data.augment", not (data.augment and model.takes_proposals), "none for given proposals"),
        ("model.pixel_mean", len(model.pixel_mean) == 3, "three numbers"),
        ("model.pixel_std", len(model.pixel_std) == 3, "three numbers"),
        ("model.anchor_scales", len(model.anchor_scales) > 0, "one number or more"),
        ("model.anchor_ratios", len(model.anchor_ratios) > 0, "one number or more"),
        ("model.anchor_scales", smallest >= stretch, "so large that anchors have a pixel's side"),
        ("model.base_width", wide, "64 / model.stem_channels or more"),
        ("data.image_scale", is_scale, "(long side, short side)"),
        ("data.name", config.data.name == "coco" or not any(files), "coco where files are named"),
        ("targets.negative_iou", ordered, "at most positive_iou"),
        ("targets.loss_count", counted, counts),
        ("targets.box_loss", dense or targets.box_loss == "smooth_l1", "smooth_l1 for an RPN"),
        ("train.num_epochs", config.train.num_epochs + config.train.num_steps > 0, "positive"),
    ]
    fields = flat(dataclasses.asdict(config))
    # Text may become a file's name.
    rules += [(k, v.isprintable(), "printable text") for k, v in fields.items() if type(v) is str]
    for name, ok, what in rules:
        if not ok:
            raise InputError(f"config.{name}: must be {what}, not {reprlib.repr(fields[name])}")
