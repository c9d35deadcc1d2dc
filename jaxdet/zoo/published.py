"""What has been published: the zoos' rows, their files, and the backbones they began with.

The one source of these figures, for the table, the download and the tests.
"""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Replacing the first prefix by the second gives the mirror's address.
ZOO_SITES = (
    "https://s3.ap-northeast-2.amazonaws.com/open-mmlab",
    "https://open-mmlab.oss-cn-beijing.aliyuncs.com",
)
OPENMMLAB = "https://download.openmmlab.com"
TORCHVISION_SITES = ("https://download.pytorch.org/models",)
DETECTRON2_SITE = "https://dl.fbaipublicfiles.com/detectron2"

# Percentage points by which a measured figure may be off the published one.
TOLERANCE = 0.1


@dataclass(frozen=True)
class Row:
    """A trained model.  Figures: 8 V100s, 16 images per step, COCO 2017; None: not published."""

    config: str  # configs/<config>.py
    name: str  # what follows zoo://; the config's where it is empty
    file: str | None  # the hex digits at its end begin its SHA-256, or a .pkl's MD5
    sites: tuple[str, ...]
    memory: float | None  # GB, the largest device's
    train_time: float | None  # seconds per step
    fps: float | None  # images per second, loading and post-processing included
    ar1000: float | None  # percent
    box_ap: float | None  # percent, of a detector
    mask_ap: float | None

    @property
    def system(self) -> str:
        """Returns who published it, such as `detectron2`; nothing for the 2018 toolbox."""
        return self.name.rpartition("/")[0]

    @property
    def backbone(self) -> str:
        """Returns the network, such as `X-101-32x4d-FPN`, as the config's name has it."""
        kind, depth, groups, neck = _NETWORK.search(self.config).groups()  # type: ignore[union-attr]
        return f"{kind.upper()}-{depth}{groups.replace('_', '-')}-{neck.upper()}"

    @property
    def detector(self) -> str:
        """Returns what it detects with, such as `Mask R-CNN`."""
        return next(name for start, name in _DETECTORS.items() if start in self.config)

    @property
    def figures(self) -> dict[str, float | None]:
        """Returns what was published of its quality, in percent, by `measure.measure`'s names."""
        if self.detector == "RPN":
            return {"AR1000_fast" if self.system else "AR1000": self.ar1000}
        return {"box_AP": self.box_ap, "mask_AP": self.mask_ap}

    @property
    def style(self) -> str:
        """Returns where a block's stride is: as in Caffe or as in PyTorch."""
        caffe = "_caffe_" in self.config or self.config.startswith("detectron2")
        return "caffe" if caffe and "_x101" not in self.config else "pytorch"

    @property
    def schedule(self) -> str:
        """Returns `1x` (12 epochs), `2x` (24), `3x` (37), or `-`."""
        found = re.search(r"_(\dx)(_|$)", self.name or self.config)
        return found[1] if found else "-"

    @property
    def zoo_name(self) -> str:
        """Returns what `fetch` takes."""
        return f"zoo://{self.name or self.config}"

    @property
    def urls(self) -> list[str]:
        """Returns the file's addresses, the main site's first; none where it was not published."""
        return [f"{site}/{self.file}" for site in self.sites if self.file]

    def difference(self, measured: Mapping[str, Any]) -> dict[str, float]:
        """Returns by how many points measured figures are off, where it is more than `TOLERANCE`.

        What was not published, or not measured, differs from nothing.
        """
        known = {k: x for k, x in self.figures.items() if x is not None}
        off = {k: measured[k] - x for k, x in known.items() if measured[k] is not None}
        # 1e-9, as neither 57.1 nor 57.2 is a binary fraction.
        return {k: x for k, x in off.items() if abs(x) > TOLERANCE + 1e-9}


_NETWORK = re.compile(r"_([rx])(\d+)((?:_\d+x\d+d)?)(?:_caffe)?_(fpn|c4)")
_DETECTORS = {
    "rpn": "RPN",
    "fast_rcnn": "Fast R-CNN",
    "fast_mask_rcnn": "Fast R-CNN with masks",
    "faster_rcnn": "Faster R-CNN",
    "mask_rcnn": "Mask R-CNN",
    "retinanet": "RetinaNet",
}


