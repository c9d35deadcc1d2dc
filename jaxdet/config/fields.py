"""Every field of a configuration, with its default, its bounds, and what it is.

The defaults are the zoo's R-50-FPN, pytorch style, 1x.  `--help` shows the comment above or behind
a field; see `help`.
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

    # rpn, faster_rcnn, mask_rcnn, fast_rcnn, fast_mask_rcnn or retinanet
    detector: str = "rpn"
    # what a box is, and how anchors are made: a key of ops.boxes.CONVENTIONS
    convention: str = "mmdet1"
    depth: Literal[18, 34, 50, 101, 152] = 50  # layers of the ResNet
    style: Literal["pytorch", "caffe"] = "pytorch"  # a block's stride: in the 3x3, or the first 1x1
    num_stages: Annotated[int, Meta(ge=1, le=4)] = 4  # of the ResNet; 3 is C4
    stem_channels: Width = 64  # stage i has stem_channels * 2**i planes
    groups: Width = 1  # ResNeXt's cardinality
    base_width: Width = 64  # ResNeXt's channels per group, at 64 planes
    # -1: all trains; 0: the stem is frozen; n: and the first n stages
    frozen_stages: Annotated[int, Meta(ge=-1, le=4)] = 1
    train_norm: bool = True  # train scale and bias of the batch norms that are not frozen
    fpn_channels: Annotated[int, Meta(ge=0, le=16384)] = 256  # of the pyramid; 0: there is none
    fpn_start: Annotated[int, Meta(ge=0, le=3)] = 0  # first stage of the pyramid
    # its coarsest levels: the last one subsampled; or two 3x3 convolutions of stride 2, the first
    # of them on the last stage or on the last level
    fpn_extra: Literal["subsampled", "on_stage", "on_level"] = "subsampled"
    fpn_relu: bool = False  # the second of these sees the first rectified
    head_channels: Annotated[int, Meta(ge=1, le=16384)] = 256  # of the dense head
    head_convs: Annotated[int, Meta(ge=1, le=16)] = 1  # 3x3 convolutions of the dense head
    group_norm: bool = False  # after each of these (RetinaNet)
    class_names: tuple[str, ...] = ()  # what a detector tells apart, in the order of its labels
    # class outputs are the labels in order; or COCO's category ids from 0 to 90 (torchvision's)
    class_outputs: Literal["labels", "coco_ids"] = "labels"
    box_convs: Annotated[int, Meta(ge=0, le=16)] = 0  # 3x3 convolutions of the box head
    box_fcs: Annotated[int, Meta(ge=0, le=16)] = 2  # its fully connected layers; 0: C4's mean
    box_channels: Width = 1024  # of the box head's fully connected layers
    mask_convs: Annotated[int, Meta(ge=0, le=16)] = 4  # 3x3 convolutions of the mask head
    mask_channels: Width = 256  # of the mask head
    # anchor side = scale * stride
    anchor_scales: tuple[Annotated[float, Meta(ge=0.01, le=1024)], ...] = (8.0,)
    # height / width
    anchor_ratios: tuple[Annotated[float, Meta(ge=0.01, le=100)], ...] = (0.5, 1.0, 2.0)
    channel_order: Literal["rgb", "bgr"] = "rgb"  # of the network's input
    # taken off each channel, in channel_order
    pixel_mean: tuple[Annotated[float, Meta(ge=-1e6, le=1e6)], ...] = (123.675, 116.28, 103.53)
    # what each is divided by then
    pixel_std: tuple[Annotated[float, Meta(ge=1e-3, le=1e6)], ...] = (58.395, 57.12, 57.375)
    # whose way fresh kernels begin: a key of models.layers.INITS
    init: Literal["mmdet", "detectron2", "torchvision"] = "mmdet"
    pretrained: str = ""  # a backbone: any file that has one, torchvision:// or open-mmlab://NAME

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

    # COCO's files, those of TensorFlow Datasets, or the embedded drawings
    name: Literal["coco", "tfds", "shapes"] = "coco"
    # folder with annotations/, train2017/ and val2017/, or Roboflow's train/ and valid/
    root: str = ""
    # a COCO file elsewhere, as it is or in root; none: root's
    train_annotations: str = ""
    # a folder likewise; none: root's, or the file's own where root has none
    train_images: str = ""
    val_annotations: str = ""  # as of training
    val_images: str = ""  # as of training
    # bounds of the long and the short side
    image_scale: tuple[Annotated[int, Meta(ge=32, le=8192)], ...] = (1333, 800)
    # in training, each image draws its bound of the short side from these; none: as image_scale
    train_short_sides: tuple[Annotated[int, Meta(ge=32, le=8192)], ...] = ()
    # and of the long side, one for each of those; none: as image_scale
    train_long_sides: tuple[Annotated[int, Meta(ge=32, le=8192)], ...] = ()
    # one of those pairs; or any whole numbers from the smallest to the largest of each
    multiscale_mode: Literal["value", "range"] = "value"
    # how sides are rounded and pixels computed: mmdet's OpenCV, detectron2's Pillow, or
    # torchvision's, on float32
    resize: Literal["opencv", "pillow", "float"] = "opencv"
    # boxes grow by the nominal factor, or by the ratio of the rounded sides
    box_scale: Literal["nominal", "actual"] = "nominal"
    # the network sees an image zero-padded to multiples of so many pixels
    pad_multiple: Literal[1, 32] = 32
    images_per_device: Width = 2  # images that go through the network together
    # loader processes; 0 loads in threads of this one
    num_workers: Annotated[int, Meta(ge=0, le=1024)] = 2
    keep_empty: bool = False  # train on images without boxes
    flip: Share = 0.5  # probability of a horizontal mirror image in training
    # a function of your own that changes training images: MODULE:FUNCTION or FILE.py:FUNCTION; a
    # config file may set the function itself; see docs/training.md
    augment: str = ""

    @property
    def pixel_dtype(self) -> str:
        """Returns the type of a resized image's pixels."""
        return "float32" if self.resize == "float" else "uint8"


