"""torchvision's retinanet_resnet50_fpn_v2: box AP 41.5.

python -m jaxdet.main --config=torchvision_retinanet_r50_fpn_v2 --config.data.root=/data/coco \
    --workdir=runs/torchvision_retinanet_r50_fpn_v2
"""

from jaxdet.configs import base


def get_config():
    """Returns its setting: 8 devices with 2 images each, 26 epochs of COCO.

    Without its large-scale jitter, and with frozen statistics where it takes the batch's.
    """
    return base.detector(
        "retinanet", "torchvision_retinanet_r50_fpn_v2", depth=50, convention="torchvision_v2"
    )