def _row(line: dict[str, str]) -> Row:
    """Returns the row of a line of `published.csv`, whose files lie where their names say."""
    columns = "memory", "train_time", "fps", "ar1000", "box_ap", "mask_ap"
    figures = {x: float(line[x]) if line[x] else None for x in columns}
    system, _, name = line["name"].partition("/")
    number, _, file = line["file"].rpartition("/")
    family = re.split(r"_[rx]\d", name)[0]
    task = "COCO-InstanceSegmentation" if "mask" in name else "COCO-Detection"
    sites = {
        "": tuple(f"{site}/mmdetection/models" for site in ZOO_SITES),
        "mmdet2": (f"{OPENMMLAB}/mmdetection/v2.0/{family}/{name}",),
        "detectron2": (f"{DETECTRON2_SITE}/{task}/{name}/{number}",),
        "torchvision": TORCHVISION_SITES,
    }
    return Row(line["config"], line["name"], file or None, sites[system], **figures)


# detectron2's images per second are one over the published 0.034 and 0.032 s; its detectors and
# torchvision's hold an RPN, too, and stand once more as such.
with Path(__file__).with_name("published.csv").open(newline="") as _file:
    PUBLISHED = tuple(map(_row, csv.DictReader(_file)))
DETECTORS = tuple(row for row in PUBLISHED if row.detector != "RPN")
ROWS, MMDET2, DETECTRON2, TORCHVISION = (
    tuple(row for row in PUBLISHED if row.detector == "RPN" and row.system == system)
    for system in ("", "mmdet2", "detectron2", "torchvision")
)
# Whatever the files say of themselves: some of mmdet 2 were trained before its release.
_VERSIONS = {"": "0.6", "mmdet2": "2.0"}
MMDET_VERSIONS = {row.file: _VERSIONS[row.system] for row in PUBLISHED if row.system in _VERSIONS}

_THIRD_PARTY = tuple(f"{site}/pretrain/third_party" for site in (OPENMMLAB, *ZOO_SITES))
_MSRA = (f"{DETECTRON2_SITE}/ImageNetPretrained/MSRA",)
_FAIR = (f"{DETECTRON2_SITE}/ImageNetPretrained/FAIR",)
# ImageNet backbones by name: the sites that have them, and their file there.  Torchvision's
# are the weights of 2016, which it uploaded again in the zip format (pytorch/vision issue 2068).
# No hash of Detectron's `R-*.pkl` was published.
# fmt: off
PRETRAINED = {
    "torchvision://resnet18": (TORCHVISION_SITES, "resnet18-f37072fd.pth"),
    "torchvision://resnet34": (TORCHVISION_SITES, "resnet34-b627a593.pth"),
    "torchvision://resnet50": (TORCHVISION_SITES, "resnet50-0676ba61.pth"),
    "torchvision://resnet101": (TORCHVISION_SITES, "resnet101-63fe2227.pth"),
    "torchvision://resnet152": (TORCHVISION_SITES, "resnet152-394f9c45.pth"),
    "open-mmlab://resnet50_caffe": (_THIRD_PARTY, "resnet50_caffe-788b5fa3.pth"),
    "open-mmlab://resnet101_caffe": (_THIRD_PARTY, "resnet101_caffe-3ad79236.pth"),
    "open-mmlab://resnext101_32x4d": (_THIRD_PARTY, "resnext101_32x4d-a5af3160.pth"),
    "open-mmlab://resnext101_64x4d": (_THIRD_PARTY, "resnext101_64x4d-ee2c6f71.pth"),
    "open-mmlab://detectron2/resnet50_caffe": (_THIRD_PARTY[:1], "resnet50_msra-5891d200.pth"),
    "open-mmlab://detectron2/resnet101_caffe": (_THIRD_PARTY[:1], "resnet101_msra-6cc46731.pth"),
    "detectron2://R-50": (_MSRA, "R-50.pkl"),
    "detectron2://R-101": (_MSRA, "R-101.pkl"),
    "detectron2://X-101-32x8d": (_FAIR, "X-101-32x8d.pkl"),
}
# fmt: on
