"""Picture sizes from file headers, so that nothing large is decoded by surprise.

Knows the formats that jaxdet reads; everything else is refused before a decoder sees it.
"""

import struct

FORMATS = "JPEG, PNG, WebP, BMP, GIF or TIFF"


def stored_size(data: bytes) -> tuple[int, int] | None:
    """Reads (height, width) as stored, before any EXIF rotation.

    Args:
        data: The file's content.

    Returns:
        The size in pixels, or None if this is no picture of a known format.
    """
    for magic, read in _READERS:
        if data.startswith(magic):
            try:
                return read(data)
            except (struct.error, IndexError):  # the file ends within its header
                return None
    return None


def may_be_rotated(data: bytes) -> bool:
    """True if the file may carry an orientation that swaps height and width."""
    return data.startswith((b"II*\0", b"MM\0*")) or b"Exif" in data or b"EXIF" in data


def _jpeg(data: bytes) -> tuple[int, int] | None:
    position = 2
    while data[position] == 0xFF:
        marker = data[position + 1]
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
    sides = {}
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(f"{order}HH", data, entry)
        if tag in (256, 257) and kind in (3, 4):  # width, height; 16 or 32 bits
            (sides[tag],) = struct.unpack_from(order + "HI"[kind - 3], data, entry + 8)
    return (sides[257], sides[256]) if len(sides) == 2 else None


_READERS = (
    (b"\xff\xd8\xff", _jpeg),
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"GIF8", _gif),
    (b"BM", _bmp),
    (b"RIFF", _webp),
    (b"II*\0", _tiff),
    (b"MM\0*", _tiff),
)
