"""Images of proposals: ground truth found and missed, and the proposals that found it.

Boxes are `x1, y1, x2, y2` with inclusive corners in the image's own pixels.  Images are
enlarged or shrunk before anything is drawn, so that lines and labels are as readable on small
ones as on large ones.  Found and missed boxes differ in line style as well as in colour.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from jaxdet.files import write_whole
from jaxdet.inference.recall import iou_matrix

Colour = tuple[int, int, int]  # RGB

# Bright, and told apart with any colour vision.
FOUND: Colour = (40, 220, 140)
MISSED: Colour = (255, 150, 40)
PROPOSAL: Colour = (120, 200, 255)
DARK: Colour = (25, 25, 25)
GREY: Colour = (105, 105, 105)

FONT = cv2.FONT_HERSHEY_SIMPLEX
FOUND_IOU = 0.5
LONG_SIDE = 560  # pixels of a drawing's long side


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
    ious = iou_matrix(gt_boxes, boxes)
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
    for box, iou, score in zip(boxes[best], best_iou[found], scores[best], strict=True):
        canvas.label(box, f"{iou:.2f} / {score:.2f}", PROPOSAL)
    return Drawing(canvas.image, int(found.sum()), len(gt_boxes))


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
    shades = np.linspace(255, 110, len(order)).astype(np.uint8)
    colours = [_shade(shade) for shade in shades]
    for i, colour in reversed(list(zip(order, colours, strict=True))):
        canvas.box(boxes[i], colour, width=2)
    for i, colour in zip(order, colours, strict=True):
        canvas.label(boxes[i], f"{scores[i]:.2f}", colour)
    return canvas.image


def proposal_grid(
    drawings: Sequence[Drawing], names: Sequence[str], title: str, columns: int = 3
) -> UInt8[np.ndarray, "h w 3"]:
    """Drawings side by side under a title and a legend, each with its name and its count.

    Args:
        drawings: of any sizes.
        names: one per drawing.
        title: first line of the page.
        columns: at most so many side by side.

    Returns:
        RGB.
    """
    gap, header = 14, 78
    columns = max(1, min(columns, len(drawings)))
    cell = max((drawing.image.shape[1] for drawing in drawings), default=0)
    tiles = [_tile(drawing, name, cell) for drawing, name in zip(drawings, names, strict=True)]
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    heights = [max(len(tile) for tile in row) for row in rows]
    legend = _legend()
    text_width = max(legend.shape[1], _text_size(title, 0.7)[0])
    width = gap + max(columns * (cell + gap), text_width + gap)
    page = np.full((header + sum(heights) + gap * len(rows), width, 3), 255, np.uint8)
    cv2.putText(page, title, (gap, 30), FONT, 0.7, DARK, 1, cv2.LINE_AA)
    page[40 : 40 + len(legend), gap : gap + legend.shape[1]] = legend
    y = header
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            x = gap + column * (cell + gap)
            page[y : y + len(tile), x : x + cell] = tile
        y += height + gap
    return page


def write_png(path: str | os.PathLike[str], image: UInt8[np.ndarray, "h w 3"]) -> None:
    """Writes a PNG file that is whole or not there at all.

    Args:
        path: the file.
        image: RGB.

    Raises:
        InputError: the file cannot be written.
    """
    encoded = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))[1]
    write_whole(Path(path), encoded.tobytes())


class _Canvas:
    """A resized image that takes boxes in the original's pixels."""

    def __init__(self, image: np.ndarray, scale: float):
        height, width = image.shape[:2]
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        self.image = cv2.resize(np.ascontiguousarray(image), size, interpolation=method)
        self._scale = np.array([size[0] / width, size[1] / height] * 2)
        self._end = np.array([0.0, 0.0, 1.0, 1.0])  # x2, y2 name the last pixel, not its end
        # Lines and letters grow with images that are kept large.
        self._unit = max(1, round(max(size) / (2 * LONG_SIDE)))
        self._labels: list[tuple[int, int, int, int]] = []

    def box(self, box: np.ndarray, colour: Colour, width: int) -> None:
        """A solid line with a dark border, so that it stands out on any background."""
        x1, y1, x2, y2 = self._place(box)
        # OpenCV centres odd widths only: a border of one pixel shows on one side of an even line.
        border = 2 if width % 2 else 1
        cv2.rectangle(self.image, (x1, y1), (x2, y2), DARK, (width + border) * self._unit)
        cv2.rectangle(self.image, (x1, y1), (x2, y2), colour, width * self._unit)

    def dashed_box(self, box: np.ndarray, colour: Colour) -> None:
        """A dashed line with dark gaps, and a cross in the middle."""
        x1, y1, x2, y2 = self._place(box)
        line, dash, period = 2 * self._unit, 6 * self._unit, 16 * self._unit
        cv2.rectangle(self.image, (x1, y1), (x2, y2), DARK, line)
        for x in range(x1, x2 + 1, period):
            for y in (y1, y2):
                cv2.line(self.image, (x, y), (min(x + dash, x2), y), colour, line)
        for y in range(y1, y2 + 1, period):
            for x in (x1, x2):
                cv2.line(self.image, (x, y), (x, min(y + dash, y2)), colour, line)
        arm = min(8 * self._unit, (x2 - x1) // 4, (y2 - y1) // 4)
        x, y = (x1 + x2) // 2, (y1 + y2) // 2
        for shade, extra in ((DARK, 2 * self._unit), (colour, 0)):
            for way in (-1, 1):
                ends = (x - arm, y - way * arm), (x + arm, y + way * arm)
                cv2.line(self.image, *ends, shade, line + extra, cv2.LINE_AA)

    def label(self, box: np.ndarray, text: str, colour: Colour) -> None:
        """Text at the first corner of the box where it covers no other label."""
        size, pad = 0.42 * self._unit, 2 * self._unit
        text_width, text_height = _text_size(text, size)
        width, height = text_width + 2 * pad, text_height + 2 * pad
        x1, y1, x2, y2 = self._place(box)
        limit_y, limit_x = self.image.shape[:2]
        corners = [(x1, y1 - height), (x1, y2), (x2 - width, y1 - height), (x2 - width, y2)]
        for x, y in [*corners, (x1, y1), (x2 - width, y2 - height)]:
            x, y = max(0, min(x, limit_x - width)), max(0, min(y, limit_y - height))
            area = (x, y, x + width, y + height)
            if not any(_overlap(area, other) for other in self._labels):
                break
        else:
            return
        self._labels.append(area)
        cv2.rectangle(self.image, area[:2], (area[2] - 1, area[3] - 1), colour, cv2.FILLED)
        origin = (x + pad, y + height - pad - self._unit)
        cv2.putText(self.image, text, origin, FONT, size, DARK, self._unit, cv2.LINE_AA)

    def _place(self, box: np.ndarray) -> tuple[int, int, int, int]:
        """Corners on the canvas, of the first and the last pixel inside the box."""
        height, width = self.image.shape[:2]
        x1, y1, x2, y2 = (box + self._end) * self._scale - self._end
        x1, x2 = (int(np.clip(round(x), 0, width - 1)) for x in (x1, x2))
        y1, y2 = (int(np.clip(round(y), 0, height - 1)) for y in (y1, y2))
        return x1, y1, x2, y2


def _tile(drawing: Drawing, name: str, cell: int) -> np.ndarray:
    """A drawing in the middle of a cell, under its name and count."""
    height, width = drawing.image.shape[:2]
    caption = 26
    tile = np.full((height + caption, cell, 3), 255, np.uint8)
    left = (cell - width) // 2
    tile[caption:, left : left + width] = drawing.image
    count = f"{drawing.found} of {drawing.boxes} found" if drawing.boxes else "no boxes"
    count_width = _text_size(count, 0.5)[0]
    while name and _text_size(name, 0.5)[0] > cell - count_width - 20:
        name = name[:-4] + "..." if len(name) > 4 else ""
    cv2.putText(tile, name, (0, 18), FONT, 0.5, DARK, 1, cv2.LINE_AA)
    cv2.putText(tile, count, (cell - count_width - 2, 18), FONT, 0.5, GREY, 1, cv2.LINE_AA)
    return tile


def _legend() -> np.ndarray:
    """Samples of the three kinds of box with their meanings."""
    texts = (
        f"found: a proposal with IoU >= {FOUND_IOU}",
        "missed",
        "its best proposal: IoU / score",
    )
    widths = [_text_size(text, 0.5)[0] + 76 for text in texts]
    page = np.full((28, sum(widths), 3), 255, np.uint8)
    x = 0
    for kind, (text, width) in enumerate(zip(texts, widths, strict=True)):
        sample = _Canvas(np.full((26, 46, 3), 225, np.uint8), 1.0)
        box = np.array([3.0, 3.0, 42.0, 22.0])
        if kind == 0:
            sample.box(box, FOUND, width=3)
        elif kind == 1:
            sample.dashed_box(box, MISSED)
        else:
            sample.box(box, PROPOSAL, width=2)
        page[1:27, x : x + 46] = sample.image
        cv2.putText(page, text, (x + 54, 19), FONT, 0.5, DARK, 1, cv2.LINE_AA)
        x += width
    return page


def _shade(value: np.uint8) -> Colour:
    """A colour between purple and yellow that also grows in brightness."""
    blue, green, red = cv2.applyColorMap(np.full((1, 1), value), cv2.COLORMAP_PLASMA)[0, 0]
    return int(red), int(green), int(blue)


def _text_size(text: str, size: float) -> tuple[int, int]:
    (width, height), _ = cv2.getTextSize(text, FONT, size, 1)
    return int(width), int(height)


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
