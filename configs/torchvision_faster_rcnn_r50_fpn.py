"""torchvision's fasterrcnn_resnet50_fpn: box AP 37.0.

python -m jaxdet.main --config=torchvision_faster_rcnn_r50_fpn --config.data.root=/data/coco \
    --workdir=runs/torchvision_faster_rcnn_r50_fpn
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 26 epochs of COCO."""
    return base.detector(
        "faster_rcnn", "torchvision_faster_rcnn_r50_fpn", depth=50, convention="torchvision"
    )
