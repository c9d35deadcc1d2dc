"""Image sizes from file headers, so that nothing large is decoded by surprise.

By hand, because what Pillow opens is not what OpenCV decodes: it refuses large WebP files before
our limit, refuses PNG files that OpenCV reads (a large colour profile), and takes the smaller of
two sizes in a TIFF; a JPEG's size takes it twelve times as long.  Files of formats that are not
listed here never reach a decoder.
"""

import contextlib
import io
import re
import struct
import warnings
import zlib
from typing import Any

from PIL import ExifTags, Image

FORMATS = "JPEG, PNG, WebP, BMP, GIF or TIFF"

# More is made to cost time: padding, or passes over all pixels that change none.
_MAX_PARTS = 4096  # segments, chunks and single bytes of padding, before the pixels or between
_MAX_SCANS = 32  # of a JPEG; progressive ones of three colours have 10, of four 18
_MAX_CHUNKS = 2**18  # of a PNG; 200 million pixels in parts of 8 kB are 73,000

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_MARKER = re.compile(rb"\xff([^\0\xff\xd0-\xd7])")  # within a JPEG's pixels: what ends them
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap height and width


def stored_size(file: io.BufferedIOBase) -> tuple[int, int] | None:
    """Reads (height, width) before any EXIF rotation; None if this is no image of `FORMATS`."""
    try:
        width, height = _width_and_height(file)
    except struct.error:  # the file ends within its header
        return None
    return (height, width) if min(width, height) > 0 else None


def is_sideways(file: io.BufferedIOBase) -> bool | None:
    """Returns whether EXIF swaps height and width, or None where only decoding shows it."""
    file.seek(0)
    if file.read(4).startswith((b"GIF8", b"BM")):  # which have no EXIF
        return False
    exif = Image.Exif()
    try:
        with warnings.catch_warnings(action="error"):  # of images that it finds large
            known = ("JPEG", "PNG", "WEBP")
            image = Image.open(file, formats=known)  # type: ignore[arg-type]
            exif.load(image.info.get("exif", b""))
    except Exception:  # of many kinds: a TIFF, or broken for Pillow and perhaps not for OpenCV
        return None
    return exif.get(ExifTags.Base.Orientation) in _SIDEWAYS


def is_whole(data: bytes) -> bool:
    """Returns False if a JPEG ends early, or a PNG is cut off or has a wrong checksum.

    Or if either consists of more parts than any camera or program writes.

    Decoders before OpenCV 5 make up what is missing of a JPEG; those of PNG print what they find,
    and may take seconds over it.  Other formats' decoders notice by themselves.
    """
    if data.startswith(_JPEG):
        scans, ended = _scans(data)
        return ended and 0 < scans <= _MAX_SCANS
    if not data.startswith(_PNG):
        return True
    position = len(_PNG)
    with contextlib.suppress(struct.error):
        for _ in range(_MAX_CHUNKS):
            length, kind = struct.unpack_from(">I4s", data, position)
            end = position + 8 + length
            (checksum,) = struct.unpack_from(">I", data, end)
            # A lower-case letter marks chunks that images can do without.
            if kind[:1].isupper() and zlib.crc32(memoryview(data)[position + 4 : end]) != checksum:
                return False
            if kind == b"IEND":
                return True
            position = end + 4
    return False


def _scans(data: bytes) -> tuple[int, bool]:
    """Returns how many scans a JPEG has, and whether its end marker follows.

    Goes from marker to marker as decoders do, over the pixels of each scan, and not too far.
    """
    position, scans = 2, 0
    for _ in range(_MAX_PARTS):
        found = _MARKER.search(data, position)
        if found is None or found[1] == b"\xd9" or scans > _MAX_SCANS:
            return scans, found is not None
        scans += found[1] == b"\xda"
        position = found.end() + int.from_bytes(data[found.end() : found.end() + 2])
    return 0, False


