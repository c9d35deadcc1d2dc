"""What has been published: the zoos' rows, their files, and the backbones they began with.

The one source of these figures, for the table, the download and the tests.
"""

from dataclasses import dataclass, replace

# Replacing the first prefix by the second gives the mirror's address.
ZOO_SITES = (
    "https://s3.ap-northeast-2.amazonaws.com/open-mmlab",
    "https://open-mmlab.oss-cn-beijing.aliyuncs.com",
)
OPENMMLAB = "https://download.openmmlab.com"
TORCHVISION_SITES = ("https://download.pytorch.org/models",)
DETECTRON2_SITE = "https://dl.fbaipublicfiles.com/detectron2"

# Percentage points by which a measured AR1000 may be off the published one.
TOLERANCE = 0.1


@dataclass(frozen=True)
class Row:
    """A trained model.  Figures: 8 V100s, 16 images per step, COCO 2017; None: not published."""

    config: str  # configs/<config>.py
    backbone: str
    style: str
    schedule: str  # 1x: 12 epochs, 2x: 24
    memory: float | None  # GB, the largest device's
    train_time: float | None  # seconds per step
    fps: float | None  # images per second, loading and post-processing included
    ar1000: float | None  # percent
    file: str | None  # the hex digits at its end begin its SHA-256, or a .pkl's MD5
    sites: tuple[str, ...] = tuple(f"{site}/mmdetection/models" for site in ZOO_SITES)
    name: str = ""  # what follows zoo://; the config's where it is empty
    recall: str = "AR1000_fast"  # which of `measure.measure`'s figures `ar1000` is

    @property
    def zoo_name(self) -> str:
        """Returns what `fetch` takes."""
        return f"zoo://{self.name or self.config}"

    @property
    def urls(self) -> list[str]:
        """Returns the file's addresses, the main site's first; none where it was not published."""
        return [f"{site}/{self.file}" for site in self.sites if self.file]

    def differs(self, ar1000: float) -> bool:
        """Returns whether a measured AR1000, in percent, differs from the published one."""
        # 1e-9, as neither 57.1 nor 57.2 is a binary fraction.
        return self.ar1000 is not None and abs(ar1000 - self.ar1000) > TOLERANCE + 1e-9


# fmt: off
def _mmdet2(backbone: str, style: str, schedule: str, memory: float | None, fps: float | None,
            ar1000: float, name: str, digits: str) -> Row:
    folder = f"{name}_coco"
    return Row(f"mmdet2_{name}", backbone, style, schedule, memory, None, fps, ar1000,
               f"{folder}_{digits}.pth", (f"{OPENMMLAB}/mmdetection/v2.0/rpn/{folder}",),
               f"mmdet2/{folder}")


def _detectron2(neck: str, schedule: str, memory: float | None, train_time: float | None,
                fps: float | None, ar1000: float | None, name: str, file: str) -> Row:
    return Row(f"detectron2_rpn_r50_{neck.lower()}_1x", f"R-50-{neck}", "caffe", schedule,
               memory, train_time, fps, ar1000, file.partition("/")[2],
               (f"{DETECTRON2_SITE}/COCO-Detection/{name}/{file.partition('/')[0]}",),
               f"detectron2/{name}")


def _torchvision(name: str, digits: str) -> Row:
    config = "torchvision_rpn_r50_fpn" + "_v2" * name.endswith("_v2")
    return Row(config, "R-50-FPN", "pytorch", "-", *_NONE, f"{name}_coco-{digits}.pth",
               TORCHVISION_SITES, f"torchvision/{name}")