@dataclass(frozen=True)
class TargetConfig:
    """Which anchors are positive, negative and sampled."""

    positive_iou: Annotated[float, Meta(ge=1e-6, le=1)] = 0.7  # anchors from here on are positive
    negative_iou: Share = 0.3  # and below this negative
    min_positive_iou: Share = 0.3  # a box's best anchors are positive from here on
    low_quality_takes: bool = True  # these become that box, not their own best
    inside_only: bool = True  # anchors that leave the image take no part
    num_samples: CountOrZero = 256  # anchors per image in the loss; 0 takes all
    positive_fraction: Share = 0.5  # of the samples, at most
    # where the box loss turns from a square into a line; 0: L1
    smooth_l1_beta: Annotated[float, Meta(ge=0, le=1e6)] = 1.0 / 9.0
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

    # sgd as PyTorch does it, the reference's; or adamw, for training from scratch
    name: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Annotated[float, Meta(ge=1e-30, le=1e6)] = 0.02  # for a global batch of 16
    scale_lr: bool = True  # learning rate follows the global batch, linearly
    momentum: Share = 0.9  # of sgd
    # as L2 on the gradient (sgd), or apart from it (adamw)
    weight_decay: Annotated[float, Meta(ge=0, le=1e6)] = 1e-4
    clip_norm: Annotated[float, Meta(ge=0, le=1e9)] = 35.0  # of the gradient; 0: none
    warmup_steps: StepsOrZero = 500  # in which the learning rate rises, linearly
    warmup_ratio: Share = 1.0 / 3.0  # of the learning rate, at the first step
    # epochs that begin with a decay
    decay_epochs: tuple[Annotated[float, Meta(ge=0, le=1_000_000)], ...] = (8.0, 11.0)
    decay_factor: Share = 0.1  # of the learning rate, at each decay


@dataclass(frozen=True)
class TrainConfig:
    """The run."""

    num_epochs: CountOrZero = 12  # times that training sees every image
    num_steps: StepsOrZero = 0  # overrides num_epochs when > 0
    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0  # of all that is random
    # with --checkpoint: heads that do not fit it (other classes, other anchors) begin anew
    fresh_heads: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"  # of activations
    # of float32 products; tensorfloat32 acts on a GPU
    matmul_precision: Literal["highest", "tensorfloat32"] = "highest"
    accumulation: Width = 1  # groups of images_per_device in a step, one after another
    remat: bool = False  # recompute each block's activations in the backward pass
    log_every: Steps = 50  # steps between lines
    eval_every: Steps = 1  # epochs between evaluations; the last step is always evaluated
    checkpoint_every: Steps = 1000  # steps between checkpoints; each epoch's end has one, too
    keep_checkpoints: Count = 3  # the newest so many stay