def with_end(data: bytes) -> bytes:
    """Returns a JPEG that lacks its end marker alone with one; other files as they are.

    Pillow, which looks eight bytes ahead, refuses what ends before its last pixel; where it does
    not, and whatever these bytes are the pixels are the same, nothing else is missing.  Of several
    scans a later one may be.
    """
    if not data.startswith(_JPEG) or _scans(data) != (1, False):
        return data
    scan = data.rstrip(b"\xff")
    with contextlib.suppress(Exception), warnings.catch_warnings(action="ignore"):
        texts = [io.BytesIO(scan + 8 * byte) for byte in (b"\0", b"\x55", b"\xaa", b"\xcc")]
        first, *others = [Image.open(x, formats=("JPEG",)).tobytes() for x in texts]
        if all(other == first for other in others):
            return scan + b"\xff\xd9"
    return data


def _width_and_height(file: io.BufferedIOBase) -> tuple[int, int]:
    """Raises an error of struct, or returns 0, where there is none."""
    file.seek(0)
    start = file.read(30)
    if start.startswith(_JPEG):
        return _jpeg(file)
    if start.startswith(_PNG + b"\0\0\0\rIHDR"):
        return _png(file)
    if start.startswith(b"GIF8"):
        return struct.unpack_from("<HH", start, 6)
    if start.startswith(b"BM"):
        is_old = start[14:18] == b"\x0c\0\0\0"
        width, height = struct.unpack_from("<HH" if is_old else "<ii", start, 18)
        return abs(width), abs(height)  # a negative height means top row first
    if start.startswith((b"II*\0", b"MM\0*")):
        return _tiff(file, "<" if start.startswith(b"I") else ">")
    if start.startswith(b"RIFF"):
        return _webp(start)
    return 0, 0


def _jpeg(file: io.BufferedIOBase) -> tuple[int, int]:
    position, size = 2, (0, 0)
    for _ in range(_MAX_PARTS):
        start, marker, length = _unpack(file, position, ">BBH")
        if start != 0xFF or marker == 0:  # decoders look for the next one: another size, perhaps
            raise struct.error
        if marker == 0xDA:  # the pixels
            return size
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame header
            height, width = _unpack(file, position + 5, ">HH")
            size = max(size[0], width), max(size[1], height)  # decoders may take either
        if marker == 0xFF:  # padding
            position += 1
        else:
            is_empty = marker == 0x01 or 0xD0 <= marker <= 0xD8
            position += 2 if is_empty else 2 + length
    return 0, 0


def _png(file: io.BufferedIOBase) -> tuple[int, int]:
    position = len(_PNG)
    for _ in range(_MAX_PARTS):
        length, kind = _unpack(file, position, ">I4s")
        if kind == b"IDAT":
            return _unpack(file, len(_PNG) + 8, ">II")
        position += 12 + length
    return 0, 0


def _webp(start: bytes) -> tuple[int, int]:
    kind = start[8:16]
    if kind == b"WEBPVP8X":
        low_w, high_w, low_h, high_h = struct.unpack_from("<HBHB", start, 24)
        return (high_w << 16 | low_w) + 1, (high_h << 16 | low_h) + 1
    if kind == b"WEBPVP8L":
        (bits,) = struct.unpack_from("<I", start, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"WEBPVP8 ":
        width, height = struct.unpack_from("<HH", start, 26)
        return width & 0x3FFF, height & 0x3FFF
    return 0, 0


def _tiff(file: io.BufferedIOBase, order: str) -> tuple[int, int]:
    (directory,) = _unpack(file, 4, f"{order}I")
    (count,) = _unpack(file, directory, f"{order}H")
    sides = {256: 0, 257: 0}
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, kind = _unpack(file, entry, f"{order}HH")
        if tag in sides and kind in (3, 4):  # 16 or 32 bits
            (side,) = _unpack(file, entry + 8, order + "HI"[kind - 3])
            sides[tag] = max(sides[tag], side)  # of a tag given twice, decoders may take either
    return sides[256], sides[257]


def _unpack(file: io.BufferedIOBase, position: int, layout: str) -> tuple[Any, ...]:
    file.seek(position)
    return struct.unpack(layout, file.read(struct.calcsize(layout)))
