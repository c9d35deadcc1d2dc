import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdet.inference.html.axes import MAX_POINTS, linear_axis, log_axis, moving_mean, short, thin
from jaxdet.inference.html.charts import (
    PLOT_HEIGHT,
    PLOT_WIDTH,
    Series,
    bar_chart,
    line_chart,
    share_chart,
)

NAN = math.nan


def paths(text):
    """The points of each drawn line: a list of strokes, each a list of (x, y)."""
    figure = ET.fromstring(text)
    lines = figure.find('.//svg[@role="img"]/svg[@class="lines"]')
    return [
        [
            [tuple(map(int, point.split())) for point in stroke.removesuffix("h0").split("L")]
            for stroke in path.get("d").split("M")[1:]
        ]
        for path in lines
    ]


def labels(text, kind):
    return [node.text for node in ET.fromstring(text).iter("text") if node.get("class") == kind]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, (0, 0.2, 0.4, 0.6, 0.8, 1)),
        (0, 0.97, (0, 0.2, 0.4, 0.6, 0.8, 1)),
        (-3, 12, (-5, -2.5, 0, 2.5, 5, 7.5, 10, 12.5)),
        (0.1, 0.3, (0.1, 0.15, 0.2, 0.25, 0.3)),
        (76.5, 91, (75, 77.5, 80, 82.5, 85, 87.5, 90, 92.5)),
    ],
)
def test_rounded_axes_begin_and_end_at_round_ticks(low, high, ticks):
    axis = linear_axis(low, high)
    assert axis.ticks == ticks
    assert (axis.low, axis.high) == pytest.approx((ticks[0], ticks[-1]))


def test_axes_that_are_not_rounded_keep_their_ends():
    axis = linear_axis(0, 87960, rounded=False)
    assert (axis.low, axis.high) == (0, 87960)
    assert axis.ticks == (0, 20000, 40000, 60000, 80000)
    axis = linear_axis(0.5, 0.95, rounded=False)
    assert axis.ticks == (0.5, 0.6, 0.7, 0.8, 0.9)


@given(st.floats(-1e9, 1e9), st.floats(0, 1e9))
def test_any_axis_holds_its_values_and_has_a_few_ticks(low, span):
    axis = linear_axis(low, low + span)
    slack = 1e-6 * (axis.high - axis.low)
    assert axis.low - slack <= low <= low + span <= axis.high + slack
    assert 3 <= len(set(axis.ticks)) == len(axis.ticks) <= 12
    places = axis.place(np.array([low, low + span]))
    assert ((places >= -1e-6) & (places <= 1 + 1e-6)).all()


def test_logarithmic_axes():
    axis = log_axis(0.03, 0.97)
    assert (axis.low, axis.high) == (0.02, 1)
    assert axis.ticks == (0.02, 0.05, 0.1, 0.2, 0.5, 1)
    assert axis.place(np.array([0.02, math.sqrt(0.02), 1])) == pytest.approx([0, 0.5, 1])
    # Many decades: powers of ten alone, and not all of them.
    assert log_axis(1e-3, 9).ticks == (0.001, 0.01, 0.1, 1, 10)
    assert len(log_axis(1e-30, 1e30).ticks) <= 9


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.25, "0.25"),
        (2e-5, "2e-5"),
        (7330, "7330"),
        (88000, "88k"),
        (12500, "12.5k"),
        (1.5e6, "1.5M"),
        (-20000, "-20k"),
    ],
)
def test_short_numbers(value, text):
    assert short(value) == text


def test_labels_of_an_axis_are_alike():
    text = line_chart("rate", [Series("rate", [0, 1], [0.02, 2e-4])], x_name="step")
    assert labels(text, "up") == ["2e-4", "5e-4", "1e-3", "2e-3", "5e-3", "1e-2", "2e-2"]
    assert "logarithmic" in text
    text = line_chart("x", [Series("x", [0, 1], [0.02, 2e-4])], x_name="step", may_be_log=False)
    assert labels(text, "up")[0] == "0"
    assert "logarithmic" not in text


def test_thin_keeps_peaks_dips_gaps_and_ends():
    y = np.sin(np.arange(20_000) / 50)
    y[[777, 12_345]] = 50, -50
    y[9_000] = NAN
    kept = thin(y)
    assert len(kept) <= MAX_POINTS
    assert {0, 777, 9_000, 12_345, 19_999} <= set(kept.tolist())
    assert (np.diff(kept) > 0).all()
    assert thin(np.full(5000, NAN)).size <= MAX_POINTS
    np.testing.assert_array_equal(thin(y[:MAX_POINTS]), np.arange(MAX_POINTS))


