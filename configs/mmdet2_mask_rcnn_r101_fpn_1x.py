"""mmdet 2's Mask R-CNN, R-101-FPN, pytorch style, 1x: box AP 40.0, mask AP 36.1.

python -m jaxdet.main --config=mmdet2_mask_rcnn_r101_fpn_1x --config.data.root=/data/coco \
    --workdir=runs/mmdet2_mask_rcnn_r101_fpn_1x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 12 epochs of COCO."""
    return base.detector(
        "mask_rcnn", "mmdet2_mask_rcnn_r101_fpn_1x", depth=101, convention="mmdet2"
    )
