"""Measured lines below published ones."""

import pytest

from jaxdet.zoo.table import markdown_table, page

ENVIRONMENT = {
    "date": "2030-01-31",
    "cpu": "a processor",
    "devices": {"kind": "H100", "count": 8},
    "versions": {"jax": "0.10.2"},
}


def line(config: str, **changes):
    """What `measure.measure` returns."""
    return {
        "config": config,
        "detector": "rpn",
        "checkpoint": f"zoo://{config}",
        "images_per_step": 16,
        "seconds_per_step": 0.12345,
        "memory_gb": 4.56,
        "memory_of": "device",
        "images_per_second": 123.44,
        "seconds_per_image": {"data": 0.001, "forward": 0.002, "post": 0.003},
        "num_images": 5000,
        "AR1000": 57.12,
        "AR1000_fast": 57.34,
        "box_AP": None,
        "mask_AP": None,
        "environment": ENVIRONMENT,
        **changes,
    }


def cells(text: str) -> list[list[str]]:
    """The lines of the tables but for the rules, whose dashes follow the columns' widths."""
    lines = [x for x in text.splitlines() if x.startswith("|") and not x.startswith("| :-")]
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in lines]


def test_a_measured_line_is_below_its_row():
    table = cells(markdown_table(measured=[line("rpn_r50_fpn_1x")]))
    plain = cells(markdown_table())
    assert table[:7] == plain[:7]
    assert table[7] == [
        "measured, 16 images/step",
        "",
        "",
        "4.6",
        "0.123",
        "123.4",
        "57.1",
        "zoo://rpn_r50_fpn_1x",
    ]
    assert table[8:] == plain[7:]


def test_rows_of_one_config_are_told_by_their_checkpoints():
    name, config = "zoo://detectron2/faster_rcnn_R_50_FPN_1x", "detectron2_rpn_r50_fpn_1x"
    lines = [line(config, checkpoint="runs/x"), line(config, checkpoint=name, AR1000_fast=80.0)]
    table = cells(markdown_table(measured=lines))
    below = {table[i - 1][-1].split("]")[0]: row for i, row in enumerate(table) if "meas" in row[0]}
    # The first by fast recall, beside 58.0; nothing is published of the detector's.
    assert below["[zoo://detectron2/rpn_R_50_FPN_1x"][6] == "**57.3 (-0.66)**"
    assert below[f"[{name}"][6] == "80.0"


def test_a_detectors_line_has_its_two_aps():
    name = "torchvision/maskrcnn_resnet50_fpn"
    found = {"checkpoint": f"zoo://{name}", "box_AP": 37.94, "mask_AP": 34.32, "AR1000": None}
    found["detector"] = "mask_rcnn"
    table = cells(markdown_table(measured=[line("torchvision_mask_rcnn_r50_fpn", **found)]))
    below = next(i for i, row in enumerate(table) if f"[zoo://{name}]" in row[-1] and len(row) == 9)
    assert table[below][6:8] == ["37.9", "34.6"]
    assert table[below + 1][6:] == ["37.9", "**34.3 (-0.28)**", f"zoo://{name}"]
    other = cells(markdown_table(measured=[line("mine", **found)]))
    assert other[-2] == ["mine", *"--------"]
    assert other[-1][6:8] == ["37.9", "34.3"]
    unknown = {**found, "checkpoint": "", "box_AP": None, "mask_AP": None}
    other = cells(markdown_table(measured=[line("mine", **unknown)]))
    assert other[-1][6:8] == ["-", "-"]


def test_what_was_not_measured_is_a_dash():
    nothing = dict.fromkeys(["checkpoint", "seconds_per_step", "memory_gb", "AR1000"])
    table = cells(markdown_table(measured=[line("rpn_r50_fpn_1x", **nothing)]))
    assert table[7][3:] == ["-", "-", "123.4", "-", "fresh parameters"]


def test_another_config_has_a_row_of_its_own():
    table = cells(markdown_table(measured=[line("mine", AR1000=80.0)]))
    assert table[:-3] == cells(markdown_table())
    assert table[-3] == table[0]
    assert table[-2] == ["mine", *"-------"]
    assert table[-1][6] == "80.0"


@pytest.mark.parametrize(
    ("measured", "cell"),
    [
        (57.1, "57.1"),
        (57.2, "57.2"),  # published 57.1: 0.1 off is as published
        (57.0, "57.0"),
        (57.21, "**57.2 (+0.11)**"),
        (56.99, "**57.0 (-0.11)**"),
        (40.0, "**40.0 (-17.10)**"),
    ],
)
def test_a_figure_that_differs_is_marked(measured, cell):
    lines = [line("rpn_r50_fpn_1x", AR1000=measured)]
    assert cells(markdown_table(measured=lines))[7][6] == cell


def test_the_page_says_on_which_machine():
    lines = [line("mine"), line("rpn_r50_fpn_1x")]
    text = page(lines)
    assert markdown_table(measured=lines) in text
    assert "| cpu | a processor |" in text
    assert "| devices | kind H100, count 8 |" in text
    assert "| versions | jax 0.10.2 |" in text
