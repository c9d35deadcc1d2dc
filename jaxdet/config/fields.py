"""Every field of a configuration, with its default and its bounds.

The defaults are the zoo's R-50-FPN, pytorch style, 1x.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta

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
    fpn_start: Annotated[int, Meta(ge=0, le=3)] = 0  # first stage of the pyramid
    # its coarsest levels: the last one subsampled; or two 3x3 convolutions of stride 2, the first
    # of them on the last stage or on the last level
    fpn_extra: Literal["subsampled", "on_stage", "on_level"] = "subsampled"
    fpn_relu: bool = False  # the second of those sees the first rectified
    head_channels: Annotated[int, Meta(ge=1, le=16384)] = 256
    head_convs: Annotated[int, Meta(ge=1, le=16)] = 1  # 3x3 convolutions of the dense head
    group_norm: bool = False  # after each of them (RetinaNet)
    class_names: tuple[str, ...] = ()  # what a detector tells apart, in the order of its labels
    # class outputs are the labels in order; or COCO's category ids from 0 to 90 (torchvision's)
    class_outputs: Literal["labels", "coco_ids"] = "labels"
    box_convs: Annotated[int, Meta(ge=0, le=16)] = 0  # 3x3 convolutions of the box head
    box_fcs: Annotated[int, Meta(ge=0, le=16)] = 2  # its fully connected layers; 0 is C4's mean
    box_channels: Width = 1024  # of those layers
    mask_convs: Annotated[int, Meta(ge=0, le=16)] = 4  # 3x3 convolutions of the mask head
    mask_channels: Width = 256
    # anchor side = scale * stride
    anchor_scales: tuple[Annotated[float, Meta(ge=0.01, le=1024)], ...] = (8.0,)
    # height / width
    anchor_ratios: tuple[Annotated[float, Meta(ge=0.01, le=100)], ...] = (0.5, 1.0, 2.0)
    channel_order: Literal["rgb", "bgr"] = "rgb"  # of the network's input
    # both in channel_order
    pixel_mean: tuple[Annotated[float, Meta(ge=-1e6, le=1e6)], ...] = (123.675, 116.28, 103.53)
    pixel_std: tuple[Annotated[float, Meta(ge=1e-3, le=1e6)], ...] = (58.395, 57.12, 57.375)
    init: Literal["mmdet", "detectron2", "torchvision"] = "mmdet"  # whose way; models.layers.INITS
    pretrained: str = ""  # a backbone: a file, torchvision://NAME or open-mmlab://NAME

    @property
    def strides(self) -> tuple[int, ...]:
        """Returns pixels per cell of each output level."""
        last = 2 ** (self.num_stages + 1)
        if not self.fpn_channels:
            return (last,)
        extra = (2 * last,) if self.fpn_extra == "subsampled" else (2 * last, 4 * last)
        return (*(2 ** (i + 2) for i in range(self.fpn_start, self.num_stages)), *extra)

    @property
    def takes_proposals(self) -> bool:
        """Returns whether a file gives the boxes that it classifies (Fast R-CNN)."""
        return self.detector.startswith("fast_")


@dataclass(frozen=True)
class DataConfig:
    """Where images come from and how large they become."""

    name: Literal["coco", "tfds", "shapes"] = "coco"
    # folder with annotations/, train2017/ and val2017/, or Roboflow's train/ and valid/
    root: str = ""
    # COCO files and folders of images elsewhere, as they are or in root; none: root's, and of
    # images the file's own folder where root has none
    train_annotations: str = ""
    train_images: str = ""
    val_annotations: str = ""
    val_images: str = ""
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
    box_loss: Literal["smooth_l1", "giou"] = "smooth_l1"  # giou: of decoded boxes (RetinaNet)
    # what losses are divided by: the anchors sampled of all images, where each image counts at
    # least one positive and one negative; or as they are; or num_samples of every image.
    # RetinaNet's: the positives of all images, each at least one; each image by its own, then the
    # mean of images; or a tenth of the positives and 90 (where detectron2's average begins)
    loss_count: Literal["at_least_one", "sampled", "quota", "positives", "per_image", "average"] = (
        "at_least_one"
    )


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
class RoIConfig:
    """The second stage: how it reads features, and the boxes that it is trained on."""

    # RoIAlign; see ops.roi_align.RoIAlign
    aligned: bool = False  # half a pixel is taken off coordinates
    points: Annotated[int, Meta(ge=0, le=16)] = 2  # per bin and axis; 0: as many as cells
    min_side: Annotated[float, Meta(ge=0, le=16)] = 0.0  # cells that a RoI spans at least
    level_rule: Literal["mmdet", "detectron2", "torchvision"] = "mmdet"
    # proposals in training; those of inference are config.proposals
    nms_pre: Count = 2000
    nms_post: Count = 2000
    max_num: Count = 2000
    max_given: Count = 1000  # of an image in a file of proposals (Fast R-CNN)
    positive_iou: Annotated[float, Meta(ge=1e-6, le=1)] = 0.5  # others are negative
    low_quality: bool = True  # a box's best proposals, if positive, become that box
    # ground truth is matched like a proposal, or joins them afterwards as its own
    match_truth: bool = False
    num_samples: Count = 512  # RoIs per image in the loss
    positive_fraction: Share = 0.25
    smooth_l1_beta: Annotated[float, Meta(ge=0, le=1e6)] = 1.0  # 0: L1
    # a mask's target: its box cut out and resized as OpenCV does; or RoIAlign of the bitmap, from
    # 0.5 on or as it is
    mask_target: Literal["crop", "binary", "soft"] = "crop"


@dataclass(frozen=True)
class DetectionConfig:
    """From class scores to detections."""

    score_threshold: Share = 0.05  # scores are above
    # RetinaNet: of a level, the best (anchor, class) pairs, or all classes of the best anchors
    nms_pre: Count = 1000
    pairs: bool = False
    clip_first: bool = True  # RetinaNet: boxes are clipped to the image before NMS
    nms_threshold: Share = 0.5
    nms_pixels: Literal["original", "resized"] = "original"  # which NMS measures
    # for NMS, boxes of different classes are moved apart, as batched NMS does; or where there are
    # at most 1000 candidates
    class_shift: Literal["never", "always", "few"] = "never"
    min_box_size: Annotated[float, Meta(ge=0, le=8192)] = 0.0  # sides are at least; resized pixels
    max_num: Count = 100  # per image
    drop_empty: bool = False  # clip to the original image, and leave out what has no area
    # masks are pasted into whole pixels (2018), by the centres of pixels, or with a border
    mask_paste: Literal["whole", "centres", "border"] = "whole"


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
    rois: RoIConfig = field(default_factory=RoIConfig)
    detections: DetectionConfig = field(default_factory=DetectionConfig)
