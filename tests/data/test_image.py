import base64
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jaxdet.config import DataConfig
from jaxdet.data import image as transforms
from jaxdet.data.image import padded_size, read_image, read_size, resize, resize_boxes, resized_size
from jaxdet.errors import InputError
from jaxdet.ops.boxes import flip
from tests.reference_weights import seeded_image

RGB = np.random.default_rng(0).integers(0, 256, (13, 29, 3), dtype=np.uint8)
SMOOTH = np.linspace(40, 200, 13 * 29, dtype=np.uint8).reshape(13, 29, 1).repeat(3, 2)


def write(path, image):
    good, data = cv2.imencode(path.suffix, image)
    assert good
    path.write_bytes(data.tobytes())
    return path


def test_input_equals_the_reference_to_the_last_bit(golden):
    """Read, resize, normalise and pad: the network's input as the reference computed it."""
    expected = golden("forward_r50_fpn")
    image = seeded_image(480, 640, 0)[..., ::-1]
    size, f = resized_size((480, 640), DataConfig(image_scale=(448, 320)))
    assert size == tuple(expected["img_shape"])
    assert padded_size(size) == tuple(expected["pad_shape"])
    assert (f == np.float32(expected["scale_factor"])).all()
    mean = np.array([123.675, 116.28, 103.53], np.float32)
    std = np.array([58.395, 57.12, 57.375], np.float32)
    network_input = np.zeros((*padded_size(size), 3), np.float32)
    resized = resize(np.ascontiguousarray(image), size)
    network_input[: size[0], : size[1]] = (resized.astype(np.float32) - mean) / std
    np.testing.assert_array_equal(network_input.flat[expected["input_idx"]], expected["input_val"])


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff"])
def test_lossless_formats_are_read_as_rgb(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", RGB[..., ::-1])
    np.testing.assert_array_equal(read_image(path, expected_size=(13, 29)), RGB)
    assert read_size(path) == (13, 29)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_lossy_formats_are_read(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", SMOOTH)
    np.testing.assert_allclose(read_image(path), SMOOTH, atol=12)
    assert read_size(path) == (13, 29)


def test_grey_alpha_and_16_bits_become_three_bytes(tmp_path):
    grey = read_image(write(tmp_path / "grey.png", RGB[..., 0]))
    np.testing.assert_array_equal(grey, RGB[..., :1].repeat(3, axis=2))
    bgra = np.concatenate([RGB[..., ::-1], RGB[..., :1]], axis=2)
    np.testing.assert_array_equal(read_image(write(tmp_path / "alpha.png", bgra)), RGB)
    deep = RGB[..., ::-1].astype(np.uint16) * 256 + 77
    np.testing.assert_array_equal(read_image(write(tmp_path / "deep.png", deep)), RGB)


CMYK_JPEG = (
    "/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwAIBgYHBgUIBwcHCQkICgwUDQwLCwwZEhMPFB0aHx4dGhwcICQuJyAiLCMcHCg3"
    "KSwwMTQ0NB8nOT04MjwuMzQy/8AAFAgABwAJBEMRAE0RAFkRAEsRAP/EAB8AAAEFAQEBAQEBAAAAAAAAAAABAgMEBQYH"
    "CAkKC//EALUQAAIBAwMCBAMFBQQEAAABfQECAwAEEQUSITFBBhNRYQcicRQygZGhCCNCscEVUtHwJDNicoIJChYXGBka"
    "JSYnKCkqNDU2Nzg5OkNERUZHSElKU1RVVldYWVpjZGVmZ2hpanN0dXZ3eHl6g4SFhoeIiYqSk5SVlpeYmZqio6Slpqeo"
    "qaqys7S1tre4ubrCw8TFxsfIycrS09TV1tfY2drh4uPk5ebn6Onq8fLz9PX29/j5+v/aAA4EQwBNAFkASwAAPwD3+vNq"
    "8ir2Giiiiv/Z"
)
# Two frames: (200, 30, 10), then blue.
ANIMATION = (
    "R0lGODdhCQAHAIEAAMgeCgAAAAAAAAAAACwAAAAACQAHAAAIDwABCBxIsKDBgwgTKkQYEAAh+QQBAAABACwAAAAACQAH"
    "AIEAAP8AAAAAAAAAAAAIDwABCBxIsKDBgwgTKkQYEAA7"
)


def test_cmyk_is_converted(tmp_path):
    path = tmp_path / "print.jpg"
    path.write_bytes(base64.b64decode(CMYK_JPEG))
    image = read_image(path, expected_size=(7, 9))
    # Cyan 0, magenta 200, yellow 220, black 30 of 255: a dark red.
    expected = [(255 - ink) * (255 - 30) / 255 for ink in (0, 200, 220)]
    np.testing.assert_allclose(image, np.broadcast_to(expected, (7, 9, 3)), atol=12)


@pytest.mark.skipif(not cv2.haveImageWriter("a.gif"), reason="this OpenCV reads no GIF")
def test_the_first_frame_of_an_animation_is_read(tmp_path):
    path = tmp_path / "moving.gif"
    path.write_bytes(base64.b64decode(ANIMATION))
    assert (read_image(path, expected_size=(7, 9)) == [200, 30, 10]).all()
    assert read_size(path) == (7, 9)


def test_exif_rotation_is_applied(tmp_path):
    data = write(tmp_path / "a.jpg", SMOOTH).read_bytes()
    # One entry: orientation (0x0112), a 16-bit number, 6 = rotate by a quarter turn.
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    exif = b"Exif\0\0" + tiff
    path = tmp_path / "turned.jpg"
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])
    assert read_image(path).shape == (29, 13, 3)
    assert read_size(path) == (29, 13)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 5000, 3), (5000, 1, 3)])
