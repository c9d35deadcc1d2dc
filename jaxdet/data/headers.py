"""Image sizes from file headers, so that nothing large is decoded by surprise.

Knows the formats that jaxdet reads; everything else is refused before a decoder sees it.  Pillow's
`Image.open` knows sizes too, but refuses large images by a setting of the whole process, and
believes a second size in a TIFF or behind a broken JPEG marker.
"""

import struct
import zlib

FORMATS = "JPEG, PNG, WebP, BMP, GIF or TIFF"

_PNG = b"\x89PNG\r\n\x1a\n"


def stored_size(data: bytes) -> tuple[int, int] | None:
    """Reads (height, width) as stored, before any EXIF rotation.

    Args:
        data: The file's content.

    Returns:
        The size in pixels, or None if this is no image of a known format.
    """
    for magic, read in _READERS:
        if data.startswith(magic):
            try:
                return read(data)
            except (struct.error, IndexError):  # the file ends within its header
                return None
    return None


def may_be_rotated(data: bytes) -> bool:
    """Returns whether the file may carry an orientation that swaps height and width."""
    return data.startswith((b"II*\0", b"MM\0*")) or b"Exif" in data or b"EXIF" in data


def is_whole(data: bytes) -> bool:
    """Returns false if a JPEG lacks its end marker, or a PNG is cut off or damaged.

    Decoders before OpenCV 5 make up what is missing of a JPEG; those of PNG print what they find,
    and may take seconds over it.  Other formats' decoders notice by themselves.
    """
    if data.startswith(b"\xff\xd8\xff"):
        # Neither marker occurs within compressed data; thumbnails come before the last scan.
        return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
    if data.startswith(_PNG):
        return _png_is_whole(data)
    return True


def _png_is_whole(data: bytes) -> bool:
    position, kind = len(_PNG), b""
    while kind != b"IEND":
        if position + 12 > len(data):
            return False
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            return False
        # A lower-case letter marks chunks that images can do without.
        if kind[:1].isupper() and zlib.crc32(data[position + 4 : end]) != int.from_bytes(
            data[end : end + 4], "big"
        ):
            return False
        position = end + 4
    return True


def _jpeg(data: bytes) -> tuple[int, int] | None:
    position = 2
    while data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0:  # no marker; decoders look for the next one, and might find another size
            return None
        if marker == 0xFF:  # padding
            position += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame header
            height, width = struct.unpack_from(">HH", data, position + 5)
            return height, width
        standalone = marker == 0x01 or 0xD0 <= marker <= 0xD8
        length = 0 if standalone else struct.unpack_from(">H", data, position + 2)[0]
        position += 2 + length
    return None


def _png(data: bytes) -> tuple[int, int] | None:
    width, height = struct.unpack_from(">II", data, 16)
    return (height, width) if data[12:16] == b"IHDR" else None


def _gif(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", data, 6)
    return height, width


def _bmp(data: bytes) -> tuple[int, int]:
    is_old = struct.unpack_from("<I", data, 14)[0] == 12
    width, height = struct.unpack_from("<HH" if is_old else "<ii", data, 18)
    return abs(height), abs(width)  # a negative height means top row first


def _webp(data: bytes) -> tuple[int, int] | None:
    kind = data[8:16]
    if kind == b"WEBPVP8X":
        sides = [int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27)]
        return (sides[1], sides[0]) if len(data) >= 30 else None
    if kind == b"WEBPVP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"WEBPVP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF
    return None


def _tiff(data: bytes) -> tuple[int, int] | None:
    order = "<" if data.startswith(b"II") else ">"
    (directory,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, directory)
    sides = {256: 0, 257: 0}
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(f"{order}HH", data, entry)
        if tag in (256, 257) and kind in (3, 4):  # width, height; 16 or 32 bits
            (side,) = struct.unpack_from(order + "HI"[kind - 3], data, entry + 8)
            sides[tag] = max(sides[tag], side)  # of a tag given twice, decoders may take either
    return sides[257], sides[256]


_READERS = (
    (b"\xff\xd8\xff", _jpeg),
    (_PNG, _png),
    (b"GIF8", _gif),
    (b"BM", _bmp),
    (b"RIFF", _webp),
    (b"II*\0", _tiff),
    (b"MM\0*", _tiff),
)
