"""The embedded `shapes` set: COCO-format images made on the spot, the same on every machine.

As in COCO there are overlapping shapes of many sizes, crowds that are one annotation, ignored
objects, images without any box, and boxes and masks of the visible part only.
"""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from jaxdet.data.masks import rle_of
from jaxdet.errors import InputError
from jaxdet.files import CACHE_ADVICE, cache_folder, whole_folder

SEED = 2018
NUM_IMAGES = {"train": 800, "val": 100}
LONG_SIDE = 160
SHORT_SIDES = (104, 112, 120, 128, 144)

MAX_SHAPES = 6
SIZE_RANGE = (16.0, 110.0)  # square root of width x height, in pixels: most are small
MAX_ASPECT = 2.6  # width over height, at most this or at least its inverse, before rotation
MIN_VISIBLE = 0.85  # a shape that would hide more of another one is placed elsewhere
MIN_BOX_SIDE = 8
MIN_CONTRAST = 110.0  # RGB distance between a shape and what it covers
ATTEMPTS = 12

EMPTY_SHARE = 0.03  # of the images
CROWD_SHARE = 0.05  # of the images
IGNORE_SHARE = 0.02  # of the shapes

Grid = Float64[np.ndarray, "h w"]
Mask = Bool[np.ndarray, "h w"]


class Pose(NamedTuple):
    """Where a shape lies, in pixels and radians."""

    x: float
    y: float
    half_width: float
    half_height: float
    angle: float


def make_shapes() -> Path:
    """Makes the set in the cache folder unless it is there; returns its COCO directory.

    Raises `InputError` if the folder cannot be written.
    """
    # Changes with the code that draws, so that a cached set is never out of date.
    version = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    root = cache_folder() / f"shapes-{version}"
    if root.is_dir():
        return root
    try:
        with whole_folder(root) as unfinished:
            for split, count in NUM_IMAGES.items():
                _write_split(unfinished, split, count)
    except InputError as error:
        if not root.is_dir():  # else another process was first
            raise InputError(f"{error}; {CACHE_ADVICE}") from error
    return root


def _write_split(root: Path, split: str, count: int) -> None:
    folder = root / f"{split}2017"
    folder.mkdir(parents=True)
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for number in range(count):
        image, found = draw(split, number)
        # Ids as in COCO: unlike positions, and different in the two splits.
        image_id = 1000 * (1 + number) + len(split)
        name = f"{image_id:012d}.png"
        png = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
        (folder / name).write_bytes(png.tobytes())
        height, width, _ = image.shape
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        first = len(annotations) + 1
        annotations += [{"id": first + i, "image_id": image_id, **a} for i, a in enumerate(found)]
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(SHAPES_CLASSES)],
    }
    path = root / "annotations" / f"instances_{split}2017.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def draw(split: str, number: int) -> tuple[UInt8[np.ndarray, "h w 3"], list[dict[str, Any]]]:
    """Draws an image in RGB, with annotations without ids, from its split and number alone."""
    rng = np.random.default_rng([SEED, len(split), number])
    size = (int(rng.choice(SHORT_SIDES)), LONG_SIDE)
    canvas = _Canvas(rng, size if rng.random() < 0.7 else size[::-1])
    if rng.random() >= EMPTY_SHARE:
        if rng.random() < CROWD_SHARE:
            canvas.add_crowd()
        for _ in range(int(rng.integers(1, MAX_SHAPES + 1))):
            canvas.add_shape()
    # With the noise of a sensor.
    noise = rng.standard_normal(canvas.image.shape, np.float32)
    image = np.clip(np.rint(canvas.image + 3 * noise), 0, 255).astype(np.uint8)
    return image, canvas.annotations()