def test_odd_sizes_survive_the_whole_way(tmp_path, shape):
    path = write(tmp_path / "odd.png", np.full(shape, 9, np.uint8))
    image = read_image(path)
    size, _ = resized_size(image.shape[:2], DataConfig())
    assert (resize(image, size) == 9).all()
    assert min(size) >= 1
    assert max(padded_size(size)) <= 1344


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def claimed_png(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_before_decoding(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    path.write_bytes(claimed_png(50_000, 40_000))

    def decode(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(transforms, "_decode", decode)
    with pytest.raises(InputError, match=r"bomb\.png: 50000 x 40000 pixels; .* 200000000"):
        read_image(path)


def test_the_annotated_size_must_be_right(tmp_path):
    path = write(tmp_path / "a.png", RGB)
    with pytest.raises(InputError, match=r"a\.png: image of 29 x 13 .* annotated as 13 x 29"):
        read_image(path, expected_size=(29, 13))


def test_exif_is_named_where_it_is_the_cause(tmp_path):
    path, exif = tmp_path / "a.jpg", Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(path, exif=exif)
    with pytest.raises(InputError, match=r"13 x 29 .* as 29 x 13; its EXIF turns it: annotate"):
        read_image(path, expected_size=(13, 29))


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_samples_that_are_no_colours_are_named(tmp_path, kind):
    path = write(tmp_path / "a.tiff", RGB[..., 0].astype(kind))
    with pytest.raises(InputError, match=f"samples are {kind.__name__}; save it with 8 or 16"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tiff"])
def test_a_truncated_image_is_refused(tmp_path, suffix):
    path = write(tmp_path / f"cut{suffix}", RGB)
    data = path.read_bytes()
    for length in (0, 3, 20, len(data) // 2):
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match=f"cut{suffix}: ") as error:
            read_image(path)
        assert "\n" not in str(error.value)


def test_what_is_no_image_is_refused(tmp_path):
    path = tmp_path / "a.jpg"
    with pytest.raises(InputError, match="No such file"):
        read_image(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_image(tmp_path)
    path.write_text("<html>")
    with pytest.raises(InputError, match="not a JPEG"):
        read_image(path)
    path.write_bytes(claimed_png(5, 5))
    with pytest.raises(InputError, match="cannot be decoded"):
        read_image(path)


MAGIC = st.sampled_from(
    [
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"BM",
        b"RIFF....WEBPVP8X",
        b"II*\0",
        b"MM\0*",
    ]
)


@given(MAGIC, st.binary(max_size=60))
def test_any_bytes_are_an_image_or_refused(tmp_path_factory, magic, data):
    path = tmp_path_factory.getbasetemp() / "fuzz"
    path.write_bytes(magic + data)
    for read in (read_image, read_size):
        try:
            read(path)
        except InputError as error:
            said = str(error)
            assert said.count("\n") == 0


@pytest.mark.parametrize(
    ("size", "scaled", "f"),
    [
        ((480, 640), (800, 1067), 800 / 480),
        ((640, 480), (1067, 800), 800 / 480),
        ((427, 640), (800, 1199), 800 / 427),
        ((360, 640), (750, 1333), 1333 / 640),
        ((640, 640), (800, 800), 1.25),
        ((100, 640), (208, 1333), 1333 / 640),
        ((2000, 3000), (800, 1200), 0.4),
    ],
)
def test_resized_size(size, scaled, f):
    found, scale = resized_size(size, DataConfig())
    assert found == scaled
    assert (scale == np.float32(f)).all()


def test_flip_follows_the_image():
    image = np.zeros((4, 10, 3), np.uint8)
    image[1:3, 2:5] = 255
    boxes = np.array([[2, 1, 4, 2]], np.float32)
    mirrored = flip(boxes, 10)
    np.testing.assert_array_equal(mirrored, [[5, 1, 7, 2]])  # x1' = w - 1 - x2
    assert (image[:, ::-1][1:3, 5:8] == 255).all()
    np.testing.assert_array_equal(flip(mirrored, 10), boxes)
    # In float32 (101 - x) - 1 is not 100 - x: the reference's order.
    x = np.float32(36.87612533569336)
    wanted = np.float32(101) - x - np.float32(1)
    assert flip(np.float32([[1, 1, x, 2]]), 101)[0, 0] == wanted != np.float32(100) - x


TWICE = np.full(2, 2, np.float32)


def test_boxes_are_scaled_flipped_and_clipped_in_this_order():
    boxes = np.array([[0, 0, 9, 9], [-3, 2, 3, 30]], np.float32)
    np.testing.assert_array_equal(
        resize_boxes(boxes, TWICE, (21, 17)), [[0, 0, 16, 18], [0, 4, 6, 20]]
    )
    np.testing.assert_array_equal(
        resize_boxes(boxes, TWICE, (21, 17), flip=True), [[0, 0, 16, 18], [10, 4, 16, 20]]
    )
    assert resize_boxes(np.zeros((0, 4), np.float32), TWICE, (21, 17)).shape == (0, 4)


def test_scale_multiplies_in_float32_as_the_reference():
    boxes = np.array([[0.1, 0.2, 100.7, 50.3]], np.float32)
    scale = np.full(2, 800 / 427, np.float32)
    np.testing.assert_array_equal(resize_boxes(boxes, scale, (800, 1199)), boxes * scale[0])


def test_padded_size():
    assert padded_size((32, 33)) == (32, 64)
    assert padded_size((31, 33), 1) == (31, 33)
