"""The configuration: every field with its default, and the door from a ConfigDict.

The defaults are the zoo's R-50-FPN, pytorch style, 1x.  Config files change some of them
(`configs/base.py`), the command line changes more (`--config.data.root=/data/coco`), and
`parse` turns the result into the frozen dataclasses that the rest of the code takes.
"""

import contextlib
import dataclasses
import importlib.util
import reprlib
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_collections

from jaxdet.errors import InputError
from jaxdet.limits import CHOICES, MAX_ITEMS, RANGES


@dataclass(frozen=True)
class ModelConfig:
    """The network.  Lengths are in pixels of the resized image."""

    depth: int = 50
    style: str = "pytorch"  # which convolution of a block strides: pytorch 3x3, caffe first 1x1
    num_stages: int = 4  # 3 is C4
    stem_channels: int = 64  # stage i has stem_channels * 2**i planes
    groups: int = 1  # ResNeXt's cardinality
    base_width: int = 64  # ResNeXt's channels per group, at 64 planes
    frozen_stages: int = 1  # -1: all trains; 0: the stem is frozen; n: and the first n stages
    train_norm: bool = True  # train scale and bias of the batch norms that are not frozen
    fpn_channels: int = 256  # 0: no pyramid
    head_channels: int = 256
    anchor_scales: tuple[float, ...] = (8.0,)  # anchor side = scale * stride
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width
    channel_order: str = "rgb"  # of the network's input
    pixel_mean: tuple[float, ...] = (123.675, 116.28, 103.53)  # in channel_order
    pixel_std: tuple[float, ...] = (58.395, 57.12, 57.375)
    pretrained: str = ""  # a backbone: a file, torchvision://NAME or open-mmlab://NAME

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per cell of each output level."""
        last = 2 ** (self.num_stages + 1)
        if not self.fpn_channels:
            return (last,)
        return (*(2 ** (i + 2) for i in range(self.num_stages)), 2 * last)


@dataclass(frozen=True)
class DataConfig:
    """Where images come from and how large they become."""

    name: str = "coco"  # coco, tfds or shapes
    root: str = ""  # folder with annotations/, train2017/ and val2017/
    image_scale: tuple[int, ...] = (1333, 800)  # bounds of the long and the short side
    images_per_device: int = 2  # that go through the network together
    num_workers: int = 2  # loader processes; 0 loads in threads of this one
    keep_empty: bool = False  # train on images without boxes
    flip: float = 0.5  # probability of a horizontal mirror image in training


@dataclass(frozen=True)
class TargetConfig:
    """Which anchors are positive, negative and sampled."""

    positive_iou: float = 0.7
    negative_iou: float = 0.3
    min_positive_iou: float = 0.3  # a box's best anchor is positive from here on
    num_samples: int = 256  # anchors per image in the loss; 0 takes all
    positive_fraction: float = 0.5
    smooth_l1_beta: float = 1.0 / 9.0


@dataclass(frozen=True)
class OptimizerConfig:
    """How a gradient becomes a step."""

    name: str = "sgd"  # as PyTorch does it, the reference's; or adamw, for training from scratch
    learning_rate: float = 0.02  # for a global batch of 16
    scale_lr: bool = True  # learning rate follows the global batch, linearly
    momentum: float = 0.9  # of sgd
    weight_decay: float = 1e-4
    clip_norm: float = 35.0
    warmup_steps: int = 500
    warmup_ratio: float = 1.0 / 3.0
    decay_epochs: tuple[float, ...] = (8.0, 11.0)  # epochs that begin with a decay
    decay_factor: float = 0.1


@dataclass(frozen=True)
class TrainConfig:
    """The run."""

    num_epochs: int = 12
    num_steps: int = 0  # overrides num_epochs when > 0
    seed: int = 0
    precision: str = "float32"  # of activations: float32 or bfloat16
    matmul_precision: str = "highest"  # of float32 products: highest, or tensorfloat32 on a GPU
    accumulation: int = 1  # such groups of images in a step, one after another on a device
    remat: bool = False  # recompute each block's activations in the backward pass
    log_every: int = 50  # steps
    eval_every: int = 1  # epochs between evaluations; the last step is always evaluated
    checkpoint_every: int = 1000  # steps
    keep_checkpoints: int = 3


@dataclass(frozen=True)
class ProposalConfig:
    """From scores to proposals, whenever no training step runs."""

    nms_pre: int = 2000  # best anchors kept per level
    nms_post: int = 2000  # boxes kept per level
    max_num: int = 2000  # boxes kept per image
    nms_threshold: float = 0.7
    min_box_size: float = 0.0  # pixels of the resized image
    batch_size: int = 1  # images per device


@dataclass(frozen=True)
class Config:
    """Everything a run depends on."""

    name: str = "rpn_r50_fpn_1x"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    targets: TargetConfig = field(default_factory=TargetConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    proposals: ProposalConfig = field(default_factory=ProposalConfig)


def to_config_dict(config: Config) -> ml_collections.ConfigDict:
    """A mutable copy for config files and the command line."""
    return ml_collections.ConfigDict(dataclasses.asdict(config))


def parse(config: Any) -> Config:
    """Checks every field and returns the frozen form.

    Args:
        config: a ConfigDict; a `Config` is returned as it is.

    Raises:
        InputError: a field is unknown, missing, of the wrong type or out of range.
    """
    if isinstance(config, Config):
        return config
    to_dict = getattr(config, "to_dict", None)
    if to_dict is None:
        raise InputError(f"config: must be a ConfigDict, not {type(config).__name__}")
    try:
        values = to_dict()
    except Exception as error:  # a placeholder without a value, or references in a circle
        raise InputError(f"config: cannot be read: {error}") from None
    parsed = _parse_node(Config, values, "config")
    _check_values(parsed)
    return parsed


def load_file(path: str | Path) -> ml_collections.ConfigDict:
    """Runs `get_config()` of a config file.

    Raises:
        InputError: there is no such file, or it is not a config.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such config; the zoo's are in configs/")
    spec = importlib.util.spec_from_file_location("jaxdet_config", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: not a Python file; a config defines get_config()")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: cannot be used as a config: {what}") from error
    if not isinstance(config, ml_collections.ConfigDict):
        what = type(config).__name__
        raise InputError(f"{path}: its get_config() returns a {what}, not a ConfigDict")
    return config


