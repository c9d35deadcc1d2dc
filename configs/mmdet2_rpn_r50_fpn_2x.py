"""mmdet 2's R-50-FPN, pytorch style, 2x: AR1000 58.6.

python -m jaxdet.main --config=mmdet2_rpn_r50_fpn_2x --config.data.root=/data/coco \
    --workdir=runs/mmdet2_rpn_r50_fpn_2x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 24 epochs of COCO."""
    return base.rpn(
        "mmdet2_rpn_r50_fpn_2x",
        depth=50,
        schedule="2x",
        pretrained="torchvision://resnet50",
        convention="mmdet2",
    )
