"""torchvision's checkpoints to jaxdet's and back.

python -m converters.torchvision model.pth runs/converted --config=torchvision_rpn_r50_fpn
python -m converters.torchvision runs/converted out.pth --config=torchvision_rpn_r50_fpn

A model that you trained from ImageNet, and that has no `num_batches_tracked`, needs --bn_eps=1e-5;
see also `converters.mmdet`.
"""

import converters

if __name__ == "__main__":
    converters.run("torchvision")
