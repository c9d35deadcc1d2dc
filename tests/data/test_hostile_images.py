"""Odd images are read as OpenCV's colour mode reads them; damaged ones are one line."""

import base64
import io
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdet.data import headers
from jaxdet.data import image as transforms
from jaxdet.data.image import decode_image, read_image, read_size
from jaxdet.errors import InputError

NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
SMOOTH = cv2.GaussianBlur(NOISE, (9, 9), 3)
FORMATS = [".jpg", ".png", ".webp", ".bmp", ".tiff"]
if cv2.haveImageWriter("a.gif"):
    FORMATS.append(".gif")


def encoded(suffix, *options):
    good, data = cv2.imencode(suffix, SMOOTH, options)
    assert good
    return data.tobytes()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(size, depth, colour, pixels, *more, after=()):
    """A PNG whose rows are given with their filter bytes."""
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    body = [chunk(b"IHDR", header), *more, chunk(b"IDAT", zlib.compress(pixels)), *after]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body) + chunk(b"IEND", b"")


def frame(number):
    """What announces a frame of one pixel in an animated PNG."""
    return chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, 1, 1, 0, 0, 1, 10, 0, 0))


RED, BLUE = [200, 30, 10], [0, 0, 255]
PALETTE = chunk(b"PLTE", bytes(RED + BLUE))
SECOND = chunk(b"fdAT", struct.pack(">I", 2) + zlib.compress(bytes([0, *BLUE])))
ODD = {
    "palette": (png((2, 1), 8, 3, b"\0\0\1", PALETTE), [RED, BLUE]),
    "one-bit palette": (png((2, 1), 1, 3, b"\0\x40", PALETTE), [RED, BLUE]),
    "palette with alpha": (
        png((2, 1), 8, 3, b"\0\0\1", PALETTE, chunk(b"tRNS", b"\0\x80")),
        [RED, BLUE],
    ),
    "black and white": (png((2, 1), 1, 0, b"\0\x40"), [[0] * 3, [255] * 3]),
    "grey and alpha": (png((2, 1), 8, 4, b"\0\x20\0\x90\x40"), [[32] * 3, [144] * 3]),
    "16-bit grey": (png((2, 1), 16, 0, b"\0\x20\x11\x90\xee"), [[32] * 3, [144] * 3]),
    "16-bit colour and alpha": (png((1, 1), 16, 6, b"\0\xc8\1\x1e\2\x0a\3\x80\4"), [RED]),
    "animated PNG": (
        png(
            (1, 1), 8, 2, bytes([0, *RED]), chunk(b"acTL", struct.pack(">II", 2, 0)), frame(0),
            after=(frame(1), SECOND),
        ),
        [RED],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "pixels"), ODD.values(), ids=ODD)
def test_odd_png_is_read_as_three_bytes_and_first_frame(data, pixels):
    assert decode_image(data, "a.png")[0].tolist() == pixels


# Two frames of 7 x 9: red, then blue.
ANIMATED_WEBP = (
    "UklGRoYAAABXRUJQVlA4WAoAAAACAAAACAAABgAAQU5JTQYAAAAAAAAAAABBTk1GKgAAAAAAAAAAAAgAAAYAAGQAAAJW"
    "UDhMEQAAAC8IgAEAB1CPIleh/4GI6H8AAEFOTUYoAAAAAAAAAAAACAAABgAAZAAAAFZQOEwPAAAALwiAAQAHENH//gci"
    "ov8BAA=="
)


@pytest.mark.skipif(not hasattr(cv2, "imdecodeanimation"), reason="this OpenCV reads no animation")
def test_the_first_frame_of_an_animated_webp_is_read(tmp_path):
    path = tmp_path / "moving.webp"
    path.write_bytes(base64.b64decode(ANIMATED_WEBP))
    assert (read_image(path, expected_size=(7, 9)) == RED).all()
    assert read_size(path) == (7, 9)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_that_of_the_references_call(tmp_path, orientation):
    """The reference reads with `cv2.imread(path, IMREAD_COLOR)`, which turns images."""
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    exif = b"Exif\0\0" + tiff
    data = encoded(".jpg")
    path = tmp_path / "turned.jpg"
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])
    found = read_image(path)
    np.testing.assert_array_equal(found[..., ::-1], cv2.imread(str(path), cv2.IMREAD_COLOR))
    path.write_bytes(path.read_bytes()[:-100])  # the size is in the header, also when turned
    assert read_size(path) == found.shape[:2] == ((40, 60) if orientation < 5 else (60, 40))