def test_moving_mean():
    # 100 points: two on each side, fewer at the ends; gaps stay and count for nothing.
    y = np.arange(100.0)
    y[50] = NAN
    mean = moving_mean(y)
    assert mean[10] == 10
    assert mean[0] == 1  # of 0, 1, 2
    assert mean[49] == pytest.approx((47 + 48 + 49 + 51) / 4)
    assert np.isnan(mean[50])
    assert np.isfinite(np.delete(mean, 50)).all()


def test_lines_go_where_their_values_are():
    line = Series("loss", [0, 5, 10], [0.0, 1.0, 0.25])
    (strokes,) = paths(line_chart("Loss", [line], x_name="step"))
    assert strokes == [[(0, PLOT_HEIGHT), (PLOT_WIDTH // 2, 0), (PLOT_WIDTH, 750)]]
    text = line_chart("Loss", [line], x_name="step", x_range=(0, 20), y_range=(0, 2))
    assert paths(text) == [[[(0, 1000), (500, 500), (1000, 875)]]]


def test_gaps_and_single_points():
    line = Series("loss", range(6), [1.0, None, 0.5, NAN, 0.0, 1.0])
    text = line_chart("Loss", [line], x_name="step")
    assert paths(text) == [[[(0, 0)], [(800, 500)], [(1600, 1000), (2000, 0)]]]
    assert text.count("h0") == 2  # a line of no length has round ends
    assert "nan" not in text.lower()


def test_lines_without_numbers_are_left_out():
    empty, full = Series("empty", [0, 1], [None, NAN]), Series("full", [0, 1], [1.0, 2.0])
    text = line_chart("Both", [empty, full], x_name="step")
    assert len(paths(text)) == 1
    assert "empty" not in text
    assert 'class="s1"' in text  # colours do not move up
    assert "No values" in line_chart("None", [empty], x_name="step")
    assert "No values" in line_chart("None", [], x_name="step")


@pytest.mark.parametrize("values", [[3.0], [0.0], [7.0, 7.0], [-1.0, -1.0], [1e-12, 1e-12]])
def test_values_without_a_range(values):
    text = line_chart("Flat", [Series("flat", range(len(values)), values)], x_name="step")
    ((stroke,),) = paths(text)
    assert all(0 <= x <= PLOT_WIDTH and 0 <= y <= PLOT_HEIGHT for x, y in stroke)


def test_long_lines_are_short_files():
    y = np.random.default_rng(0).random(100_000)
    line = Series("noise", range(len(y)), y.tolist())
    text = line_chart("Noise", [line], x_name="step", smooth=True)
    faint, mean = paths(text)
    assert max(len(faint[0]), len(mean[0])) <= MAX_POINTS
    assert len(text) < 20_000
    spread = [np.ptp([y for _, y in strokes[0]]) for strokes in (faint, mean)]
    assert spread[0] > 900 > 200 > spread[1]


def test_markers_say_their_values():
    line = Series("AR@100", [7330, 14660], [27.5, None])
    text = line_chart("AR", [line], x_name="step", markers=True, from_zero=False)
    (dot,) = ET.fromstring(text).iter("circle")
    assert dot.findtext("title") == "AR@100 27.5, step 7330"


def test_charts_are_described():
    line = Series("loss", [20, 40, 60], [3.0, 1.0, 2.0])
    image = ET.fromstring(line_chart("Loss", [line], x_name="step")).find('.//svg[@role="img"]')
    assert image.findtext("title") == "Loss"
    wanted = "loss: 3 at step 20, 2 at step 60, least 1, most 3"
    assert image.findtext("desc") == wanted


def test_bars():
    text = bar_chart("AR", [("small", 0.25, "25.0"), ("large", None, "-"), ("all", 1.0, "100.0")])
    figure = ET.fromstring(text)
    bars = [node.get("width") for node in figure.iter("rect") if node.get("class") == "s0"]
    assert bars == ["25.00%", "100.00%"]
    assert figure.findtext(".//desc") == "small: 25.0; large: -; all: 100.0"


def test_shares():
    text = share_chart(
        "Time", [("data", 1.0, "1 s"), ("forward", 2.0, "2 s"), ("post", 1.0, "1 s")]
    )
    bar = ET.fromstring(text).find('.//svg[@role="img"]')
    places = [(node.get("x"), node.get("width")) for node in bar.iter("rect")]
    assert places == [("0.00%", "25.00%"), ("25.00%", "50.00%"), ("75.00%", "25.00%")]
    assert ET.fromstring(share_chart("Time", [("data", 0.0, "0 s")])) is not None


def test_names_are_text():
    hostile = "<script>\"&'</script>"
    line = Series(hostile, [0, 1], [1.0, 2.0], note=hostile)
    for text in (
        line_chart(hostile, [line, line], x_name=hostile, markers=True),
        bar_chart(hostile, [(hostile, 0.5, hostile)]),
        share_chart(hostile, [(hostile, 0.5, hostile)]),
    ):
        figure = ET.fromstring(text)
        assert not list(figure.iter("script"))
        assert hostile in "".join(figure.itertext())