def _parse_node(cls: type, values: dict[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(cls)
    unknown = sorted(map(str, set(values) - set(hints)))
    if unknown:
        raise InputError(f"{where}.{unknown[0]}: no such field; there are {', '.join(hints)}")
    missing = sorted(set(hints) - set(values))
    if missing:
        raise InputError(f"{where}.{missing[0]}: missing; start from configs/base.py")
    return cls(**{k: _parse_value(hints[k], v, f"{where}.{k}") for k, v in values.items()})


def _parse_value(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise InputError(f"{where}: must hold fields, not {_shown(value)}")
        return _parse_node(typing.cast(type, kind), value, where)
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list | tuple) or len(value) > MAX_ITEMS:
            what = f"a sequence of at most {MAX_ITEMS}"
            raise InputError(f"{where}: must be {what}, not {_shown(value)}")
        item = typing.get_args(kind)[0]
        return tuple(_parse_value(item, v, f"{where}[{i}]") for i, v in enumerate(value))
    if kind is float and type(value) is int:
        with contextlib.suppress(OverflowError):
            value = float(value)
    if type(value) is not kind:
        raise InputError(f"{where}: must be {kind.__name__}, not {_shown(value)}")
    if kind is str and not value.isprintable():  # it may become a file's name
        raise InputError(f"{where}: must be printable text, not {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    """A short form of any value."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes out no integer of thousands of digits
        return f"a very large {type(value).__name__}"


def _check_values(config: Config) -> None:
    """Refuses what would only fail far from its cause."""

    def value_of(where: str) -> Any:
        node, _, name = where.rpartition(".")
        return getattr(getattr(config, node) if node else config, name)

    def require(ok: bool, where: str, what: str) -> None:
        if not ok:
            raise InputError(f"config.{where}: must be {what}, not {_shown(value_of(where))}")

    for where, choices in CHOICES.items():
        require(value_of(where) in choices, where, f"one of {', '.join(map(str, choices))}")
    for where, (low, high) in RANGES.items():
        value = value_of(where)
        items = value if isinstance(value, tuple) else (value,)
        require(all(low <= x <= high for x in items), where, f"{low} to {high}")
    name = config.name
    is_name = name not in ("", ".", "..") and not set(name) & set("/\\")
    require(is_name, "name", "the name of a folder")
    model, sides = config.model, config.data.image_scale
    for field_name in ("pixel_mean", "pixel_std"):
        require(len(getattr(model, field_name)) == 3, f"model.{field_name}", "three numbers")
    for field_name in ("anchor_scales", "anchor_ratios"):
        require(len(getattr(model, field_name)) > 0, f"model.{field_name}", "one number or more")
    smallest = model.strides[0] * min(model.anchor_scales)
    stretch = max(*model.anchor_ratios, *(1 / ratio for ratio in model.anchor_ratios)) ** 0.5
    require(smallest >= stretch, "model.anchor_scales", "so large that anchors have a pixel's side")
    wide = model.groups == 1 or model.stem_channels * model.base_width >= 64
    require(wide, "model.base_width", "64 / model.stem_channels or more")
    require(len(sides) == 2 and sides[0] >= sides[1], "data.image_scale", "(long side, short side)")
    targets = config.targets
    ordered = targets.negative_iou <= targets.positive_iou
    require(ordered, "targets.negative_iou", "at most positive_iou")
    train = config.train
    require(train.num_steps > 0 or train.num_epochs > 0, "train.num_epochs", "positive")
