"""mmdet 3's R-50-C4, caffe style, 1x; no figure is published.

python -m jaxdet.main --config=mmdet3_rpn_r50_caffe_c4_1x --config.data.root=/data/coco \
    --workdir=runs/mmdet3_rpn_r50_caffe_c4_1x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 12 epochs of COCO."""
    return base.rpn(
        "mmdet3_rpn_r50_caffe_c4_1x",
        depth=50,
        style="caffe",
        neck="c4",
        pretrained="open-mmlab://detectron2/resnet50_caffe",
        convention="mmdet3",
    )
