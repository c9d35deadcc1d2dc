"""mmdet 2's R-101-FPN, caffe style, 1x: AR1000 60.0.

python -m jaxdet.main --config=mmdet2_rpn_r101_caffe_fpn_1x --config.data.root=/data/coco \
    --workdir=runs/mmdet2_rpn_r101_caffe_fpn_1x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 12 epochs of COCO."""
    return base.rpn(
        "mmdet2_rpn_r101_caffe_fpn_1x",
        depth=101,
        style="caffe",
        pretrained="open-mmlab://detectron2/resnet101_caffe",
        convention="mmdet2",
    )