@dataclass(frozen=True)
class ProposalConfig:
    """From scores to proposals, whenever no training step runs."""

    nms_pre: Count = 2000  # best anchors kept per level
    nms_post: Count = 2000  # boxes kept per level
    max_num: Count = 2000  # boxes kept per image
    nms_threshold: Share = 0.7  # boxes that overlap a better one by more go
    min_box_size: Annotated[float, Meta(ge=0, le=8192)] = 0.0  # sides are above; resized pixels
    level_shift: bool = False  # levels are moved apart for NMS, as batched NMS does
    batch_size: Width = 1  # images per device, in evaluation


@dataclass(frozen=True)
class RoIConfig:
    """The second stage: how it reads features, and the boxes that it is trained on."""

    aligned: bool = False  # half a pixel is taken off RoIAlign's coordinates
    points: Annotated[int, Meta(ge=0, le=16)] = 2  # per bin and axis; 0: as many as cells
    min_side: Annotated[float, Meta(ge=0, le=16)] = 0.0  # cells that a RoI spans at least
    # whose way to choose a RoI's level of the pyramid
    level_rule: Literal["mmdet", "detectron2", "torchvision"] = "mmdet"
    nms_pre: Count = 2000  # of training: best anchors kept per level
    nms_post: Count = 2000  # boxes kept per level
    max_num: Count = 2000  # boxes kept per image
    max_given: Count = 1000  # of an image in a file of proposals (Fast R-CNN)
    positive_iou: Annotated[float, Meta(ge=1e-6, le=1)] = 0.5  # from here on; others are negative
    low_quality: bool = True  # a box's best proposals, if positive, become that box
    # ground truth is matched like a proposal, or joins them afterwards as its own
    match_truth: bool = False
    num_samples: Count = 512  # RoIs per image in the loss
    positive_fraction: Share = 0.25  # of the samples, at most
    # where the box loss turns from a square into a line; 0: L1
    smooth_l1_beta: Annotated[float, Meta(ge=0, le=1e6)] = 1.0
    # a mask's target: its box cut out and resized as OpenCV does; or RoIAlign of the bitmap, from
    # 0.5 on or as it is
    mask_target: Literal["crop", "binary", "soft"] = "crop"


@dataclass(frozen=True)
class DetectionConfig:
    """From class scores to detections."""

    score_threshold: Share = 0.05  # scores are above
    # RetinaNet: of a level, the best (anchor, class) pairs, or all classes of the best anchors
    nms_pre: Count = 1000
    pairs: bool = False  # nms_pre counts pairs
    clip_first: bool = True  # RetinaNet: boxes are clipped to the image before NMS
    nms_threshold: Share = 0.5  # boxes that overlap a better one of their class by more go
    nms_pixels: Literal["original", "resized"] = "original"  # that NMS measures in
    # for NMS, boxes of different classes are moved apart, as batched NMS does; or where there are
    # at most 1000 candidates
    class_shift: Literal["never", "always", "few"] = "never"
    min_box_size: Annotated[float, Meta(ge=0, le=8192)] = 0.0  # sides are at least; resized pixels
    max_num: Count = 100  # detections kept per image
    drop_empty: bool = False  # clip to the original image, and leave out what has no area
    # masks are pasted into whole pixels (2018), by the centres of pixels, or with a border
    mask_paste: Literal["whole", "centres", "border"] = "whole"


@dataclass(frozen=True)
class Config:
    """Everything a run depends on."""

    name: str = "rpn_r50_fpn_1x"  # of the config, and of its work directory
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    targets: TargetConfig = field(default_factory=TargetConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    proposals: ProposalConfig = field(default_factory=ProposalConfig)
    rois: RoIConfig = field(default_factory=RoIConfig)
    detections: DetectionConfig = field(default_factory=DetectionConfig)
