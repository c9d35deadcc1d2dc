"""detectron2's checkpoints to jaxdet's and back.

python -m converters.detectron2 model_final.pkl runs/converted --config=detectron2_rpn_r50_fpn_1x
python -m converters.detectron2 runs/converted out.pkl --config=detectron2_rpn_r50_fpn_1x

A `.pth` is read as well; see `converters.mmdet`.
"""

import converters

if __name__ == "__main__":
    converters.run("detectron2")
