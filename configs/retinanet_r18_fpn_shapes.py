"""RetinaNet on the embedded shapes: a narrow R-18-FPN from scratch, on a laptop's CPU.

python -m jaxdet.main --config=retinanet_r18_fpn_shapes
"""

from jaxdet.configs import base, shapes


def get_config():
    """Returns small images, a pyramid from stride 4 on, and anchors from 16 pixels on."""
    config = base.detector("retinanet", "retinanet_r18_fpn_shapes", depth=18, pretrained="")
    config.model.class_names = shapes.SHAPES_CLASSES
    config.model.head_convs = 2
    config.model.group_norm = True  # the heads learn slowly without
    config.model.fpn_start = 0
    config.model.anchor_scales = shapes.RPN["model.anchor_scales"]
    config.targets.smooth_l1_beta = shapes.RPN["targets.smooth_l1_beta"]
    return shapes.small(config, epochs=24)
