"""mmdet 2's Mask R-CNN, X-101-32x4d-FPN, pytorch style, 1x: box AP 41.9, mask AP 37.5.

python -m jaxdet.main --config=mmdet2_mask_rcnn_x101_32x4d_fpn_1x --config.data.root=/data/coco \
    --workdir=runs/mmdet2_mask_rcnn_x101_32x4d_fpn_1x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 12 epochs of COCO."""
    row = {"depth": 101, "groups": 32, "base_width": 4}
    return base.detector(
        "mask_rcnn", "mmdet2_mask_rcnn_x101_32x4d_fpn_1x", convention="mmdet2", **row
    )
