from pathlib import Path

import cv2
import numpy as np
import pytest

from jaxdet.data.masks import rle_of
from jaxdet.errors import InputError
from jaxdet.inference import visualize
from jaxdet.inference.single import Result
from jaxdet.inference.visualize import FOUND, LONG_SIDE, MISSED, PROPOSAL, Drawing


def boxes(*rows):
    return np.asarray(rows, np.float32).reshape(-1, 4)


def scores(*values):
    return np.asarray(values, np.float32)


def proposals(rows, *values):
    return Result(boxes(*rows), scores(*values))


def plain(height, width):
    return np.full((height, width, 3), 128, np.uint8)


def is_colour(image, colour):
    return (image == np.array(colour, np.uint8)).all(axis=-1)


def test_boxes_are_found_from_iou_one_half_among_the_best(monkeypatch):
    gt = boxes([0, 0, 9, 9], [40, 0, 49, 9], [0, 40, 9, 49])
    rows = [
        [0, 0, 9, 4],  # 50 of 100 pixels: just found
        [40, 0, 49, 3],  # 40 of 100: not
        [0, 40, 9, 49],  # exact, but third by score
    ]
    ranked = proposals(rows, 0.9, 0.8, 0.1)
    assert visualize.draw_proposals(plain(60, 60), gt, ranked)[1:] == (2, 3)
    monkeypatch.setattr(visualize, "TOP_PROPOSALS", 2)
    assert visualize.draw_proposals(plain(60, 60), gt, ranked)[1:] == (1, 3)


def test_boxes_are_drawn_where_they_are():
    # 4 drawn pixels per pixel: rows 40 ... 79 of the image are 160 ... 319 of the drawing.
    image = plain(LONG_SIDE // 4, LONG_SIDE // 4)
    drawing = visualize.draw_proposals(image, boxes([20, 40, 99, 79]), proposals([]))
    assert drawing.image.shape == (LONG_SIDE, LONG_SIDE, 3)
    rows, columns = np.nonzero(is_colour(drawing.image, MISSED))
    # A line of two pixels lies on the border, within a pixel of it.
    assert abs(rows.min() - 160) <= 1
    assert abs(rows.max() - 319) <= 1
    assert abs(columns.min() - 80) <= 1
    assert abs(columns.max() - 399) <= 1
    assert (image == 128).all()


def test_found_and_missed_differ_in_line_style():
    box = boxes([10, 10, 129, 129])
    image = plain(LONG_SIDE // 4, LONG_SIDE // 4)
    found = visualize.draw_proposals(image, box, proposals([[12, 12, 127, 127]], 0.9)).image
    missed = visualize.draw_proposals(image, box, proposals([])).image
    bottom = slice(80, 460)  # drawn columns of the lower border, away from corners and labels
    assert is_colour(found, FOUND)[519, bottom].all()
    assert 0.4 < is_colour(missed, MISSED)[519, bottom].mean() < 0.7
    assert is_colour(found, PROPOSAL).any()
    assert not is_colour(missed, PROPOSAL).any()


def test_labels_do_not_cover_each_other():
    canvas = visualize._Canvas(plain(300, 300), 1.0)
    before, changed = plain(300, 300), np.zeros((300, 300), bool)
    for shift in range(40):
        canvas.label(boxes([100 + shift, 100, 200, 150])[0], "0.50 / 0.50", PROPOSAL)
        after = np.array(canvas.image)
        new = (after != before).any(axis=-1)
        assert not (changed & new).any()
        before, changed = after, changed | new
    assert changed.sum() > 1.5 * 17 * 68  # more than one label


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (37, 53)])
def test_odd_images_and_no_boxes_at_all(size):
    image = plain(*size)
    drawing = visualize.draw_proposals(image, boxes(), proposals([]))
    assert drawing[1:] == (0, 0)
    assert max(drawing.image.shape) == LONG_SIDE
    assert (drawing.image == 128).all()
    whole = proposals([[0, 0, size[1] - 1, size[0] - 1]], 1.0)
    assert visualize.draw_proposals(image, whole.boxes, whole)[1:] == (1, 1)
    assert visualize.draw_result(image, whole).shape[2] == 3


def test_draw_result_keeps_large_images_and_enlarges_small_ones():
    found = proposals([[1, 1, 20, 20]], 0.5)
    assert visualize.draw_result(plain(600, 800), found).shape == (600, 800, 3)
    assert visualize.draw_result(plain(28, 56), found).shape == (280, 560, 3)


