"""Pasted masks against the systems' own, and by hand."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from jaxdet.data.masks import rle_of
from jaxdet.inference.single import paste_masks

KINDS = pytest.mark.parametrize("kind", ["whole", "centres", "border"])


@pytest.fixture(scope="module")
def pasting(golden):
    arrays = golden("mask_pasting")
    logits = arrays["whole_logits"].astype(np.float32)
    return arrays | {"whole_probabilities": 1 / (1 + np.exp(-logits))}


def paste(pasting, kind):
    probabilities = pasting[f"{kind}_probabilities"].astype(np.float32)
    height, width = pasting[f"{kind}_hw"].tolist()
    found = paste_masks(probabilities, pasting[f"{kind}_boxes"], (height, width), kind)
    return found, np.unpackbits(pasting[f"{kind}_pasted"], axis=-1, count=width)


@KINDS
def test_masks_are_the_systems(pasting, kind):
    """Inside, over borders, of a fraction of a pixel, as large as the image."""
    np.testing.assert_array_equal(*paste(pasting, kind))


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools' own, decoding
@KINDS
def test_run_lengths_decode_to_the_masks(pasting, kind):
    masks, _ = paste(pasting, kind)
    runs = [rle_of(mask) for mask in masks]
    assert all(isinstance(run["counts"], str) for run in runs)
    np.testing.assert_array_equal(coco_mask.decode(runs).transpose(2, 0, 1), masks)


@KINDS
def test_masks_end_with_the_image(kind):
    """Full masks over each border, around the image, beside it on each side, and empty."""
    boxes = [[-9, -8, 3, 4], [5, 6, 30, 40], [-50, -50, 60, 60]]
    boxes += [[-7, 2, -4, 8], [2, -7, 8, -4], [40, 2, 50, 8], [2, 40, 8, 50]]
    boxes = np.array([*boxes, [4, 4, 4, 4], [6, 6, 3, 3]], np.float32)
    ones = np.ones((len(boxes), 28, 28), np.float32)
    areas = paste_masks(ones, boxes, (10, 12), kind).sum((1, 2)).tolist()
    # With x2 inside: columns 0..3 and rows 0..4; an empty or inverted box is its first pixel.
    # With a border: the corner's probability is below half; and 4.1 and 4.8, where the second
    # box begins when it has grown, become 4, where the border is.
    wanted = {
        "whole": [20, 28, 120, 0, 0, 0, 0, 1, 1],
        "centres": [12, 28, 120, 0, 0, 0, 0, 0, 0],
        "border": [19, 35, 120, 0, 0, 0, 0, 1, 1],
    }
    assert areas == wanted[kind]


def test_centres_of_the_edges_pixels_are_inside():
    ones = np.ones((2, 28, 28), np.float32)
    boxes = np.array([[2, 3, 6, 5], [2.6, 3, 5.4, 5]], np.float32)
    masks = paste_masks(ones, boxes, (8, 9), "centres")
    wanted = np.zeros((2, 8, 9), bool)
    wanted[0, 3:5, 2:6] = wanted[1, 3:5, 3:5] = True
    np.testing.assert_array_equal(masks, wanted)


@pytest.mark.parametrize(("kind", "area"), [("whole", 0), ("centres", 16), ("border", 0)])
def test_only_centres_take_the_threshold_itself(kind, area):
    half = np.full((1, 28, 28), 0.5, np.float32)
    box = np.array([[2, 2, 6, 6]], np.float32)
    assert paste_masks(half, box, (9, 9), kind).sum() == area
