"""What has been published: the zoos' rows, their files, and the backbones they began with.

The one source of these figures, for the table, the download and the tests.
"""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
    memory: float | None  # GB, the largest device's
    train_time: float | None  # seconds per step
    fps: float | None  # images per second, loading and post-processing included
    ar1000: float | None  # percent
    file: str | None  # the hex digits at its end begin its SHA-256, or a .pkl's MD5
    sites: tuple[str, ...] = tuple(f"{site}/mmdetection/models" for site in ZOO_SITES)
    name: str = ""  # what follows zoo://; the config's where it is empty
    recall: str = "AR1000_fast"  # which of `measure.measure`'s figures `ar1000` is
    box_ap: float | None = None  # percent, of a detector
    mask_ap: float | None = None

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
            return {self.recall: self.ar1000}
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


# fmt: off
def _mmdet2(name: str, memory: float | None, fps: float | None, ar1000: float, end: str) -> Row:
    sites = (f"{OPENMMLAB}/mmdetection/v2.0/rpn/{name}_coco",)
    file = f"{name}_coco_{end}.pth"
    return Row(f"mmdet2_{name}", memory, None, fps, ar1000, file, sites, f"mmdet2/{name}_coco")


def _detectron2(name: str, memory: float | None, train_time: float | None, fps: float | None,
                ar1000: float | None, number: str, digits: str) -> Row:
    config = f"detectron2_rpn_r50_{'c4' if '_C4_' in name else 'fpn'}_1x"
    sites = (f"{DETECTRON2_SITE}/COCO-Detection/{name}/{number}",)
    return Row(config, memory, train_time, fps, ar1000, f"model_final_{digits}.pkl", sites,
               f"detectron2/{name}")


def _torchvision(name: str, digits: str) -> Row:
    config = "torchvision_rpn_r50_fpn" + "_v2" * name.endswith("_v2")
    file = f"{name}_coco-{digits}.pth"
    return Row(config, *_NONE, file, TORCHVISION_SITES, f"torchvision/{name}")


_NONE = (None, None, None, None)  # memory, times and AR1000
# The 2018 toolbox's.
ROWS = tuple(replace(row, recall="AR1000") for row in (
    Row("rpn_r50_caffe_c4_1x", None, None, 20.5, 51.1, "rpn_r50_caffe_c4_1x-ea7d3428.pth"),
    Row("rpn_r50_caffe_c4_2x", 2.2, 0.17, 20.3, 52.2, "rpn_r50_caffe_c4_2x-c6d5b958.pth"),
    Row("rpn_r50_c4_1x", None, None, 20.1, 50.2, "rpn_r50_c4_1x-eb38972b.pth"),
    Row("rpn_r50_c4_2x", None, None, 20.0, 51.1, "rpn_r50_c4_2x-3d4c1e14.pth"),
    Row("rpn_r50_caffe_fpn_1x", 3.3, 0.253, 16.9, 58.2, None),
    Row("rpn_r50_fpn_1x", 3.5, 0.276, 17.7, 57.1, "rpn_r50_fpn_1x_20181010-4a9c0712.pth"),
    Row("rpn_r50_fpn_2x", None, None, None, 57.6, "rpn_r50_fpn_2x_20181010-88a4a471.pth"),
    Row("rpn_r101_caffe_fpn_1x", 5.2, 0.379, 13.9, 59.4, None),
    Row("rpn_r101_fpn_1x", 5.4, 0.396, 14.4, 58.6, "rpn_r101_fpn_1x_20181129-f50da4bd.pth"),
    Row("rpn_r101_fpn_2x", None, None, None, 59.1, "rpn_r101_fpn_2x_20181129-e42c6c9a.pth"),
    Row("rpn_x101_32x4d_fpn_1x", 6.6, 0.589, 11.8, 59.4,
        "rpn_x101_32x4d_fpn_1x_20181218-7e379d26.pth"),
    Row("rpn_x101_32x4d_fpn_2x", None, None, None, 59.9,
        "rpn_x101_32x4d_fpn_2x_20181218-0510af40.pth"),
    Row("rpn_x101_64x4d_fpn_1x", 9.5, 0.955, 8.3, 59.8,
        "rpn_x101_64x4d_fpn_1x_20181218-c1a24f1f.pth"),
    Row("rpn_x101_64x4d_fpn_2x", None, None, None, 60.0,
        "rpn_x101_64x4d_fpn_2x_20181218-c22bdd70.pth"),
))
MMDET2 = (
    _mmdet2("rpn_r50_caffe_fpn_1x", 3.5, 22.6, 58.7, "20200531-5b903a37"),
    _mmdet2("rpn_r50_fpn_1x", 3.8, 22.3, 58.2, "20200218-5525fa2e"),
    _mmdet2("rpn_r50_fpn_2x", None, None, 58.6, "20200131-0728c9b3"),
    _mmdet2("rpn_r101_caffe_fpn_1x", 5.4, 17.3, 60.0, "20200531-0629a2e2"),
    _mmdet2("rpn_r101_fpn_1x", 5.8, 16.5, 59.7, "20200131-2ace2249"),
    _mmdet2("rpn_r101_fpn_2x", None, None, 60.2, "20200131-24e3db1a"),
    _mmdet2("rpn_x101_32x4d_fpn_1x", 7.0, 13.0, 60.6, "20200219-b02646c6"),
    _mmdet2("rpn_x101_32x4d_fpn_2x", None, None, 61.1, "20200208-d22bd0bb"),
    _mmdet2("rpn_x101_64x4d_fpn_1x", 10.1, 9.1, 61.0, "20200208-cde6f7dd"),
    _mmdet2("rpn_x101_64x4d_fpn_2x", None, None, 61.5, "20200208-c65f524f"),
)
# The images per second are one over the published 0.034 and 0.032 s.  Detectors hold an RPN, too.
DETECTRON2 = (
    _detectron2("rpn_R_50_C4_1x", 1.5, 0.13, 29.4, 51.6, "137258005", "450694"),
    _detectron2("rpn_R_50_FPN_1x", 2.7, 0.186, 31.2, 58.0, "137258492", "02ce48"),
    _detectron2("faster_rcnn_R_50_C4_1x", *_NONE, "137257644", "721ade"),
    _detectron2("faster_rcnn_R_50_FPN_1x", *_NONE, "137257794", "b275ba"),
    _detectron2("faster_rcnn_R_50_FPN_3x", *_NONE, "137849458", "280758"),
)
TORCHVISION = (
    _torchvision("fasterrcnn_resnet50_fpn", "258fb6c6"),
    _torchvision("fasterrcnn_resnet50_fpn_v2", "dd69338a"),
    _torchvision("maskrcnn_resnet50_fpn", "bf2d0c1e"),
    _torchvision("maskrcnn_resnet50_fpn_v2", "73cbd019"),
    _torchvision("keypointrcnn_resnet50_fpn", "fc266e95"),
)


