"""The RPN of torchvision's fasterrcnn_resnet50_fpn; no recall is published.

python -m jaxdet.main --config=torchvision_rpn_r50_fpn --config.data.root=/data/coco \
    --workdir=runs/torchvision_rpn_r50_fpn
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 26 epochs of COCO."""
    return base.rpn(
        "torchvision_rpn_r50_fpn",
        depth=50,
        pretrained="torchvision://resnet50",
        convention="torchvision",
    )
