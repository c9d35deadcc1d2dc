"""Images with boxes drawn on them: ground truth found and missed, and proposals.

Images are enlarged or shrunk before anything is drawn, so that lines and labels are as readable
on small ones as on large ones.  Found and missed boxes differ in line style as well as in colour.
Drawn with Pillow, which takes a fiftieth of matplotlib's time for the thousands of `--draw`.
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from jaxdet.files import write_whole
from jaxdet.ops.boxes import iou

Colour = tuple[int, int, int]  # RGB

# Bright, and told apart with any colour vision.
FOUND: Colour = (40, 220, 140)
MISSED: Colour = (255, 150, 40)
PROPOSAL: Colour = (120, 200, 255)
DARK: Colour = (25, 25, 25)
GREY: Colour = (105, 105, 105)
# By falling score: yellow, orange, purple; also from bright to dark.
SHADES = np.array([(240, 249, 33), (248, 149, 64), (204, 71, 120), (126, 3, 168)])

FOUND_IOU = 0.5
LONG_SIDE = 560  # pixels of a drawing's long side
_GAP, _HEADER, _CAPTION = 14, 78, 26  # pixels of a grid


class Drawing(NamedTuple):
    """An image with boxes, and what it shows in numbers."""

    image: UInt8[np.ndarray, "h w 3"]  # RGB
    found: int  # ground-truth boxes with a proposal of IoU 0.5 or more
    boxes: int  # all ground-truth boxes


def draw_proposals(
    image: UInt8[np.ndarray, "h w 3"],
    gt_boxes: Float[np.ndarray, "g 4"],
    boxes: Float[np.ndarray, "n 4"],
    scores: Float[np.ndarray, " n"],
    top: int = 100,
) -> Drawing:
    """Draws the boxes to find, and for each one found the proposal that fits it best.

    A box found has a solid line, one missed a dashed line and a cross.  A proposal has a thin line
    and a label, its IoU and its score; a label that would cover another is left out.

    Args:
        image: RGB.
        gt_boxes: boxes to find, in pixels of `image`.
        boxes: proposals in pixels of `image`, in any order.
        scores: their scores.
        top: how many of the best proposals are looked at.

    Returns:
        The drawing, with a long side of 560 pixels, and its counts.
    """
    order = np.argsort(-scores, kind="stable")[:top]
    boxes, scores = boxes[order], scores[order]
    ious = iou(gt_boxes.astype(np.float32), boxes.astype(np.float32))
    best_iou = ious.max(axis=1, initial=0)
    found = best_iou >= FOUND_IOU
    best = ious[found].argmax(axis=1) if found.any() else np.zeros(0, int)
    canvas = _Canvas(image, LONG_SIDE / max(image.shape[:2]))
    for box in gt_boxes[~found]:
        canvas.dashed_box(box, MISSED)
    for box in gt_boxes[found]:
        canvas.box(box, FOUND, width=3)
    for box in boxes[best]:
        canvas.box(box, PROPOSAL, width=2)
    for box, value, score in zip(boxes[best], best_iou[found], scores[best], strict=True):
        canvas.label(box, f"{value:.2f} / {score:.2f}", PROPOSAL)
    return Drawing(canvas.array(), int(found.sum()), len(gt_boxes))


def draw_boxes(
    image: UInt8[np.ndarray, "h w 3"],
    boxes: Float[np.ndarray, "n 4"],
    scores: Float[np.ndarray, " n"],
    top: int = 20,
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Draws the best proposals of an image without ground truth.

    The best is yellow, the last purple.  A label is the score; one that would cover a better
    one is left out.

    Args:
        image: RGB.
        boxes: proposals in pixels of `image`, in any order.
        scores: their scores.
        top: how many of the best are drawn.

    Returns:
        RGB, of the image's size or, if its long side is below 560 pixels, enlarged to that.
    """
    order = np.argsort(-scores, kind="stable")[:top]
    canvas = _Canvas(image, max(1.0, LONG_SIDE / max(image.shape[:2])))
    places = np.linspace(0, len(SHADES) - 1, len(order))
    shades = np.stack([np.interp(places, range(len(SHADES)), c) for c in SHADES.T], axis=-1)
    colours = [(int(r), int(g), int(b)) for r, g, b in shades]
    for i, colour in reversed(list(zip(order, colours, strict=True))):
        canvas.box(boxes[i], colour, width=2)
    for i, colour in zip(order, colours, strict=True):
        canvas.label(boxes[i], f"{scores[i]:.2f}", colour)
    return canvas.array()