def _detector(line: dict[str, str]) -> Row:
    """Returns the row of a line of `detectors.csv`, whose files lie where their names say."""
    columns = "memory", "train_time", "fps", "box_ap", "mask_ap"
    memory, time, fps, box, mask = (float(line[x]) if line[x] else None for x in columns)
    number, _, file = line["file"].rpartition("/")
    system, _, name = line["name"].partition("/")
    row = Row(line["config"], memory, time, fps, None, file or None, name=line["name"],
              box_ap=box, mask_ap=mask)
    if system == "mmdet2":
        family = re.split(r"_[rx]\d", name)[0]
        return replace(row, sites=(f"{OPENMMLAB}/mmdetection/v2.0/{family}/{name}",))
    if system == "detectron2":
        folder = "COCO-InstanceSegmentation" if "mask" in name else "COCO-Detection"
        return replace(row, sites=(f"{DETECTRON2_SITE}/{folder}/{name}/{number}",))
    return replace(row, sites=TORCHVISION_SITES) if system else row


with Path(__file__).with_name("detectors.csv").open(newline="") as _file:
    DETECTORS = tuple(map(_detector, csv.DictReader(_file)))
PUBLISHED = (*ROWS, *MMDET2, *DETECTRON2, *TORCHVISION, *DETECTORS)
_OF_2018 = (*ROWS, *(row for row in DETECTORS if not row.name))
OF_MMDET2 = (*MMDET2, *(row for row in DETECTORS if row.name.startswith("mmdet2/")))
# Whatever the files say of themselves: some of mmdet 2 were trained before its release.
MMDET_VERSIONS = {row.file: "0.6" for row in _OF_2018} | {row.file: "2.0" for row in OF_MMDET2}

_THIRD_PARTY = tuple(f"{site}/pretrain/third_party" for site in (OPENMMLAB, *ZOO_SITES))
_MSRA = (f"{DETECTRON2_SITE}/ImageNetPretrained/MSRA",)
_FAIR = (f"{DETECTRON2_SITE}/ImageNetPretrained/FAIR",)
# ImageNet backbones by name: the sites that have them, and their file there.  Torchvision's
# are the weights of 2016, which it uploaded again in the zip format (pytorch/vision issue 2068).
# No hash of Detectron's `R-*.pkl` was published.
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
