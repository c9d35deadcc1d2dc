"""What has been published: the zoo's rows, their files, and the backbones they began with.

The one source of these figures, for the table, the download and the tests.
"""

from dataclasses import dataclass

# Replacing the first prefix by the second gives the mirror's address.
ZOO_SITES = (
    "https://s3.ap-northeast-2.amazonaws.com/open-mmlab",
    "https://open-mmlab.oss-cn-beijing.aliyuncs.com",
)
TORCHVISION_SITES = ("https://download.pytorch.org/models",)

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
    ar1000: float  # percent
    file: str | None  # the hex digits at its end begin its SHA-256

    @property
    def path(self) -> str | None:
        """Returns the file's path below a site."""
        return f"mmdetection/models/{self.file}" if self.file else None

    def differs(self, ar1000: float) -> bool:
        """Returns whether a measured AR1000, in percent, differs from the published one."""
        # 1e-9, as neither 57.1 nor 57.2 is a binary fraction.
        return abs(ar1000 - self.ar1000) > TOLERANCE + 1e-9


# fmt: off
ROWS = (
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
)

# ImageNet backbones by name: the sites that have them, and their path below a site.  Torchvision's
# are the weights of 2016, which it uploaded again in the zip format (pytorch/vision issue 2068).
PRETRAINED = {
    "torchvision://resnet18": (TORCHVISION_SITES, "resnet18-f37072fd.pth"),
    "torchvision://resnet34": (TORCHVISION_SITES, "resnet34-b627a593.pth"),
    "torchvision://resnet50": (TORCHVISION_SITES, "resnet50-0676ba61.pth"),
    "torchvision://resnet101": (TORCHVISION_SITES, "resnet101-63fe2227.pth"),
    "torchvision://resnet152": (TORCHVISION_SITES, "resnet152-394f9c45.pth"),
    "open-mmlab://resnet50_caffe":
        (ZOO_SITES, "pretrain/third_party/resnet50_caffe-788b5fa3.pth"),
    "open-mmlab://resnet101_caffe":
        (ZOO_SITES, "pretrain/third_party/resnet101_caffe-3ad79236.pth"),
    "open-mmlab://resnext101_32x4d":
        (ZOO_SITES, "pretrain/third_party/resnext101_32x4d-a5af3160.pth"),
    "open-mmlab://resnext101_64x4d":
        (ZOO_SITES, "pretrain/third_party/resnext101_64x4d-ee2c6f71.pth"),
}
# fmt: on