def refusal(data):
    with pytest.raises(InputError) as caught:
        decode_image(data, "an image")
    line = str(caught.value)
    assert line.startswith("an image: ")
    assert "\n" not in line
    return line


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_image_cut_off_anywhere_is_refused(suffix):
    """Also a JPEG of which a few pixels are missing, which older OpenCVs make up."""
    data = encoded(suffix)
    for length in (*range(0, len(data) - 3, len(data) // 40), len(data) - 3):
        refusal(data[:length])


def test_a_jpeg_that_lacks_its_end_marker_alone_is_read():
    data = encoded(".jpg")
    for length in (len(data) - 2, len(data) - 1):
        found = decode_image(data[:length], "an image")
        np.testing.assert_array_equal(found, decode_image(data, "an image"))


def test_progressive_jpeg_is_read_and_refused_when_cut_between_scans():
    data = encoded(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    decode_image(data, "an image")
    assert data.count(b"\xff\xda") > 2
    refusal(data[: data.rindex(b"\xff\xda")])


def test_a_thumbnails_end_is_not_the_images_end():
    thumbnail = encoded(".jpg")
    extra = b"\xff\xe5" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    data = thumbnail[:2] + extra + thumbnail[2:]
    assert decode_image(data + b"more", "an image").shape == (40, 60, 3)
    refusal(data[:-40])


def test_damaged_png_is_refused_without_a_word_of_the_decoder(capfd):
    data = encoded(".png")
    for place in (17, 30, len(data) // 2, len(data) - 14):
        refusal(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        refusal(data[:place])
    assert capfd.readouterr() == ("", "")


def test_the_pixel_limit_is_200_million_for_every_format():
    assert transforms.MAX_PIXELS == 200_000_000
    side = 15_000
    jpeg = encoded(".jpg")
    sof = jpeg.index(b"\xff\xc0") + 5
    bombs = {
        "png": png((side, side), 8, 0, b""),
        "jpeg": jpeg[:sof] + struct.pack(">HH", side, side) + jpeg[sof + 4 :],
        "gif": b"GIF89a" + struct.pack("<HH", side, side) + bytes(9),
        "bmp": b"BM" + bytes(12) + struct.pack("<Iii", 40, side, -side) + bytes(40),
        "webp": b"RIFF....WEBPVP8X" + bytes(8) + (side - 1).to_bytes(3, "little") * 2,
        "tiff": b"II*\0" + struct.pack("<IH", 8, 2)
        + b"".join(struct.pack("<HHII", tag, 4, 1, side) for tag in (256, 257)),
    }  # fmt: skip
    for data in bombs.values():
        assert "15000 x 15000 pixels; images over 200000000 are refused" in refusal(data)


def test_a_second_size_in_a_tiff_does_not_hide_the_first():
    tags = [(256, 30_000), (256, 5), (257, 30_000), (257, 5)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, side) for tag, side in tags)
    assert "30000 x 30000" in refusal(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries)


def test_a_frame_header_behind_no_marker_is_not_believed():
    """Decoders skip FF 00 and look for the next marker: a size within what they skip is false."""
    fake = b"\xff\x00" + struct.pack(">H", 40)
    assert headers.stored_size(io.BytesIO(b"\xff\xd8" + fake + encoded(".jpg"))) is None


PADDING = {
    "comments": lambda jpeg, png: jpeg[:2] + b"\xff\xfe\0\2" * 10**5 + jpeg[2:],
    "comments before the pixels": lambda jpeg, png: (
        jpeg[: jpeg.index(b"\xff\xda")] + b"\xff\xfe\0\2" * 10**5 + jpeg[jpeg.index(b"\xff\xda") :]
    ),
    "comments between scans": lambda jpeg, png: (
        jpeg[: jpeg.rindex(b"\xff\xda")] + b"\xff\xfe\0\2" * 5000 + jpeg[jpeg.rindex(b"\xff\xda") :]
    ),
    "fill bytes": lambda jpeg, png: jpeg[:2] + b"\xff" * 10**5 + jpeg[2:],
    "scans": lambda jpeg, png: jpeg[:-2] + jpeg[jpeg.rindex(b"\xff\xda") : -2] * 23 + jpeg[-2:],
    "chunks": lambda jpeg, png: png[:33] + chunk(b"teXt", b"") * 5000 + png[33:],
    "chunks at the end": lambda jpeg, png: png[:-12] + chunk(b"teXt", b"") * 2**18 + png[-12:],
}


@pytest.mark.parametrize("pad", PADDING.values(), ids=PADDING)
def test_what_is_padded_to_cost_time_is_refused(pad):
    jpeg, png = encoded(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1), encoded(".png")
    assert jpeg.count(b"\xff\xda") == 10
    refusal(pad(jpeg, png))


def test_markers_within_segments_are_not_the_images():
    """As a colour profile may hold them, and a film behind the image."""
    jpeg = encoded(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    scan = jpeg.rindex(b"\xff\xda")
    content = 50 * b"\xff\xda\0\4\xff\xd9"
    comment = b"\xff\xfe" + struct.pack(">H", len(content) + 2) + content
    padded = jpeg[:2] + comment + jpeg[2:scan] + comment + jpeg[scan:] + content
    np.testing.assert_array_equal(decode_image(padded, "x"), decode_image(jpeg, "x"))


def test_pipes_devices_and_oversized_files_are_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", "/dev/zero", tmp_path):
        with pytest.raises(InputError, match="not a regular file"):
            read_image(path)
    with pytest.raises(InputError, match="no file can have this name"):
        read_image("a\0.jpg")
    with (tmp_path / "large.bmp").open("wb") as file:
        file.truncate(transforms.MAX_BYTES + 1)  # sparse: takes no room
    with pytest.raises(
        InputError, match=r"large\.bmp: .*not a regular file of at most 1600000000 bytes"
    ):
        read_image(tmp_path / "large.bmp")


EDITS = st.lists(
    # Half of them within the first 120 bytes, where headers and tables are.
    st.tuples(st.integers(0, 119) | st.integers(0, 10**6), st.integers(0, 255)),
    min_size=1,
    max_size=4,
)


def read_with_changed_bytes(suffix, count, monkeypatch):
    """`count` times: an image of its claimed size comes out, or one line."""
    original = encoded(suffix)
    # A lower limit, so that no time goes into large images that a header makes of a small one.
    monkeypatch.setattr(transforms, "MAX_PIXELS", 1_000_000)

    @settings(max_examples=count, deadline=None, database=None)
    @given(EDITS)
    def check(edits):
        data = bytearray(original)
        for place, value in edits:
            data[place % len(data)] = value
        try:
            image = decode_image(bytes(data), "an image")
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert image.dtype == np.uint8
            stored = headers.stored_size(io.BytesIO(data))
            if suffix == ".tiff":  # of a tag given twice the larger counts; decoders take either
                pairs = zip(sorted(stored), sorted(image.shape[:2]), strict=True)
                assert all(side >= real for side, real in pairs)
            else:
                assert stored in (image.shape[:2], image.shape[1::-1])

    check()


@pytest.mark.parametrize("suffix", FORMATS)
def test_changed_bytes_are_an_image_or_refused(suffix, monkeypatch):
    read_with_changed_bytes(suffix, 200, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FORMATS)
def test_many_changed_bytes_are_an_image_or_refused(suffix, monkeypatch):
    read_with_changed_bytes(suffix, 5000, monkeypatch)