_NONE = (None, None, None, None)  # memory, times and AR1000
# The 2018 toolbox's.
ROWS = tuple(replace(row, recall="AR1000") for row in (
    Row("rpn_r50_caffe_c4_1x", "R-50-C4", "caffe", "1x", None, None, 20.5, 51.1,
        "rpn_r50_caffe_c4_1x-ea7d3428.pth"),
    Row("rpn_r50_caffe_c4_2x", "R-50-C4", "caffe", "2x", 2.2, 0.17, 20.3, 52.2,
        "rpn_r50_caffe_c4_2x-c6d5b958.pth"),
    Row("rpn_r50_c4_1x", "R-50-C4", "pytorch", "1x", None, None, 20.1, 50.2,
        "rpn_r50_c4_1x-eb38972b.pth"),
    Row("rpn_r50_c4_2x", "R-50-C4", "pytorch", "2x", None, None, 20.0, 51.1,
        "rpn_r50_c4_2x-3d4c1e14.pth"),
    Row("rpn_r50_caffe_fpn_1x", "R-50-FPN", "caffe", "1x", 3.3, 0.253, 16.9, 58.2, None),
    Row("rpn_r50_fpn_1x", "R-50-FPN", "pytorch", "1x", 3.5, 0.276, 17.7, 57.1,
        "rpn_r50_fpn_1x_20181010-4a9c0712.pth"),
    Row("rpn_r50_fpn_2x", "R-50-FPN", "pytorch", "2x", None, None, None, 57.6,
        "rpn_r50_fpn_2x_20181010-88a4a471.pth"),
    Row("rpn_r101_caffe_fpn_1x", "R-101-FPN", "caffe", "1x", 5.2, 0.379, 13.9, 59.4, None),
    Row("rpn_r101_fpn_1x", "R-101-FPN", "pytorch", "1x", 5.4, 0.396, 14.4, 58.6,
        "rpn_r101_fpn_1x_20181129-f50da4bd.pth"),
    Row("rpn_r101_fpn_2x", "R-101-FPN", "pytorch", "2x", None, None, None, 59.1,
        "rpn_r101_fpn_2x_20181129-e42c6c9a.pth"),
    Row("rpn_x101_32x4d_fpn_1x", "X-101-32x4d-FPN", "pytorch", "1x", 6.6, 0.589, 11.8, 59.4,
        "rpn_x101_32x4d_fpn_1x_20181218-7e379d26.pth"),
    Row("rpn_x101_32x4d_fpn_2x", "X-101-32x4d-FPN", "pytorch", "2x", None, None, None, 59.9,
        "rpn_x101_32x4d_fpn_2x_20181218-0510af40.pth"),
    Row("rpn_x101_64x4d_fpn_1x", "X-101-64x4d-FPN", "pytorch", "1x", 9.5, 0.955, 8.3, 59.8,
        "rpn_x101_64x4d_fpn_1x_20181218-c1a24f1f.pth"),
    Row("rpn_x101_64x4d_fpn_2x", "X-101-64x4d-FPN", "pytorch", "2x", None, None, None, 60.0,
        "rpn_x101_64x4d_fpn_2x_20181218-c22bdd70.pth"),
))
MMDET2 = (
    _mmdet2("R-50-FPN", "caffe", "1x", 3.5, 22.6, 58.7,
            "rpn_r50_caffe_fpn_1x", "20200531-5b903a37"),
    _mmdet2("R-50-FPN", "pytorch", "1x", 3.8, 22.3, 58.2,
            "rpn_r50_fpn_1x", "20200218-5525fa2e"),
    _mmdet2("R-50-FPN", "pytorch", "2x", None, None, 58.6,
            "rpn_r50_fpn_2x", "20200131-0728c9b3"),
    _mmdet2("R-101-FPN", "caffe", "1x", 5.4, 17.3, 60.0,
            "rpn_r101_caffe_fpn_1x", "20200531-0629a2e2"),
    _mmdet2("R-101-FPN", "pytorch", "1x", 5.8, 16.5, 59.7,
            "rpn_r101_fpn_1x", "20200131-2ace2249"),
    _mmdet2("R-101-FPN", "pytorch", "2x", None, None, 60.2,
            "rpn_r101_fpn_2x", "20200131-24e3db1a"),
    _mmdet2("X-101-32x4d-FPN", "pytorch", "1x", 7.0, 13.0, 60.6,
            "rpn_x101_32x4d_fpn_1x", "20200219-b02646c6"),
    _mmdet2("X-101-32x4d-FPN", "pytorch", "2x", None, None, 61.1,
            "rpn_x101_32x4d_fpn_2x", "20200208-d22bd0bb"),
    _mmdet2("X-101-64x4d-FPN", "pytorch", "1x", 10.1, 9.1, 61.0,
            "rpn_x101_64x4d_fpn_1x", "20200208-cde6f7dd"),
    _mmdet2("X-101-64x4d-FPN", "pytorch", "2x", None, None, 61.5,
            "rpn_x101_64x4d_fpn_2x", "20200208-c65f524f"),
)
# The images per second are one over the published 0.034 and 0.032 s.  Detectors hold an RPN, too.
DETECTRON2 = (
    _detectron2("C4", "1x", 1.5, 0.130, 29.4, 51.6,
                "rpn_R_50_C4_1x", "137258005/model_final_450694.pkl"),
    _detectron2("FPN", "1x", 2.7, 0.186, 31.2, 58.0,
                "rpn_R_50_FPN_1x", "137258492/model_final_02ce48.pkl"),
    _detectron2("C4", "1x", *_NONE,
                "faster_rcnn_R_50_C4_1x", "137257644/model_final_721ade.pkl"),
    _detectron2("FPN", "1x", *_NONE,
                "faster_rcnn_R_50_FPN_1x", "137257794/model_final_b275ba.pkl"),
    _detectron2("FPN", "3x", *_NONE,
                "faster_rcnn_R_50_FPN_3x", "137849458/model_final_280758.pkl"),
)
TORCHVISION = (
    _torchvision("fasterrcnn_resnet50_fpn", "258fb6c6"),
    _torchvision("fasterrcnn_resnet50_fpn_v2", "dd69338a"),
    _torchvision("maskrcnn_resnet50_fpn", "bf2d0c1e"),
    _torchvision("maskrcnn_resnet50_fpn_v2", "73cbd019"),
    _torchvision("keypointrcnn_resnet50_fpn", "fc266e95"),
)
PUBLISHED = (*ROWS, *MMDET2, *DETECTRON2, *TORCHVISION)
# Whatever the files say of themselves: some of mmdet 2 were trained before its release.
MMDET_VERSIONS = {row.file: "0.6" for row in ROWS} | {row.file: "2.0" for row in MMDET2}

_THIRD_PARTY = tuple(f"{site}/pretrain/third_party" for site in (OPENMMLAB, *ZOO_SITES))
_MSRA = (f"{DETECTRON2_SITE}/ImageNetPretrained/MSRA",)
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
}
# fmt: on
