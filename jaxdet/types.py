"""The arrays that travel between rooms, and what a detector is.

Glossary: `B` images in a batch, `H, W` the bucket's size in pixels, `M` padded boxes per
image, `N` anchors or predictions.  Boxes are `x1, y1, x2, y2`; their convention is static data
(`ops.boxes.BoxConvention`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Bool, Float32, Int32, UInt8, UInt32

# Host arrays while loading, device arrays inside a program.
Array = Any
Params = dict[str, Any]  # nested; leaves are float32 arrays


class Images(NamedTuple):
    """Images of one bucket, as a network takes them."""

    # RGB, zero to the right of and below the image; float32 where resizing does not round
    image: UInt8[Array, "B H W 3"] | Float32[Array, "B H W 3"]
    image_size: Int32[Array, "B 2"]  # (height, width) of the resized image
    pad_size: Int32[Array, "B 2"]  # (height, width) that the network sees
    scale: Float32[Array, "B 2"]  # (x, y): resized pixels per original pixel
    # given proposals, best first, in resized pixels (Fast R-CNN)
    proposals: Float32[Array, "B P 4"] | None = None
    proposal_mask: Bool[Array, "B P"] | None = None


class Batch(NamedTuple):
    """Images of one bucket with their ground truth, ready for the device."""

    image: UInt8[Array, "B H W 3"] | Float32[Array, "B H W 3"]  # these four as in `Images`
    image_size: Int32[Array, "B 2"]
    pad_size: Int32[Array, "B 2"]
    scale: Float32[Array, "B 2"]
    boxes: Float32[Array, "B M 4"]  # resized pixels; zero where not `box_mask`
    box_mask: Bool[Array, "B M"]
    seed: UInt32[Array, " B"]  # a function of (config.train.seed, epoch, image id) alone
    index: Int32[Array, " B"]  # position in the data set; -1 for a filler image
    labels: Int32[Array, "B M"] | None = None  # 0-based classes; 0 where not `box_mask`
    # bitmaps of the resized image in its bucket, eight pixels of a row a byte, the first in the
    # highest bit (`np.packbits`)
    masks: UInt8[Array, "B M H W/8"] | None = None
    proposals: Float32[Array, "B P 4"] | None = None  # these two as in `Images`
    proposal_mask: Bool[Array, "B P"] | None = None

    @property
    def images(self) -> Images:
        """Returns the part that a network takes."""
        given = self.proposals, self.proposal_mask
        return Images(self.image, self.image_size, self.pad_size, self.scale, *given)


class Predictions(NamedTuple):
    """A fixed number of scored boxes per image, best first; the valid ones come first."""

    boxes: Float32[Array, "B N 4"]  # resized pixels
    scores: Float32[Array, "B N"]  # in (0, 1); zero where not valid
    labels: Int32[Array, "B N"]  # 0-based class; 0 throughout where a detector has no classes
    valid: Bool[Array, "B N"]
    # probabilities of each one's class, over its box (Mask R-CNN)
    masks: Float32[Array, "B N S S"] | None = None


class Detector(NamedTuple):
    """A detector as pure functions, as an `optax.GradientTransformation` is an optimiser.

    The step, the loop, the predictor, evaluation and export are given one and know no more.
    """

    # Fresh parameters from a random key.
    init: Callable[[Array], Params]
    # Named terms, whose sum training minimises, and further numbers to log; both are float32
    # scalars of the batch's images, given the parameters.
    loss: Callable[[Params, Batch], tuple[dict[str, Array], dict[str, Array]]]
    # Boxes in pixels of the resized images, given the parameters.
    predict: Callable[[Params, Images], Predictions]
    # Whether the tensor at a path, e.g. ('backbone', 'layer2_0', 'conv1', 'kernel'), trains.
    trainable: Callable[[tuple[str, ...]], bool]
