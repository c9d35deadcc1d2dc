"""Images with boxes drawn on them: ground truth found and missed, proposals and detections.

Images are resized before anything is drawn, so that lines and labels are readable on all of them.
Drawn with Pillow, which takes a fiftieth of matplotlib's time for the thousands of `--draw`.
"""

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from jaxdet.data.masks import bitmap_of
from jaxdet.files import whole
from jaxdet.inference.single import Result
from jaxdet.ops.boxes import MMDET1, BoxConvention, iou

Colour = tuple[int, ...]  # RGB

# Bright, and told apart with any colour vision.
FOUND: Colour = (40, 220, 140)
MISSED: Colour = (255, 150, 40)
PROPOSAL: Colour = (120, 200, 255)
DARK: Colour = (25, 25, 25)
# By falling score: yellow, orange, purple; also from bright to dark.
SHADES = np.array([(240, 249, 33), (248, 149, 64), (204, 71, 120), (126, 3, 168)])

FOUND_IOU = 0.5
PROPOSALS_LEGEND = {
    f"solid: found, IoU >= {FOUND_IOU}": FOUND,
    "dashed: missed": MISSED,
    "its best proposal: IoU / score": PROPOSAL,
}
DETECTIONS_LEGEND = {
    "solid, in a colour of its own: a detection, its class and score": PROPOSAL,
    "dashed: an object without a detection of its class": MISSED,
}
TOP_PROPOSALS = 100
SHOWN_SCORE = 0.5  # from which detections are drawn
LONG_SIDE = 560  # pixels of a drawing's long side
_GAP, _HEADER, _CAPTION = 14, 78, 26  # pixels of a grid


class Drawing(NamedTuple):
    """An image with boxes, and what it shows in numbers."""

    image: UInt8[np.ndarray, "h w 3"]  # RGB
    found: int  # ground-truth boxes with a prediction of IoU 0.5 or more
    boxes: int  # all ground-truth boxes


def draw_proposals(
    image: UInt8[np.ndarray, "h w 3"],
    gt_boxes: Float[np.ndarray, "g 4"],
    result: Result,
    convention: BoxConvention = MMDET1,
) -> Drawing:
    """Draws the boxes to find, and for each one found the proposal that fits it best.

    A box found has a solid line, one missed a dashed line.  A proposal has a thin line and a
    label, its IoU and its score; a label that would cover another is left out.

    Boxes are in pixels of the image; the drawing has a long side of 560 pixels.  Of the proposals,
    the best 100 are looked at.
    """
    ious = iou(gt_boxes, result.boxes[:TOP_PROPOSALS], convention)
    found = ious.max(axis=1, initial=0) >= FOUND_IOU
    canvas = _Canvas(image, LONG_SIDE / max(image.shape[:2]))
    canvas.boxes(gt_boxes[~found], MISSED, width=3, dashed=True)
    canvas.boxes(gt_boxes[found], FOUND, width=3)
    best = [(row.max(), row.argmax()) for row in ious[found]]
    canvas.boxes(result.boxes[[i for _, i in best]], PROPOSAL, width=2)
    for value, i in best:
        canvas.label(result.boxes[i], f"{value:.2f} / {result.scores[i]:.2f}", PROPOSAL)
    return Drawing(np.asarray(canvas.image), len(best), len(gt_boxes))