def test_draw_result_shows_the_best_on_top_and_no_more_than_twenty():
    image = plain(600, 600)
    one, other = [300, 50, 500, 550], [50, 300, 500, 500]  # they cross
    drawn = visualize.draw_result(image, proposals([one, other], 0.9, 0.2))
    best = visualize.draw_result(image, proposals([one], 0.9))
    np.testing.assert_array_equal(drawn[300, 298:303], best[300, 298:303])
    twenty = proposals([one] * 20, *[0.9] * 20)
    more = proposals([one] * 20 + [other], *[0.9] * 20, 0.2)
    found = [visualize.draw_result(image, result) for result in (twenty, more)]
    np.testing.assert_array_equal(*found)
    np.testing.assert_array_equal(visualize.draw_result(image, proposals([])), image)
    assert (best != image).any()


def test_grid_holds_every_drawing():
    rng = np.random.default_rng(0)
    sizes = [(40, 70), (70, 30), (50, 50), (20, 60)]
    drawings = [Drawing(rng.integers(0, 256, (*s, 3)).astype(np.uint8), 1, 2) for s in sizes]
    page = visualize.grid(drawings, ["a.png"] * 4, "title", columns=2)
    for drawing in drawings:
        match = cv2.matchTemplate(page, drawing.image, cv2.TM_SQDIFF)
        y, x = np.unravel_index(match.argmin(), match.shape)
        height, width = drawing.image.shape[:2]
        np.testing.assert_array_equal(page[y : y + height, x : x + width], drawing.image)
    for colour in (FOUND, MISSED, PROPOSAL):  # the legend
        assert is_colour(page[:78], colour).any()
    with pytest.raises(ValueError, match="zip"):
        visualize.grid(drawings, ["a.png"], "title")


def test_grid_of_nothing_is_title_and_legend():
    page = visualize.grid([], [], "title")
    assert len(page) == 78
    assert is_colour(page, MISSED).any()


def test_grid_caption_fits_its_cell():
    drawings = [Drawing(plain(50, 300), 1, 2)] * 2
    short = visualize.grid(drawings, ["a", ""], "title")
    long = visualize.grid(drawings, ["a" * 500, ""], "title")
    assert short.shape == long.shape
    second = slice(14 + LONG_SIDE, None)  # nothing of the name reaches the second column
    np.testing.assert_array_equal(short[:, second], long[:, second])


def test_png_round_trip(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    visualize.write_png(tmp_path / "a.png", image)
    read = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(read[..., ::-1], image)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"old")

    def fail(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(InputError, match=r"a\.png: cannot be written: No space left on device"):
        visualize.write_png(tmp_path / "a.png", plain(4, 4))
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.png", b"old")]


@pytest.mark.parametrize("name", ["absent/a.png", "file/a.png"])
def test_a_folder_that_is_none_is_one_line(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written") as caught:
        visualize.write_png(tmp_path / name, plain(4, 4))
    assert "\n" not in str(caught.value)


def test_an_object_is_found_by_a_detection_of_its_class():
    gt, names = boxes([10, 10, 49, 49], [60, 10, 99, 49], [10, 60, 49, 99]), ("cup", "cat")
    # Exact, of another class; exact; exact, but of too low a score to be drawn.
    found = Result(gt[[1, 0, 2]], scores(0.9, 0.8, 0.2), np.int32([0, 0, 1]), ("cup", "cup", "cat"))
    drawing = visualize.draw_found(plain(140, 140), gt, np.int32([0, 1, 1]), names, found)
    assert drawing[1:] == (1, 3)
    assert is_colour(drawing.image, MISSED).any()


@pytest.mark.parametrize("rle", [False, True])
def test_masks_show_the_image_within_a_line(rle):
    mask = np.zeros((1, 560, 560), bool)
    mask[0, 200:300, 100:400] = True
    found = Result(boxes([90, 190, 409, 309]), scores(0.9), np.int32([0]), ("cup",))
    image = np.random.default_rng(0).integers(0, 255, (560, 560, 3), np.uint8)
    bare = visualize.draw_result(image, found)
    found = found._replace(masks=[rle_of(mask[0])] if rle else mask)
    masked = visualize.draw_result(image, found)
    np.testing.assert_array_equal(masked[~mask[0]], bare[~mask[0]])
    assert len(np.unique(masked[200:300, 100], axis=0)) == 1  # the line
    inside = masked[210:290, 110:390].astype(int) - bare[210:290, 110:390] // 2
    assert inside.std(axis=(0, 1)).max() < 1  # half of the image and half of one colour
