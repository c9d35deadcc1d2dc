"""torchvision's maskrcnn_resnet50_fpn: box AP 37.9, mask AP 34.6.

python -m jaxdet.main --config=torchvision_mask_rcnn_r50_fpn --config.data.root=/data/coco \
    --workdir=runs/torchvision_mask_rcnn_r50_fpn
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 26 epochs of COCO."""
    return base.detector(
        "mask_rcnn", "torchvision_mask_rcnn_r50_fpn", depth=50, convention="torchvision"
    )