def proposal_grid(
    drawings: Sequence[Drawing], names: Sequence[str], title: str, columns: int = 3
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns drawings side by side under a title and a legend, each with its name and its count.

    Args:
        drawings: of any sizes.
        names: one per drawing.
        title: first line of the page.
        columns: at most so many side by side.
    """
    columns = max(1, min(columns, len(drawings)))
    cell = max((drawing.image.shape[1] for drawing in drawings), default=0)
    pairs = list(zip(drawings, names, strict=True))
    rows = [pairs[i : i + columns] for i in range(0, len(pairs), columns)]
    heights = [max(len(drawing.image) for drawing, _ in row) + _CAPTION for row in rows]
    width = max(_GAP + columns * (cell + _GAP), _GAP + _draw_legend(None))
    page = Image.new("RGB", (width, _HEADER + sum(heights) + _GAP * len(rows)), "white")
    pen = ImageDraw.Draw(page)
    pen.text((_GAP, 10), title, DARK, _font(18))
    _draw_legend(page)
    y = _HEADER
    for row, height in zip(rows, heights, strict=True):
        for column, (drawing, name) in enumerate(row):
            x = _GAP + column * (cell + _GAP)
            count = f"{drawing.found} of {drawing.boxes} found" if drawing.boxes else "no boxes"
            right = x + cell - 2
            pen.text((right, y + 5), count, GREY, _font(13), anchor="ra")
            room = cell - pen.textlength(count, _font(13)) - 20
            while name and pen.textlength(name, _font(13)) > room:
                name = name[:-4] + "..." if len(name) > 4 else ""
            pen.text((x, y + 5), name, DARK, _font(13))
            left = x + (cell - drawing.image.shape[1]) // 2
            page.paste(Image.fromarray(drawing.image), (left, y + _CAPTION))
        y += height + _GAP
    return np.asarray(page)


def write_png(path: str | os.PathLike[str], image: UInt8[np.ndarray, "h w 3"]) -> None:
    """Writes an RGB image as a PNG file that is whole or not there at all.

    Raises:
        InputError: the file cannot be written.
    """
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    write_whole(Path(path), file.getvalue())


class _Canvas:
    """A resized image that takes boxes in the original's pixels."""

    def __init__(self, image: np.ndarray, scale: float):
        height, width = image.shape[:2]
        size = max(1, round(width * scale)), max(1, round(height * scale))
        self._image = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
        self._pen = ImageDraw.Draw(self._image)
        self._scale = np.array([size[0] / width, size[1] / height] * 2)
        # Lines and letters grow with images that are kept large.
        self._unit = max(1, round(max(size) / (2 * LONG_SIDE)))
        self._labels: list[tuple[int, int, int, int]] = []

    def array(self) -> np.ndarray:
        """Returns the drawing as RGB."""
        return np.asarray(self._image)

    def box(self, box: np.ndarray, colour: Colour, width: int) -> None:
        """Draws a solid line with a dark border, so that it stands out on any background."""
        x1, y1, x2, y2 = self._place(box)
        for shade, line in ((DARK, 5), (colour, width)):
            out = line // 2 * self._unit
            corners = (x1 - out, y1 - out, x2 + out, y2 + out)
            self._pen.rectangle(corners, outline=shade, width=line * self._unit)

    def dashed_box(self, box: np.ndarray, colour: Colour) -> None:
        """Draws a dashed line with dark gaps, and a cross in the middle."""
        x1, y1, x2, y2 = self._place(box)
        line, dash, period = 2 * self._unit, 6 * self._unit, 16 * self._unit
        self._pen.rectangle((x1, y1, x2, y2), outline=DARK, width=line)
        for x in range(x1, x2 + 1, period):
            for y in (y1, y2 - line + 1):
                self._pen.rectangle((x, y, min(x + dash, x2), y + line - 1), fill=colour)
        for y in range(y1, y2 + 1, period):
            for x in (x1, x2 - line + 1):
                self._pen.rectangle((x, y, x + line - 1, min(y + dash, y2)), fill=colour)
        arm = min(8 * self._unit, (x2 - x1) // 4, (y2 - y1) // 4)
        x, y = (x1 + x2) // 2, (y1 + y2) // 2
        for shade, extra in ((DARK, 2 * self._unit), (colour, 0)):
            for way in (-1, 1):
                ends = (x - arm, y - way * arm, x + arm, y + way * arm)
                self._pen.line(ends, shade, line + extra)

    def label(self, box: np.ndarray, text: str, colour: Colour) -> None:
        """Writes text at the first corner of the box where it covers no other label."""
        font, pad = _font(13 * self._unit), 2 * self._unit
        width = round(self._pen.textlength(text, font)) + 2 * pad
        height = 13 * self._unit + 2 * pad
        x1, y1, x2, y2 = self._place(box)
        limit_x, limit_y = self._image.size
        corners = [(x1, y1 - height), (x1, y2), (x2 - width, y1 - height), (x2 - width, y2)]
        for x, y in [*corners, (x1, y1), (x2 - width, y2 - height)]:
            x, y = max(0, min(x, limit_x - width)), max(0, min(y, limit_y - height))
            area = (x, y, x + width, y + height)
            if not any(_meet(area, other) for other in self._labels):
                break
        else:
            return
        self._labels.append(area)
        self._pen.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
        self._pen.text((x + pad, y + height / 2), text, DARK, font, anchor="lm")

    def _place(self, box: np.ndarray) -> tuple[int, int, int, int]:
        """Returns the canvas's first and last pixels inside a box of inclusive corners."""
        width, height = self._image.size
        end = np.array([0.0, 0.0, 1.0, 1.0])  # x2, y2 name the last pixel, not its end
        x1, y1, x2, y2 = ((box + end) * self._scale - end).round().astype(int)
        x1, x2 = (int(x) for x in np.clip((x1, max(x1, x2)), 0, width - 1))
        y1, y2 = (int(y) for y in np.clip((y1, max(y1, y2)), 0, height - 1))
        return x1, y1, x2, y2


def _draw_legend(page: Image.Image | None) -> int:
    """Draws samples of the three kinds of box with their meanings; returns the width in pixels."""
    texts = (
        f"found: a proposal with IoU >= {FOUND_IOU}",
        "missed",
        "its best proposal: IoU / score",
    )
    x = _GAP
    for kind, text in enumerate(texts):
        if page is not None:
            sample = _Canvas(np.full((26, 46, 3), 225, np.uint8), 1.0)
            box = np.array([3.0, 3.0, 42.0, 22.0])
            if kind == 1:
                sample.dashed_box(box, MISSED)
            else:
                sample.box(box, (FOUND, MISSED, PROPOSAL)[kind], width=(3, 2, 2)[kind])
            page.paste(Image.fromarray(sample.array()), (x, 44))
            ImageDraw.Draw(page).text((x + 54, 57), text, DARK, _font(13), anchor="lm")
        x += 76 + int(_font(13).getlength(text))
    return x


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # which it is where a size is given
    return font


def _meet(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
