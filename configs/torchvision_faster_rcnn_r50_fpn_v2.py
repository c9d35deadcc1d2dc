"""torchvision's fasterrcnn_resnet50_fpn_v2: box AP 46.7.

python -m jaxdet.main --config=torchvision_faster_rcnn_r50_fpn_v2 --config.data.root=/data/coco \
    --workdir=runs/torchvision_faster_rcnn_r50_fpn_v2
"""

from jaxdet.configs import base


def get_config():
    """Returns its setting: 8 devices with 2 images each, 26 epochs of COCO.

    Without its large-scale jitter, and with frozen statistics where it takes the batch's.
    """
    return base.detector(
        "faster_rcnn", "torchvision_faster_rcnn_r50_fpn_v2", depth=50, convention="torchvision_v2"
    )
