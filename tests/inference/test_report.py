import base64
import dataclasses
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from jaxdet.config import Config, DataConfig
from jaxdet.errors import InputError
from jaxdet.inference import plots
from jaxdet.inference import report as report_lib
from jaxdet.inference.recall import LIMITS, SIZES, THRESHOLDS
from jaxdet.inference.report import write_report

HOSTILE = "</style></script><script>alert(\"x\")</script><img src=http://a.b onerror='x'>&amp;"
LOADING = {"src", "srcset", "href", "xlink:href", "action", "data", "poster", "background"}
VOID = {"meta", "img", "wbr", "br", "link", "input"}


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def tags(self, name):
        return [attrs for tag, attrs in self.elements if tag == name]


def figures(value):
    by_iou = {str(n): {f"{t:.2f}": value / (1 + t) for t in THRESHOLDS} for n in LIMITS}
    means = {f"AR@{n}": None if value is None else value * n / 1000 for n in LIMITS}
    return {**means, "recall_by_iou": by_iou}


def evaluation(value=0.571, **changes):
    return {
        **figures(value),
        "recall_by_size": {"small": 0.31, "medium": None, "large": 0.77},
        "boxes_by_size": {"small": 21, "medium": 0, "large": 1},
        "fast": {**figures(value), "num_boxes": 22},
        "num_images": 7,
        "num_boxes": 22,
        "images_per_second": 45.25,
        "seconds_per_image": {"data": 0.004, "forward": 0.0125, "post": 0.006},
        "compile_seconds": 6.5,
        **changes,
    }


def step(number, **changes):
    return {
        "kind": "train",
        "step": number,
        "epoch": 1 + number // 100,
        "loss": 1.5 - number / 1000,
        "loss_cls": 1.0 - number / 1000,
        "loss_bbox": 0.5,
        "num_positive": 15.5,
        "grad_norm": 2.25,
        "param_norm": 76.5,
        "seconds_per_step": 0.25,
        "wait_share": 0.125,
        "learning_rate": 0.01,
        "images_per_second": 32.0,
        "memory_gb": 3.5,
        **changes,
    }


def write_lines(folder, rows):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_image(folder, height=300, width=400):
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    cv2.imwrite(str(folder / "proposals.png"), noise)


def made(folder, config=None, **options):
    write_report(folder, config or Config(), **options)
    text = (folder / "report.html").read_text()
    return text, Page(text)


@pytest.fixture
def run(tmp_path):
    """A finished run."""
    rows = [step(number) for number in range(20, 401, 20)]
    rows.insert(10, {"kind": "eval", **evaluation(0.3, step=200)})
    rows.append({"kind": "eval", **evaluation(step=400)})
    write_lines(tmp_path, rows)
    (tmp_path / "eval.json").write_text(json.dumps(evaluation(step=400)))
    write_image(tmp_path)
    return tmp_path


