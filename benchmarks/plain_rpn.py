"""A region proposal network in plain PyTorch, as most people would write it, to compare with.

ResNet or ResNeXt, FPN, RPN head, anchors, decoding, NMS, matching, losses: no tricks, nothing of
jaxdet's but its settings.  Names are those of published checkpoints, so that the two can hold
the same weights; tests hold their outputs against each other.

Images are [B, 3, H, W] floats, normalised; boxes have inclusive corners.
"""

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from benchmarks.matching import torch_match
from jaxdet.config import Config, ModelConfig, ProposalConfig

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
MAX_LOG_RATIO = abs(math.log(16 / 1000))

Levels = tuple[list[torch.Tensor], list[torch.Tensor]]  # logits [B, N], deltas [B, N, 4]


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1; in the pytorch style the 3x3 strides, in the caffe style the first 1x1."""

    def __init__(self, channels: int, planes: int, stride: int, config: ModelConfig) -> None:
        super().__init__()
        width = planes * config.base_width // 64 * config.groups
        if config.groups == 1:
            width = planes
        first, second = (stride, 1) if config.style == "caffe" else (1, stride)
        out = 4 * planes
        self.conv1 = nn.Conv2d(channels, width, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, second, 1, groups=config.groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or channels != out:
            conv = nn.Conv2d(channels, out, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] to [B, 4 planes, H / stride, W / stride]."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Backbone(nn.Module):
    """The stages' outputs, fine to coarse."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels = config.stem_channels
        self.conv1 = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.stages = config.num_stages
        for i, count in enumerate(BLOCKS[config.depth][: self.stages]):
            planes = config.stem_channels * 2**i
            blocks = []
            for j in range(count):
                stride = 2 if i > 0 and j == 0 else 1
                blocks.append(Bottleneck(channels, planes, stride, config))
                channels = 4 * planes
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """[B, 3, H, W] to one map per stage."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        outputs = []
        for i in range(self.stages):
            x = getattr(self, f"layer{i + 1}")(x)
            outputs.append(x)
        return outputs


class ConvModule(nn.Module):
    """A convolution by the name that checkpoints give it."""

    def __init__(self, channels: int, features: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, features, kernel, padding=kernel // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the convolution."""
        return self.conv(x)


class Pyramid(nn.Module):
    """FPN with one more level."""

    def __init__(self, inputs: list[int], channels: int) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(ConvModule(n, channels, 1) for n in inputs)
        self.fpn_convs = nn.ModuleList(ConvModule(channels, channels, 3) for _ in inputs)

    def forward(self, stages: list[torch.Tensor]) -> list[torch.Tensor]:
        """Stages, fine to coarse, to as many levels and one."""
        sums = [conv(x) for conv, x in zip(self.lateral_convs, stages, strict=True)]
        for i in reversed(range(1, len(sums))):
            sums[i - 1] = sums[i - 1] + functional.interpolate(sums[i], scale_factor=2)
        levels = [conv(x) for conv, x in zip(self.fpn_convs, sums, strict=True)]
        return [*levels, functional.max_pool2d(levels[-1], 1, stride=2)]


class Head(nn.Module):
    """Scores and deltas of every anchor."""

    def __init__(self, inputs: int, channels: int, anchors: int) -> None:
        super().__init__()
        self.rpn_conv = nn.Conv2d(inputs, channels, 3, padding=1)
        self.rpn_cls = nn.Conv2d(channels, anchors, 1)
        self.rpn_reg = nn.Conv2d(channels, 4 * anchors, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A level to [B, N] and [B, N, 4], in the order of the anchors."""
        x = functional.relu(self.rpn_conv(x))
        logits = self.rpn_cls(x).permute(0, 2, 3, 1).flatten(1)
        deltas = self.rpn_reg(x).permute(0, 2, 3, 1).reshape(len(x), -1, 4)
        return logits.float(), deltas.float()


class PlainRPN(nn.Module):
    """The network, with batch norms and early stages frozen as the config says."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        channels = [4 * config.stem_channels * 2**i for i in range(config.num_stages)]
        self.neck = Pyramid(channels, config.fpn_channels) if config.fpn_channels else None
        anchors = len(config.anchor_scales) * len(config.anchor_ratios)
        inputs = config.fpn_channels or channels[-1]
        self.rpn_head = Head(inputs, config.head_channels, anchors)
        self.eval()  # statistics stay as they are, in training too
        frozen = ("conv1", "bn1", *(f"layer{i + 1}" for i in range(config.frozen_stages)))
        for name in frozen if config.frozen_stages >= 0 else ():
            getattr(self.backbone, name).requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d) and not config.train_norm:
                module.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> Levels:
        """Logits and deltas per level."""
        stages = self.backbone(images)
        levels = self.neck(stages) if self.neck else stages[-1:]
        logits, deltas = zip(*(self.rpn_head(x) for x in levels), strict=True)
        return list(logits), list(deltas)