def draw_result(image: UInt8[np.ndarray, "h w 3"], result: Result) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Draws the 20 best proposals, or detections from a score of `SHOWN_SCORE` on.

    Each has a colour of its own, its mask too, and a label with its class and score; a label that
    would cover a better one is left out.  The best proposal is yellow, the last purple.  An image
    whose long side is below 560 pixels is enlarged to that.
    """
    canvas = _Canvas(image, max(1.0, LONG_SIDE / max(image.shape[:2])))
    canvas.result(result)
    return np.asarray(canvas.image)


def draw_found(
    image: UInt8[np.ndarray, "h w 3"],
    gt_boxes: Float[np.ndarray, "g 4"],
    gt_labels: Int[np.ndarray, " g"],
    class_names: Sequence[str],
    result: Result,
    convention: BoxConvention = MMDET1,
) -> Drawing:
    """Draws detections as `draw_result` does, and the objects that they miss.

    An object is found if a detection that is drawn has its class and an IoU of at least 0.5.
    """
    canvas = _Canvas(image, LONG_SIDE / max(image.shape[:2]))
    shown, labels = _shown(result), result.labels
    assert labels is not None, "a detector without classes"
    ious = iou(gt_boxes, result.boxes[:shown], convention)
    ious = np.where(gt_labels[:, None] == labels[:shown], ious, 0)
    missed = ious.max(axis=1, initial=0) < FOUND_IOU
    canvas.boxes(gt_boxes[missed], MISSED, width=3, dashed=True)
    canvas.result(result)
    for box, label in zip(gt_boxes[missed], gt_labels[missed], strict=True):
        canvas.label(box, class_names[label], MISSED)
    return Drawing(np.asarray(canvas.image), int((~missed).sum()), len(gt_boxes))


def grid(
    drawings: Sequence[Drawing],
    names: Sequence[str],
    title: str,
    legend: Mapping[str, Colour] = PROPOSALS_LEGEND,
    columns: int = 3,
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns drawings, of at most 560 x 560 pixels, under a title and a legend."""
    columns = max(1, min(columns, len(drawings)))
    height = max((len(drawing.image) for drawing in drawings), default=0) + _CAPTION
    rows = -(-len(drawings) // columns)
    size = _GAP + columns * (LONG_SIDE + _GAP), _HEADER + rows * (height + _GAP)
    page = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    pen.text((_GAP, 10), title, DARK, ImageFont.load_default(18))
    x = _GAP
    for text, colour in legend.items():
        pen.rectangle((x, 48, x + 24, 66), fill=colour, outline=DARK)
        pen.text((x + 32, 57), text, DARK, font, anchor="lm")
        x += 52 + int(font.getlength(text))
    for i, (drawing, name) in enumerate(zip(drawings, names, strict=True)):
        cell = Image.new("RGB", (LONG_SIDE, height), "white")  # cuts off what is too long
        caption = f"{drawing.found} of {drawing.boxes} found: {name}"
        ImageDraw.Draw(cell).text((0, 5), caption, DARK, font)
        cell.paste(Image.fromarray(drawing.image), (0, _CAPTION))
        row, column = divmod(i, columns)
        page.paste(cell, (_GAP + column * (LONG_SIDE + _GAP), _HEADER + row * (height + _GAP)))
    return np.asarray(page)


def write_png(path: Path, image: UInt8[np.ndarray, "h w 3"]) -> None:
    """Writes an RGB image as a PNG file; see `whole`."""
    with whole(path) as file:
        Image.fromarray(image).save(file, "PNG")


def _shown(result: Result) -> int:
    least = 0.0 if result.labels is None else SHOWN_SCORE
    return min(20, int((result.scores >= least).sum()))


def _shades(count: int) -> list[Colour]:
    places = np.linspace(0, len(SHADES) - 1, count)
    parts = [np.interp(places, range(len(SHADES)), c).astype(int).tolist() for c in SHADES.T]
    return list(zip(*parts, strict=True))


def _colour(rank: int) -> Colour:
    """Returns a bright colour; neighbours in rank are far apart in hue and differ in lightness."""
    hue, lightness = rank * 0.618 % 1, (0.6, 0.72, 0.5)[rank % 3]
    return tuple(round(255 * part) for part in colorsys.hls_to_rgb(hue, lightness, 0.9))


class _Canvas:
    """A resized image that takes boxes in the original's pixels."""

    def __init__(self, image: np.ndarray, scale: float):
        height, width = image.shape[:2]
        size = max(1, round(width * scale)), max(1, round(height * scale))
        self.image = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
        self._scale = np.array([size[0] / width, size[1] / height] * 2)
        # Lines and letters grow with images that are kept large.
        self._unit = max(1, round(max(size) / (2 * LONG_SIDE)))
        self._font = ImageFont.load_default(13 * self._unit)
        self._labelled = np.zeros(size[::-1], bool)

    def boxes(self, boxes: np.ndarray, colour: Colour, width: int, dashed: bool = False) -> None:
        """Draws lines with a dark border, so that they stand out on any background."""
        drawn = self.image.copy() if dashed else self.image
        for x1, y1, x2, y2 in map(self._place, boxes):
            for shade, line in ((DARK, 5), (colour, width)):
                out = line // 2 * self._unit
                corners = (x1 - out, y1 - out, x2 + out, y2 + out)
                ImageDraw.Draw(drawn).rectangle(corners, outline=shade, width=line * self._unit)
        if dashed:
            rows, columns = np.indices(self._labelled.shape)
            stripes = (rows + columns) // self._unit % 16 < 9
            self.image.paste(drawn, mask=Image.fromarray(stripes))

    def label(self, box: np.ndarray, text: str, colour: Colour) -> None:
        """Writes text at the first corner of the box where it covers no other label."""
        pad, height = 2 * self._unit, 17 * self._unit
        width = round(self._font.getlength(text)) + 2 * pad
        x1, y1, x2, y2 = self._place(box)
        limit_x, limit_y = self.image.size
        for x, y in ((x1, y1 - height), (x1, y2), (x2 - width, y1 - height), (x2 - width, y2)):
            x, y = max(0, min(x, limit_x - width)), max(0, min(y, limit_y - height))
            area = self._labelled[y : y + height, x : x + width]
            if not area.any():
                area[:] = True
                pen = ImageDraw.Draw(self.image)
                pen.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
                pen.text((x + pad, y + height / 2), text, DARK, self._font, anchor="lm")
                return

    def result(self, result: Result) -> None:
        """Draws masks, boxes and labels, the best on top."""
        shown, masks = range(_shown(result)), () if result.masks is None else result.masks
        if result.class_names is None:
            names, colours = [""] * len(shown), _shades(len(shown))
        else:
            names, colours = [f"{name} " for name in result.class_names], [*map(_colour, shown)]
        for i in reversed(shown[: len(masks)]):
            self._mask(masks[i], colours[i])
        for i in reversed(shown):
            self.boxes(result.boxes[[i]], colours[i], width=2)
        for i in shown:
            self.label(result.boxes[i], f"{names[i]}{result.scores[i]:.2f}", colours[i])

    def _mask(self, mask: np.ndarray | dict[str, Any], colour: Colour) -> None:
        """Fills a mask so that the image shows through, within a line."""
        if isinstance(mask, dict):
            bitmap = bitmap_of(msgspec.json.encode(mask), tuple(mask["size"]))
        else:
            bitmap = mask.astype(np.uint8)
        inside = Image.fromarray(255 * bitmap).resize(self.image.size)
        thick = ImageFilter.MinFilter(4 * self._unit + 1)
        line = ImageChops.subtract(inside, inside.filter(thick))
        alpha = ImageChops.lighter(inside.point(lambda a: a // 2), line)
        self.image.paste(colour, (0, 0), alpha)

    def _place(self, box: np.ndarray) -> tuple[int, int, int, int]:
        """Returns the canvas's first and last pixels inside a box of inclusive corners."""
        end = np.array([0, 0, 1, 1])  # x2, y2 name the last pixel, not its end
        x1, y1, x2, y2 = ((box + end) * self._scale - end).round().astype(int).tolist()
        return x1, y1, max(x1, x2), max(y1, y2)
