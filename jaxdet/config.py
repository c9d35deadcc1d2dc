"""The configuration: every field with its default, and the door from a ConfigDict.

The defaults are the zoo's R-50-FPN, pytorch style, 1x.  Config files change some of them
(`configs/base.py`), the command line changes more (`--config.data.root=/data/coco`), and
`parse` turns the result into the frozen dataclasses that the rest of the code takes.
"""

import dataclasses
import importlib.util
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_collections

from jaxdet.errors import InputError

DEPTHS = (18, 34, 50, 101, 152)


@dataclass(frozen=True)
class ModelConfig:
    """The network.  Lengths are in pixels of the resized picture."""

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
    """Where pictures come from and how large they become."""

    name: str = "coco"  # coco, tfds or shapes
    root: str = ""  # folder with annotations/, train2017/ and val2017/
    image_scale: tuple[int, ...] = (1333, 800)  # bounds of the long and the short side
    images_per_device: int = 2  # that go through the network together
    num_workers: int = 2  # loader processes; 0 loads in threads of this one
    keep_empty: bool = False  # train on pictures without boxes
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
    min_box_size: float = 0.0  # pixels of the resized picture
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
    test: ProposalConfig = field(default_factory=ProposalConfig)


def to_config_dict(config: Config) -> ml_collections.ConfigDict:
    """A mutable copy for config files and the command line."""
    return ml_collections.ConfigDict(dataclasses.asdict(config))


def parse(config: ml_collections.ConfigDict | Config) -> Config:
    """Checks every field and returns the frozen form.

    Raises:
        InputError: a field is unknown, missing, of the wrong type or out of range.
    """
    if isinstance(config, Config):
        return config
    parsed = _parse_node(Config, config.to_dict(), "config")
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
        return module.get_config()
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: cannot be used as a config: {what}") from error


def _parse_node(cls: type, values: dict[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise InputError(f"{where}.{unknown[0]}: no such field; there are {', '.join(hints)}")
    missing = sorted(set(hints) - set(values))
    if missing:
        raise InputError(f"{where}.{missing[0]}: missing; start from configs/base.py")
    return cls(**{k: _parse_value(hints[k], v, f"{where}.{k}") for k, v in values.items()})


def _parse_value(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise InputError(f"{where}: must hold fields, not {value!r}")
        return _parse_node(typing.cast(type, kind), value, where)
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where}: must be a sequence, not {value!r}")
        item = typing.get_args(kind)[0]
        return tuple(_parse_value(item, v, f"{where}[{i}]") for i, v in enumerate(value))
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise InputError(f"{where}: must be {kind.__name__}, not {value!r}")
    return value


def _check_values(config: Config) -> None:
    """Refuses what would only fail far from its cause."""
    model, data, train, test = config.model, config.data, config.train, config.test
    targets, optimizer = config.targets, config.optimizer

    def require(ok: bool, where: str, what: str) -> None:
        if not ok:
            node, name = where.split(".")
            value = getattr(getattr(config, node), name)
            raise InputError(f"config.{where}: must be {what}, not {value!r}")

    require(model.depth in DEPTHS, "model.depth", f"one of {DEPTHS}")
    require(model.style in ("pytorch", "caffe"), "model.style", "pytorch or caffe")
    require(model.num_stages in (1, 2, 3, 4), "model.num_stages", "1 to 4")
    require(model.frozen_stages in range(-1, 5), "model.frozen_stages", "-1 to 4")
    require(model.stem_channels > 0, "model.stem_channels", "positive")
    require(model.fpn_channels >= 0, "model.fpn_channels", "0 (none) or positive")
    require(model.head_channels > 0, "model.head_channels", "positive")
    require(model.channel_order in ("rgb", "bgr"), "model.channel_order", "rgb or bgr")
    require(len(model.pixel_mean) == 3, "model.pixel_mean", "three numbers")
    require(len(model.pixel_std) == 3 and min(model.pixel_std) > 0, "model.pixel_std", "positive")
    for name in ("anchor_scales", "anchor_ratios"):
        values = getattr(model, name)
        require(bool(values) and min(values) > 0, f"model.{name}", "positive numbers")
    require(data.name in ("coco", "tfds", "shapes"), "data.name", "coco, tfds or shapes")
    sides = data.image_scale
    require(len(sides) == 2 and min(sides) >= 32, "data.image_scale", "(long, short), from 32 up")
    require(sides[0] >= sides[1], "data.image_scale", "(long, short), the long side first")
    require(data.images_per_device > 0, "data.images_per_device", "positive")
    require(data.num_workers >= 0, "data.num_workers", "0 or more")
    require(0 <= data.flip <= 1, "data.flip", "a probability")
    require(targets.num_samples >= 0, "targets.num_samples", "0 (all) or more")
    require(0 <= targets.positive_fraction <= 1, "targets.positive_fraction", "0 to 1")
    require(targets.smooth_l1_beta > 0, "targets.smooth_l1_beta", "positive")
    require(optimizer.name in ("sgd", "adamw"), "optimizer.name", "sgd or adamw")
    require(optimizer.learning_rate > 0, "optimizer.learning_rate", "positive")
    require(optimizer.clip_norm > 0, "optimizer.clip_norm", "positive")
    require(optimizer.warmup_steps >= 0, "optimizer.warmup_steps", "0 or more")
    precisions = ("float32", "bfloat16")
    require(train.precision in precisions, "train.precision", "float32 or bfloat16")
    precisions = ("highest", "tensorfloat32")
    require(train.matmul_precision in precisions, "train.matmul_precision", " or ".join(precisions))
    require(train.num_steps > 0 or train.num_epochs > 0, "train.num_epochs", "positive")
    counts = ("accumulation", "log_every", "eval_every", "checkpoint_every", "keep_checkpoints")
    for name in counts:
        require(getattr(train, name) > 0, f"train.{name}", "positive")
    for name in ("nms_pre", "nms_post", "max_num", "batch_size"):
        require(getattr(test, name) > 0, f"test.{name}", "positive")
    require(0 <= test.nms_threshold <= 1, "test.nms_threshold", "0 to 1")
