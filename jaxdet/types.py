"""The arrays that travel between rooms.

Glossary: `B` images in a batch, `H, W` the bucket's size in pixels, `M` padded boxes per
image, `N` anchors or proposals.  Boxes are `x1, y1, x2, y2` with **inclusive** corners:
a box is `x2 - x1 + 1` pixels wide.
"""

from typing import Any, NamedTuple

# Host arrays while loading, device arrays inside a program.
Array = Any


class Batch(NamedTuple):
    """Images of one bucket, ready for the device."""

    image: Array  # uint8 [B, H, W, 3], RGB, zero to the right of and below the image
    image_size: Array  # int32 [B, 2], (height, width) of the resized image
    pad_size: Array  # int32 [B, 2], (height, width) that the network sees; multiples of 32
    scale: Array  # float32 [B], resized pixels per original pixel
    boxes: Array  # float32 [B, M, 4], resized pixels; zero where not `box_mask`
    box_mask: Array  # bool [B, M]
    seed: Array  # uint32 [B], a function of (config.train.seed, epoch, image id) alone
    index: Array  # int32 [B], position in the data set; -1 for a filler image


class Proposals(NamedTuple):
    """A fixed number of scored boxes per image, best first; the valid ones come first."""

    boxes: Array  # float32 [B, N, 4]
    scores: Array  # float32 [B, N], in (0, 1); zero where not valid
    valid: Array  # bool [B, N]
