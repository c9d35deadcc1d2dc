"""mmdet's checkpoints, of 2018 and of its versions 2 and 3, to jaxdet's and back.

python -m converters.mmdet rpn_r50_fpn_1x.pth runs/converted --config=rpn_r50_fpn_1x
python -m converters.mmdet runs/converted out.pth --config=rpn_r50_fpn_1x

The side that ends in `.pth` tells the direction; a `.pth` to read may also be a name such as
zoo://rpn_r50_fpn_1x.  `runs/converted` serves as --checkpoint, and as --workdir to train on.
"""

import converters

if __name__ == "__main__":
    converters.run("mmdet")
