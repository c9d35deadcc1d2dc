"""The configuration: every field with its default and its bounds.

The defaults are the zoo's R-50-FPN, pytorch style, 1x.  Config files change some of them
(`configs/base.py`), the command line changes more (`--config.data.root=/data/coco`), and
`parse` turns the result into the frozen dataclasses that the rest of the code takes.
"""

import dataclasses
import difflib
import importlib.util
import re
import reprlib
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import ml_collections
import msgspec
from msgspec import Meta

from jaxdet.errors import InputError
from jaxdet.ops.boxes import CONVENTIONS

FOLDER = Path(__file__).parent / "configs"

# What is further out than a field's bounds is taken for a typing error: it would overflow, or
# fill the memory.
Width = Annotated[int, Meta(ge=1, le=4096)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
CountOrZero = Annotated[int, Meta(ge=0, le=1_000_000)]
Steps = Annotated[int, Meta(ge=1, le=2**31 - 1)]
StepsOrZero = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Share = Annotated[float, Meta(ge=0, le=1)]


@dataclass(frozen=True)
class ModelConfig:
    """The network.  Lengths are in pixels of the resized image."""

    detector: str = "rpn"
    # what a box is, and how anchors are made: a key of ops.boxes.CONVENTIONS
    convention: str = "mmdet1"
    depth: Literal[18, 34, 50, 101, 152] = 50
    style: Literal["pytorch", "caffe"] = "pytorch"  # a block's stride: in the 3x3, or the first 1x1
    num_stages: Annotated[int, Meta(ge=1, le=4)] = 4  # 3 is C4
    stem_channels: Width = 64  # stage i has stem_channels * 2**i planes
    groups: Width = 1  # ResNeXt's cardinality
    base_width: Width = 64  # ResNeXt's channels per group, at 64 planes
    # -1: all trains; 0: the stem is frozen; n: and the first n stages
    frozen_stages: Annotated[int, Meta(ge=-1, le=4)] = 1
    train_norm: bool = True  # train scale and bias of the batch norms that are not frozen
    fpn_channels: Annotated[int, Meta(ge=0, le=16384)] = 256  # 0: no pyramid
    head_channels: Annotated[int, Meta(ge=1, le=16384)] = 256
    head_convs: Annotated[int, Meta(ge=1, le=16)] = 1  # 3x3 convolutions of the head
    # anchor side = scale * stride
    anchor_scales: tuple[Annotated[float, Meta(ge=0.01, le=1024)], ...] = (8.0,)
    # height / width
    anchor_ratios: tuple[Annotated[float, Meta(ge=0.01, le=100)], ...] = (0.5, 1.0, 2.0)
    channel_order: Literal["rgb", "bgr"] = "rgb"  # of the network's input
    # both in channel_order
    pixel_mean: tuple[Annotated[float, Meta(ge=-1e6, le=1e6)], ...] = (123.675, 116.28, 103.53)
    pixel_std: tuple[Annotated[float, Meta(ge=1e-3, le=1e6)], ...] = (58.395, 57.12, 57.375)
    pretrained: str = ""  # a backbone: a file, torchvision://NAME or open-mmlab://NAME

    @property
    def strides(self) -> tuple[int, ...]:
        """Returns pixels per cell of each output level."""
        last = 2 ** (self.num_stages + 1)
        if not self.fpn_channels:
            return (last,)
        return (*(2 ** (i + 2) for i in range(self.num_stages)), 2 * last)


@dataclass(frozen=True)
class DataConfig:
    """Where images come from and how large they become."""

    name: Literal["coco", "tfds", "shapes"] = "coco"
    root: str = ""  # folder with annotations/, train2017/ and val2017/
    # bounds of the long and the short side
    image_scale: tuple[Annotated[int, Meta(ge=32, le=8192)], ...] = (1333, 800)
    # in training, each image's bound of the short side is one of these; none: as image_scale
    train_short_sides: tuple[Annotated[int, Meta(ge=32, le=8192)], ...] = ()
    # how sides are rounded and pixels computed: mmdet's OpenCV, detectron2's Pillow, or
    # torchvision's, on float32
    resize: Literal["opencv", "pillow", "float"] = "opencv"
    # boxes grow by the nominal factor, or by the ratio of the rounded sides
    box_scale: Literal["nominal", "actual"] = "nominal"
    # the network sees an image zero-padded to multiples of so many pixels
    pad_multiple: Literal[1, 32] = 32
    images_per_device: Width = 2  # that go through the network together
    # loader processes; 0 loads in threads of this one
    num_workers: Annotated[int, Meta(ge=0, le=1024)] = 2
    keep_empty: bool = False  # train on images without boxes
    flip: Share = 0.5  # probability of a horizontal mirror image in training

    @property
    def pixel_dtype(self) -> str:
        """Returns the type of a resized image's pixels."""
        return "float32" if self.resize == "float" else "uint8"


@dataclass(frozen=True)
class TargetConfig:
    """Which anchors are positive, negative and sampled."""

    positive_iou: Annotated[float, Meta(ge=1e-6, le=1)] = 0.7
    negative_iou: Share = 0.3
    min_positive_iou: Share = 0.3  # a box's best anchors are positive from here on
    low_quality_takes: bool = True  # they become that box, not their own best one
    inside_only: bool = True  # anchors that leave the image take no part
    num_samples: CountOrZero = 256  # anchors per image in the loss; 0 takes all
    positive_fraction: Share = 0.5
    smooth_l1_beta: Annotated[float, Meta(ge=0, le=1e6)] = 1.0 / 9.0  # 0: L1
    # what losses are divided by: the anchors sampled of all images, where each image counts at
    # least one positive and one negative; or as they are; or num_samples of every image
    loss_count: Literal["at_least_one", "sampled", "quota"] = "at_least_one"


@dataclass(frozen=True)
class OptimizerConfig:
    """How a gradient becomes a step."""

    # as PyTorch does it, the reference's; or adamw, for training from scratch
    name: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Annotated[float, Meta(ge=1e-30, le=1e6)] = 0.02  # for a global batch of 16
    scale_lr: bool = True  # learning rate follows the global batch, linearly
    momentum: Share = 0.9  # of sgd
    weight_decay: Annotated[float, Meta(ge=0, le=1e6)] = 1e-4
    clip_norm: Annotated[float, Meta(ge=0, le=1e9)] = 35.0  # of the gradient; 0: none
    warmup_steps: StepsOrZero = 500
    warmup_ratio: Share = 1.0 / 3.0
    # epochs that begin with a decay
    decay_epochs: tuple[Annotated[float, Meta(ge=0, le=1_000_000)], ...] = (8.0, 11.0)
    decay_factor: Share = 0.1


@dataclass(frozen=True)
class TrainConfig:
    """The run."""

    num_epochs: CountOrZero = 12
    num_steps: StepsOrZero = 0  # overrides num_epochs when > 0
    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0
    precision: Literal["float32", "bfloat16"] = "float32"  # of activations
    # of float32 products; tensorfloat32 acts on a GPU
    matmul_precision: Literal["highest", "tensorfloat32"] = "highest"
    accumulation: Width = 1  # such groups of images in a step, one after another on a device
    remat: bool = False  # recompute each block's activations in the backward pass
    log_every: Steps = 50  # steps
    eval_every: Steps = 1  # epochs between evaluations; the last step is always evaluated
    checkpoint_every: Steps = 1000  # steps
    keep_checkpoints: Count = 3


@dataclass(frozen=True)
class ProposalConfig:
    """From scores to proposals, whenever no training step runs."""

    nms_pre: Count = 2000  # best anchors kept per level
    nms_post: Count = 2000  # boxes kept per level
    max_num: Count = 2000  # boxes kept per image
    nms_threshold: Share = 0.7
    min_box_size: Annotated[float, Meta(ge=0, le=8192)] = 0.0  # sides are above; resized pixels
    level_shift: bool = False  # levels are moved apart for NMS, as batched NMS does
    batch_size: Width = 1  # images per device


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
    """Returns a mutable copy for config files and the command line."""
    return ml_collections.ConfigDict(dataclasses.asdict(config))


def load_file(name: str | Path) -> ml_collections.ConfigDict:
    """Runs `get_config()` of a config file.

    Args:
        name: the file, or the name of a config that jaxdet has, such as `rpn_r50_fpn_1x`.

    Raises:
        InputError: there is no such config, or the file is not one.
    """
    path = Path(name)
    if not path.is_file():
        named = FOLDER / f"{name}.py"
        if path.name != str(name) or not named.is_file():
            raise InputError(f"{name}: no such config; give a file or the name of one in {FOLDER}")
        path = named
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


def parse(config: Any) -> Config:
    """Checks every field of a ConfigDict and returns the frozen form.

    Raises:
        InputError: a field is unknown, missing, of the wrong type or out of range.
    """
    if isinstance(config, Config):
        return config
    if not isinstance(config, ml_collections.ConfigDict):
        raise InputError(f"config: must be a ConfigDict, not {type(config).__name__}")
    try:
        values = config.to_dict()
        given = _flat(values)
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
    known = _flat(dataclasses.asdict(parsed))
    for name in (name for name in given if name not in known):
        near = difflib.get_close_matches(name, known, 3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise InputError(f"config.{name}: no such field{hint}")
    if missing := known.keys() - given.keys():
        raise InputError(f"config.{min(missing)}: missing; start from configs/base.py")
    _check_together(parsed)
    return parsed


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """Returns fields by names like `data.root`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        inner = _flat(value) if isinstance(value, dict) else {"": value}
        flat |= {f"{name}.{key}".rstrip("."): x for key, x in inner.items()}
    return flat


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
    ordered = config.targets.negative_iou <= config.targets.positive_iou
    rules = [
        ("name", is_name, "the name of a folder"),
        ("model.convention", model.convention in CONVENTIONS, f"one of {', '.join(CONVENTIONS)}"),
        ("data.train_short_sides", shorts, "at most the short side of image_scale"),
        ("model.pixel_mean", len(model.pixel_mean) == 3, "three numbers"),
        ("model.pixel_std", len(model.pixel_std) == 3, "three numbers"),
        ("model.anchor_scales", len(model.anchor_scales) > 0, "one number or more"),
        ("model.anchor_ratios", len(model.anchor_ratios) > 0, "one number or more"),
        ("model.anchor_scales", smallest >= stretch, "so large that anchors have a pixel's side"),
        ("model.base_width", wide, "64 / model.stem_channels or more"),
        ("data.image_scale", is_scale, "(long side, short side)"),
        ("targets.negative_iou", ordered, "at most positive_iou"),
        ("train.num_epochs", config.train.num_epochs + config.train.num_steps > 0, "positive"),
    ]
    fields = _flat(dataclasses.asdict(config))
    # Text may become a file's name.
    rules += [(k, v.isprintable(), "printable text") for k, v in fields.items() if type(v) is str]
    for name, ok, what in rules:
        if not ok:
            raise InputError(f"config.{name}: must be {what}, not {reprlib.repr(fields[name])}")
