"""mmdet 3's R-50-FPN, pytorch style, 1x; no figure is published.

python -m jaxdet.main --config=mmdet3_rpn_r50_fpn_1x --config.data.root=/data/coco \
    --workdir=runs/mmdet3_rpn_r50_fpn_1x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 12 epochs of COCO."""
    return base.rpn(
        "mmdet3_rpn_r50_fpn_1x",
        depth=50,
        pretrained="torchvision://resnet50",
        convention="mmdet3",
    )