def anchors_of(size: tuple[int, int], config: ModelConfig, device: str) -> list[torch.Tensor]:
    """[N, 4] per level, of a padded image of (height, width)."""
    levels = []
    for stride in config.strides:
        ratios = torch.tensor(config.anchor_ratios, dtype=torch.float32)
        scales = torch.tensor(config.anchor_scales, dtype=torch.float32)
        widths = (stride * scales[None] / ratios.sqrt()[:, None]).flatten()
        heights = (stride * scales[None] * ratios.sqrt()[:, None]).flatten()
        sides = 0.5 * torch.stack([widths - 1, heights - 1], dim=1)
        base = (0.5 * (stride - 1) + torch.cat([-sides, sides], dim=1)).round()
        y, x = (torch.arange(-(-side // stride)) * stride for side in size)
        y, x = torch.meshgrid(y, x, indexing="ij")
        shifts = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
        levels.append((shifts + base).reshape(-1, 4).to(device))
    return levels


def decode(anchors: torch.Tensor, deltas: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """[N, 4] boxes within an image of (height, width)."""
    centres = (anchors[:, :2] + anchors[:, 2:]) * 0.5
    sides = anchors[:, 2:] - anchors[:, :2] + 1
    centres = centres + sides * deltas[:, :2]
    sides = sides * deltas[:, 2:].clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    boxes = torch.cat([centres - sides * 0.5 + 0.5, centres + sides * 0.5 - 0.5], dim=1)
    height, width = size
    boxes[:, 0::2] = boxes[:, 0::2].clamp(0, width - 1)
    boxes[:, 1::2] = boxes[:, 1::2].clamp(0, height - 1)
    return boxes


class Proposer:
    """From levels to the best boxes of each image."""

    def __init__(self, config: ProposalConfig, nms: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.config = config
        self.nms = nms  # of boxes, best first, to positions or a mask

    @torch.inference_mode()
    def __call__(
        self, levels: Levels, anchors: list[torch.Tensor], sizes: list[tuple[int, int]]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Boxes [n, 4] and scores [n] of each image, best first."""
        return [
            self._image([x[i] for x in levels[0]], [x[i] for x in levels[1]], anchors, size)
            for i, size in enumerate(sizes)
        ]

    def _image(
        self, logits: list, deltas: list, anchors: list, size: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        kept_boxes, kept_scores = [], []
        for level, delta, anchor in zip(logits, deltas, anchors, strict=True):
            scores, index = level.sigmoid().topk(min(self.config.nms_pre, len(level)))
            boxes = decode(anchor[index], delta[index], size)
            kept = self.nms(boxes)
            kept_boxes.append(boxes[kept][: self.config.nms_post])
            kept_scores.append(scores[kept][: self.config.nms_post])
        boxes, scores = torch.cat(kept_boxes), torch.cat(kept_scores)
        scores, index = scores.topk(min(self.config.max_num, len(scores)))
        return boxes[index], scores


def targets(
    anchors: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int], config: Config
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sampled positives and negatives (positions) and the positives' deltas, of one image."""
    height, width = size
    inside = (anchors[:, :2] >= 0).all(1) & (anchors[:, 2] < width) & (anchors[:, 3] < height)
    places = inside.nonzero().flatten()
    assigned = torch_match(anchors[places], boxes)
    positive, negative = (assigned > 0).nonzero().flatten(), (assigned == 0).nonzero().flatten()
    if number := config.targets.num_samples:
        most = int(number * config.targets.positive_fraction)
        positive = positive[torch.randperm(len(positive), device=anchors.device)[:most]]
        rest = number - len(positive)
        negative = negative[torch.randperm(len(negative), device=anchors.device)[:rest]]
    found, anchor = boxes[assigned[positive] - 1], anchors[places[positive]]
    sides, anchor_sides = (x[:, 2:] - x[:, :2] + 1 for x in (found, anchor))
    centres, anchor_centres = ((x[:, :2] + x[:, 2:]) * 0.5 for x in (found, anchor))
    shift = (centres - anchor_centres) / anchor_sides
    deltas = torch.cat([shift, (sides / anchor_sides).log()], dim=1)
    return places[positive], places[negative], deltas


def loss(
    levels: Levels,
    anchors: list[torch.Tensor],
    boxes: list[torch.Tensor],
    sizes: list[tuple[int, int]],
    config: Config,
) -> torch.Tensor:
    """Classification and box loss of a batch, summed."""
    logits, deltas = torch.cat(levels[0], dim=1), torch.cat(levels[1], dim=1)
    every = torch.cat(anchors)
    total, count = logits.new_zeros(()), 0
    for i, (found, size) in enumerate(zip(boxes, sizes, strict=True)):
        positive, negative, wanted = targets(every, found, size, config)
        chosen = torch.cat([positive, negative])
        truth = torch.zeros_like(chosen, dtype=torch.float32)
        truth[: len(positive)] = 1
        total = total + functional.binary_cross_entropy_with_logits(
            logits[i, chosen], truth, reduction="sum"
        )
        beta = config.targets.smooth_l1_beta
        total = total + functional.smooth_l1_loss(
            deltas[i, positive], wanted, reduction="sum", beta=beta
        )
        count += max(len(positive), 1) + max(len(negative), 1)
    return total / count
