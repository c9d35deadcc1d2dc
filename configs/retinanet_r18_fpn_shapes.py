"""RetinaNet on the embedded shapes: a narrow R-18-FPN from scratch, on a laptop's CPU.

python -m jaxdet.main --config=retinanet_r18_fpn_shapes
"""

from jaxdet.configs import base, shapes


def get_config():
    """Returns small images, and anchors from 16 pixels on."""
    config = base.detector("retinanet", "retinanet_r18_fpn_shapes", depth=18, pretrained="")
    config.model.class_names = shapes.SHAPES_CLASSES
    config.model.head_convs = 2
    config.model.anchor_scales = (2.0, 2.52, 3.175)  # a third of an octave apart
    config.targets.smooth_l1_beta = 0.03
    return shapes.small(config)