def drawn(page):
    """The words in the plots: titles, labels and legends."""
    texts = []
    for attrs in page.tags("img"):
        if "svg" in attrs["src"][:20]:
            svg = base64.b64decode(attrs["src"].removeprefix("data:image/svg+xml;base64,"))
            texts += [x.text for x in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    return texts


def rows_of(text):
    """The rows of all tables."""
    tables = [ET.fromstring(t) for t in re.findall(r"<table.*?</table>", text, re.S)]
    return [["".join(cell.itertext()) for cell in row] for t in tables for row in t.iter("tr")]


def test_the_result_comes_first(run):
    text, page = made(run)
    assert "<title>rpn_r50_fpn_1x: AR@1000 57.1</title>" in text
    assert "<h1>rpn_r50_fpn_1x</h1>" in text
    assert re.findall(r"<dt>(AR@\d+)</dt><dd>([\d.]+)", text) == [
        ("AR@100", "5.7"),
        ("AR@300", "17.1"),
        ("AR@1000", "57.1"),
    ]
    assert "published 57.1" in page.text
    assert "after 400 steps, on 22 boxes of 7 images" in page.text


def test_only_what_was_published_is_compared_with(run):
    shapes = Config(data=DataConfig(name="shapes"))
    assert "published" not in made(run, shapes)[1].text
    assert "published" not in made(run, Config(name="mine"))[1].text


def test_every_curve_is_there(run):
    words = drawn(made(run)[1])
    for name in ("loss", "loss_cls", "loss_bbox"):
        assert words.count(name) == 1  # in a legend
    for title in (
        *("loss and its terms", "learning_rate", "seconds_per_step", "wait_share", "grad_norm"),
        *("param_norm", "num_positive", "memory_gb", "average recall", "AR@1000"),
        *("recall by IoU threshold", "best 1000"),
    ):
        assert title in words


def test_a_field_that_nobody_knows_has_a_curve_too(run):
    write_lines(run, [step(1), step(2, skipped_images=3), step(3, skipped_images=5)])
    text, page = made(run)
    assert "skipped_images" in drawn(page)
    assert [row[-1] for row in rows_of(text) if row[0] in "123"] == ["-", "3", "5"]


def test_tables_hold_the_numbers(run):
    text, _ = made(run)
    rows = rows_of(text)
    header = next(row for row in rows if "loss_cls" in row)
    logged = next(row for row in rows if row[0] == "20")
    assert dict(zip(header, logged, strict=True))["loss_cls"] == "0.98"
    assert ["400", "5.7", "17.1", "57.1", "5.7", "17.1", "57.1", "31.0", "-", "77.0"] in rows
    assert ["recall at IoU 0.50", *["38.1"] * 3] in rows
    assert ["AR, fast", "5.7", "17.1", "57.1"] in rows
    for name in ("versions.jax", "versions.python", "devices.kind", "cpu"):
        assert any(row[0] == name for row in rows)


def test_long_runs_have_short_tables(run):
    write_lines(run, [step(number) for number in range(50, 90_001, 50)])
    text, page = made(run)
    assert "30 of 1800" in page.text
    assert '<th scope="row">90000</th>' in text
    assert len(text) < 1_000_000


def test_curves_keep_their_peaks_and_gaps():
    loss = [1.0] * 50_000
    loss[12_345], loss[30_000] = 9.0, None
    uri = plots.curves([{"step": i, "loss": v} for i, v in enumerate(loss)], [], ["loss"])
    svg = base64.b64decode(uri.removeprefix("data:image/svg+xml;base64,")).decode()
    (path,) = re.findall(r'<path d="([^"]*)" clip-path[^>]*stroke: #1f77b4', svg)
    heights = [float(y) for _, y in re.findall(r"[ML] (\S+) (\S+)", path)]
    assert path.count("M") == 2  # a line on each side of the gap
    assert max(heights) - min(heights) > 50  # the peak
    assert len(svg) < 50_000


def test_facts(run):
    page = made(run)[1]
    for fact in ("400", "0:01:40", "12.5 %", "1.1", "31.0", "21 boxes"):
        assert fact in page.text
    assert re.search(r"Best AR@1000\s*57.1\s*at step 400", page.text)


def test_the_best_evaluation_need_not_be_the_last(run):
    rows = [step(100), {"kind": "eval", **evaluation(0.6, step=100)}]
    write_lines(run, [*rows, {"kind": "eval", **evaluation(0.5, step=200)}])
    assert re.search(r"Best AR@1000\s*60.0\s*at step 100", made(run)[1].text)


def test_config_shows_what_was_changed_and_all_the_rest(run):
    config = Config()
    config = dataclasses.replace(config, data=DataConfig(root="/data/coco", num_workers=8))
    text, page = made(run, config)
    assert '<th scope="row">data.num_workers</th><td>8</td><td>2</td>' in text
    for node in dataclasses.asdict(config).values():
        for name in node if isinstance(node, dict) else ():
            assert name in page.text


def test_hostile_text_stays_text(run):
    rows = [step(1, **{HOSTILE: 1.0}), step(2, **{HOSTILE: 2.0}), {**step(3), "kind": HOSTILE}]
    write_lines(run, rows)
    ordinary = used(made(run, Config(name="plain"))[1])
    config = Config(name=HOSTILE, data=DataConfig(root=HOSTILE))
    text, page = made(run, config)
    assert used(page) <= ordinary
    assert len(page.tags("img")) == 3
    assert page.text.count(HOSTILE) >= 3  # name, root, table, curve
    assert HOSTILE not in text


def used(page):
    """Elements, each with one of its attributes."""
    return {(tag, name) for tag, attrs in page.elements for name in [*attrs, None]}


def test_paths_that_are_no_text(run):
    text, _ = made(run, Config(data=DataConfig(root="/data/\udcff")))
    assert "/data/?" in text


def test_nothing_is_loaded_and_nothing_runs(run):
    text, page = made(run)
    for tag, attrs in page.elements:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form", "use"}
        for name, value in attrs.items():
            assert not name.startswith("on")
            if name in LOADING:
                assert value.startswith(("data:image/jpeg;base64,", "data:image/svg+xml;base64,"))
    assert "url(" not in text
    assert "@import" not in text
    policy = [attrs["content"] for attrs in page.tags("meta") if "http-equiv" in attrs]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_readable_with_any_eyes_and_on_any_screen(run):
    text, page = made(run)
    assert page.tags("html") == [{"lang": "en"}]
    assert any(attrs.get("name") == "viewport" for attrs in page.tags("meta"))
    for medium in ("prefers-color-scheme: dark", "print", "max-width"):
        assert re.search(rf"@media[^{{]*{medium}", text)
    assert all(attrs["alt"] for attrs in page.tags("img"))


def test_the_image_is_embedded(run):
    image = embedded(made(run)[1])
    original = cv2.imread(str(run / "proposals.png"))
    assert image.shape == original.shape
    assert abs(image.mean() - original.mean()) < 2


def embedded(page):
    (attrs,) = [x for x in page.tags("img") if "jpeg" in x["src"][:20]]
    data = base64.b64decode(attrs["src"].removeprefix("data:image/jpeg;base64,"))
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def test_a_large_image_is_made_smaller(run):
    write_image(run, 3600, 2400)  # noise: the worst case
    text, page = made(run)
    height, width, _ = embedded(page).shape
    assert height == 1900
    assert height / width == pytest.approx(1.5, abs=0.01)
    assert len(text) < 3_000_000


def test_nothing_yet(tmp_path):
    page = made(tmp_path)[1]
    assert "Not evaluated yet" in page.text
    assert "Configuration" in page.text
    assert not page.tags("img")
    (tmp_path / "metrics.jsonl").write_text("")
    assert "Not evaluated yet" in made(tmp_path)[1].text


def test_before_the_first_evaluation(tmp_path):
    write_lines(tmp_path, [step(20), step(40)])
    page = made(tmp_path)[1]
    assert "Not evaluated yet" in page.text
    assert "loss and its terms" in drawn(page)
    assert "average recall" not in drawn(page)


def test_an_evaluation_without_training(tmp_path):
    (tmp_path / "eval.json").write_text(json.dumps(evaluation()))
    page = made(tmp_path)[1]
    assert "by --mode=eval" in page.text
    assert "peak_memory_gb" in page.text
    assert "recall by IoU threshold" in drawn(page)
    assert "step" not in drawn(page)


def test_no_boxes_at_all(tmp_path):
    nothing = {str(n): {f"{t:.2f}": None for t in THRESHOLDS} for n in LIMITS}
    empty = {**{f"AR@{n}": None for n in LIMITS}, "recall_by_iou": nothing}
    counts = dict.fromkeys(SIZES, 0)
    result = evaluation(**empty, recall_by_size=dict.fromkeys(SIZES), boxes_by_size=counts)
    result |= {"fast": {**empty, "num_boxes": 0}, "num_boxes": 0, "step": 20}
    (tmp_path / "eval.json").write_text(json.dumps(result))
    rows = [step(20), {"kind": "eval", **result}, {"kind": "eval", **result, "step": 40}]
    write_lines(tmp_path, rows)
    text, _ = made(tmp_path)
    assert "<title>rpn_r50_fpn_1x: AR@1000 -</title>" in text
    assert ["40", *"---------"] in rows_of(text)


def test_nulls_and_fields_that_come_and_go(tmp_path):
    gone = step(60)
    del gone["grad_norm"]
    nulls = {"loss": None, "seconds_per_step": None, "wait_share": None, "memory_gb": None}
    rows = [step(20), step(40, **nulls), gone, step(80, **nulls)]
    write_lines(tmp_path, rows)
    text, page = made(tmp_path)
    cells = {row[0]: row for row in rows_of(text)}
    assert cells["40"].count("-") == 4
    assert cells["60"].count("-") == 1
    assert "nan" not in page.text.lower()
    write_lines(tmp_path, [step(20, **nulls)])
    assert "loss and its terms" in drawn(made(tmp_path)[1])


def test_a_resumed_run(tmp_path):
    rows = [step(20), step(60, loss=9.0), step(40), step(60, loss=0.75)]
    write_lines(tmp_path, rows)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('["no", "object"]\n{"kind": "train"}\n{"kind": "train", "step": 8')
    cells = {row[0]: row[2] for row in rows_of(made(tmp_path)[0]) if row[0] in "204060"}
    assert cells == {"20": "1.48", "40": "1.46", "60": "0.75"}


def test_the_training_machine_is_remembered(run, monkeypatch):
    page = made(run, trained=True)[1]
    assert "Of the process that trained" in page.text
    kept = json.loads((run / "environment.json").read_text())
    # The page is made again elsewhere.
    monkeypatch.setattr(report_lib, "environment", lambda: {**kept, "cpu": "Babbage"})
    page = made(run)[1]
    assert "Of the process that trained" in page.text
    assert kept["cpu"] in page.text
    assert "Babbage" not in page.text
    (run / "environment.json").unlink()
    page = made(run)[1]
    assert "Of the process that wrote this page" in page.text
    assert "Babbage" in page.text


def test_only_the_first_host_writes(run, monkeypatch):
    monkeypatch.setattr(report_lib, "is_first_host", lambda: False)
    write_report(run, Config(), trained=True)
    assert not (run / "report.html").exists()
    assert not (run / "environment.json").exists()


def test_the_old_page_stays_until_the_new_one_is_whole(run, monkeypatch):
    before = made(run)[0]

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(InputError, match=r"report\.html: cannot be written: No space left"):
        write_report(run, Config(name="other"))
    assert (run / "report.html").read_text() == before


def test_files_that_are_something_else(run):
    (run / "proposals.png").write_text("no image")
    with pytest.raises(InputError, match=r"proposals\.png: not an image"):
        write_report(run, Config())
    (run / "eval.json").write_text("{")
    with pytest.raises(InputError, match=r"eval\.json: not what a run writes \("):
        write_report(run, Config())
    (run / "proposals.png").unlink()
    others = [evaluation(fast=None), evaluation(images_per_second="fast"), {"AR@100": 3}]
    for value in map(json.dumps, others):
        (run / "eval.json").write_text(value)
        with pytest.raises(InputError, match=r"eval\.json.* not what a run writes"):
            write_report(run, Config())
    (run / "eval.json").write_text("{")
    with pytest.raises(InputError, match=r"nowhere/report\.html: cannot be written: No such"):
        write_report(run / "nowhere", Config())
    (run / "eval.json").unlink()
    (run / "eval.json").mkdir()
    with pytest.raises(InputError, match=r"eval\.json: cannot be read"):
        write_report(run, Config())