class _Canvas:
    """An image being drawn, with the number of the shape that each pixel shows."""

    def __init__(self, rng: np.random.Generator, size: tuple[int, int]):
        self.rng, self.size = rng, size
        self.image = _background(rng, size)
        self.shown = np.full(size, -1, np.int64)  # -1 is the background
        self.full_areas: list[int] = []
        self.records: list[dict[str, Any]] = []

    def add_shape(self) -> None:
        """Paints a shape that leaves enough of the others; gives up after some attempts."""
        for _ in range(ATTEMPTS):
            kind = int(self.rng.integers(len(SHAPES_CLASSES)))
            mask = mask_of(kind, self._random_pose(), self.size)
            if self._fits(mask):
                ignore = int(self.rng.random() < IGNORE_SHARE)
                self._paint(mask, {"category_id": kind + 1, "iscrowd": 0, "ignore": ignore})
                return

    def add_crowd(self) -> None:
        """Paints many small discs, too close to be told apart, as one annotation."""
        kind = SHAPES_CLASSES.index("ellipse")
        height, width = self.size
        rows, columns = self.rng.integers(3, 5), self.rng.integers(4, 8)
        step = self.rng.uniform(6, 8)
        top = self.rng.uniform(0, height - rows * step)
        left = self.rng.uniform(0, width - columns * step)
        mask = np.zeros(self.size, bool)
        for row, column in np.ndindex(int(rows), int(columns)):
            jitter_x, jitter_y = self.rng.uniform(-1, 1, 2)
            x = left + (column + 0.5) * step + jitter_x
            y = top + (row + 0.5) * step + jitter_y
            mask |= mask_of(kind, Pose(x, y, 2.6, 2.6, 0.0), self.size)
        self._paint(mask, {"category_id": kind + 1, "iscrowd": 1, "ignore": 0})

    def annotations(self) -> list[dict[str, Any]]:
        """Returns COCO annotations of the visible parts."""
        found = []
        for number, record in enumerate(self.records):
            visible = self.shown == number
            box, area = list(cv2.boundingRect(visible.astype(np.uint8))), int(visible.sum())
            found.append({"bbox": box, "area": area, "segmentation": rle_of(visible), **record})
        return found

    def _random_pose(self) -> Pose:
        rng, (height, width) = self.rng, self.size
        side = math.exp(rng.uniform(*np.log(SIZE_RANGE)))
        stretch = math.exp(0.5 * rng.uniform(-1, 1) * math.log(MAX_ASPECT))
        half_width, half_height = 0.5 * side * stretch, 0.5 * side / stretch
        angle = rng.uniform(-math.pi, math.pi) if rng.random() < 0.4 else 0.0
        # The edge of the image cuts off a quarter at most, before rotation.
        x = rng.uniform(0.5 * half_width, width - 0.5 * half_width)
        y = rng.uniform(0.5 * half_height, height - 0.5 * half_height)
        return Pose(x, y, half_width, half_height, angle)

    def _fits(self, mask: Mask) -> bool:
        """Returns whether the shape is mostly in the image and hides no other one too much."""
        if mask.any(0).sum() < MIN_BOX_SIDE or mask.any(1).sum() < MIN_BOX_SIDE:
            return False
        left = self.shown[~mask & (self.shown >= 0)]
        areas = np.bincount(left, minlength=len(self.records))
        return bool((areas >= MIN_VISIBLE * np.array(self.full_areas)).all())

    def _paint(self, mask: Mask, record: dict[str, Any]) -> None:
        """Fills in a colour that stands out from what the mask covers, with stripes or a shade."""
        rng = self.rng
        behind = self.image[mask].mean(0)
        colour = rng.uniform(20, 235, 3).astype(np.float32)
        while np.linalg.norm(colour - behind) < MIN_CONTRAST:
            colour = rng.uniform(20, 235, 3).astype(np.float32)
        strength = np.float32(rng.uniform(0, 14))
        shade = strength * _waves(rng, self.size, (6.0, 60.0))[mask]
        self.image[mask] = colour + shade[:, None]
        self.shown[mask] = len(self.records)
        self.full_areas.append(int(mask.sum()))
        self.records.append(record)


def _background(rng: np.random.Generator, size: tuple[int, int]) -> Float32[np.ndarray, "h w 3"]:
    """Returns waves of colour with speckle: textured, but without the edges of a shape."""
    base = rng.uniform(50, 205, 3)
    image = np.broadcast_to(base, (*size, 3)).astype(np.float32)
    for _ in range(3):
        tint = rng.uniform(-10, 10, 3).astype(np.float32)
        image = image + tint * _waves(rng, size, (5.0, 120.0))[..., None]
    speckle = np.float32(rng.uniform(0, 8))
    return image + speckle * rng.standard_normal((*size, 1), np.float32)


def _waves(
    rng: np.random.Generator, size: tuple[int, int], wavelengths: tuple[float, float]
) -> Float32[np.ndarray, "h w"]:
    """Returns a plane wave in [-1, 1] of random direction, phase and wavelength (pixels)."""
    angle, phase = rng.uniform(0, 2 * math.pi, 2)
    length = math.exp(rng.uniform(*np.log(wavelengths)))
    # sin(a + b) by its parts: a row and a column instead of every pixel.
    row = np.arange(size[1]) * (math.cos(angle) * 2 * math.pi / length) + phase
    column = np.arange(size[0])[:, None] * (math.sin(angle) * 2 * math.pi / length)
    wave = np.sin(row) * np.cos(column) + np.cos(row) * np.sin(column)
    return wave.astype(np.float32)


def mask_of(kind: int, pose: Pose, size: tuple[int, int]) -> Mask:
    """Returns the pixels of an image of (height, width) whose centres lie in a shape.

    `kind` is a position in `SHAPES_CLASSES`.
    """
    x = np.arange(size[1]) - pose.x
    y = np.arange(size[0])[:, None] - pose.y
    cos, sin = np.cos(pose.angle), np.sin(pose.angle)
    u = (x * cos + y * sin) / pose.half_width
    v = (y * cos - x * sin) / pose.half_height
    return _INSIDE[SHAPES_CLASSES[kind]](u, v)


def _star(u: Grid, v: Grid) -> Mask:
    """Returns what lies within five points at radius 1 and five notches at 0.45."""
    half = np.pi / 5
    angle = abs((np.arctan2(u, -v) + half) % (2 * half) - half)  # 0 at a point, `half` at a notch
    edge = 0.45 * np.sin(half) / (np.sin(angle) + 0.45 * np.sin(half - angle))
    return np.hypot(u, v) <= edge


# Formulas, so that the pixels are the same everywhere.  A shape's own coordinates u, v run from
# -1 to 1 over its width and height.
_INSIDE: dict[str, Callable[[Grid, Grid], Mask]] = {
    "rectangle": lambda u, v: (abs(u) <= 1) & (abs(v) <= 1),
    "ellipse": lambda u, v: u**2 + v**2 <= 1,
    "triangle": lambda u, v: (v <= 1) & (2 * abs(u) <= v + 1),
    "diamond": lambda u, v: abs(u) + abs(v) <= 1,
    "ring": lambda u, v: (u**2 + v**2 <= 1) & (u**2 + v**2 >= 0.3),
    "cross": lambda u, v: (np.maximum(abs(u), abs(v)) <= 1) & (np.minimum(abs(u), abs(v)) <= 0.4),
    "star": _star,
}
SHAPES_CLASSES = tuple(_INSIDE)
