"""Results of images that files hold: their names, shards, and what is done when it goes on."""

import contextlib
import dataclasses
import io
import itertools
import json
import tarfile
from functools import partial
from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet.config import Config, DataConfig
from jaxdet.data.images import find_images, in_parts, stored_in
from jaxdet.errors import InputError
from jaxdet.inference import predict as predict_lib
from jaxdet.inference.predict import result_names, run_predict
from jaxdet.inference.predictor import make_predictor
from jaxdet.types import Detector, Predictions

SIZES = [(48, 64), (64, 48), (40, 80), (50, 50), (48, 70)]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/x.jpg", "b/y.png"], ["x", "y"]),
        (["a/x.jpg", "b/x.jpg"], ["a/x.jpg", "b/x.jpg"]),
        (["p/x.jpg", "p/x.png", "p/y.png"], ["x.jpg", "x.png", "y.png"]),
        (["/p/q/x.jpg", "/p/x.jpg"], ["q/x.jpg", "x.jpg"]),
        (
            ["s.tar/../../x.jpg", "s.tar/x.jpg"],
            ["x.jpg", f"{Path.cwd().name}/s.tar/x.jpg"],
        ),
    ],
)
def test_names_of_results(paths, names):
    assert result_names(paths) == names


def test_an_image_named_twice_is_no_name():
    with pytest.raises(InputError, match=r"^a/\.\./x\.jpg: is there twice"):
        result_names(["x.jpg", "a/../x.jpg"])


def png(size, seed) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    return cv2.imencode(".png", noise)[1].tobytes()


def write_tar(path: Path, members: dict[str, bytes], mode="w", **changes) -> Path:
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in changes.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Images in a folder, in folders within it, and in archives; some cannot be read."""
    root = tmp_path_factory.mktemp("photos")
    (root / "inner" / "more").mkdir(parents=True)
    for i, size in enumerate(SIZES):
        (root / ("inner/more" if i % 2 else ".") / f"{i}.png").write_bytes(png(size, i))
    (root / "inner" / "cut.png").write_bytes(png((48, 64), 9)[:900])
    for name in "ab":
        members = {f"{name}{i}.png": png(size, i) for i, size in enumerate(SIZES[:3])}
        write_tar(root / f"{name}.tar", {**members, f"{name}.txt": b"what it shows"})
    return root


def test_images_are_found_in_folders_lists_and_archives(photos, tmp_path, caplog):
    (photos / "loop").symlink_to(photos)
    found = find_images([str(photos)])
    (photos / "loop").unlink()
    assert "passes over 1 links and other files (loop)" in caplog.text
    names = ["0.png", "2.png", "4.png", "a.tar", "b.tar"]
    names += ["inner/cut.png", "inner/more/1.png", "inner/more/3.png"]
    assert [str(Path(path).relative_to(photos)) for path in found] == names
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join([*found, "", found[0], "gone.png"]) + "\n")
    assert find_images([str(listed)]) == [*found, "gone.png"]
    parts = in_parts(found, 2)
    assert [len(part) for part in parts] == [2, 2, 1, 1, 2]
    images = [image for part in parts for image in stored_in(part)]
    assert [image.name for image in images][4:6] == [
        f"{photos}/a.tar/a0.png",
        f"{photos}/a.tar/a1.png",
    ]
    by_name = {Path(image.name).name: image for image in images}
    np.testing.assert_array_equal(by_name["a1.png"].read(), by_name["1.png"].read())


def sparse_header() -> bytes:
    """Of a member that claims to be of 2^40 bytes, in a few."""
    info = tarfile.TarInfo("x.png")
    info.type, info.size = tarfile.REGTYPE, 0
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0",
                        "GNU.sparse.name": "x.png", "GNU.sparse.realsize": str(2**40)}  # fmt: skip
    return info.tobuf(tarfile.PAX_FORMAT) + b"0\n" + bytes(510) + bytes(1024)


def repeated(offset: int) -> bytes:
    """An archive's header whose size leads to itself, where a reader takes it as it is."""
    info = tarfile.TarInfo("x.png")
    info.size = offset
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


def long_name() -> bytes:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(4096)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "empty file"),
        (b"no archive" * 100, "truncated header|invalid header"),
        (png((48, 64), 0) * 2, "invalid header|bad checksum"),
        (repeated(-512), "sparse, or of -512 bytes; refused"),
        (long_name(), "a name of 1073741824 bytes"),
        (sparse_header(), "sparse, or of 1099511627776 bytes; refused"),
        (repeated(1 << 40), "sparse, or of 1099511627776 bytes; refused"),
    ],
)
def test_hostile_archives_are_a_line(tmp_path, content, line):
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    images = [*itertools.islice(stored_in([str(path)]), 10)]
    assert 1 <= len(images) <= 2
    with pytest.raises(InputError, match=line) as error:
        images[0].read()
    assert str(path) in str(error.value)


def test_members_that_are_no_files_and_cut_archives(tmp_path):
    link = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}
    assert [*stored_in([str(write_tar(tmp_path / "a.tar", {"x.png": b""}, **link))])] == []
    packed = write_tar(tmp_path / "b.tar", {"x.png": png((9, 9), 0)}, mode="w:gz")
    with pytest.raises(InputError, match="without compression"):
        next(stored_in([str(packed)])).read()
    whole = write_tar(tmp_path / "c.tar", {f"{i}.png": png((40, 40), i) for i in range(3)})
    whole.write_bytes(whole.read_bytes()[:9000])
    first, second, fault = stored_in([str(whole)])
    assert first.read().shape == (40, 40, 3)
    with pytest.raises(InputError, match=r"c\.tar/1\.png: image cannot be decoded"):
        second.read()
    assert "unexpected end of data" in fault.fault


RANKS = jnp.arange(1.0, 7.0)


def six_boxes(params, images) -> Predictions:
    """Six boxes of each image; the brighter it is, the higher are their scores."""
    size = images.image_size.astype(jnp.float32)
    light = images.image.astype(jnp.float32).sum((1, 2, 3)) / size.prod(axis=1)
    scores = params["gain"] * light[:, None] / RANKS[None]
    corner = size[:, None, ::-1] / RANKS[None, :, None]
    boxes = jnp.concatenate([jnp.zeros_like(corner), corner], axis=2)
    labels = jnp.zeros(scores.shape, jnp.int32)
    return Predictions(boxes, scores, labels, jnp.ones(scores.shape, bool))


@pytest.fixture
def predict(monkeypatch):
    """The command, with a detector that is soon compiled and a part of two images."""
    detector = Detector(lambda key: {}, None, six_boxes, lambda path: True)
    params = {"gain": np.full((1, 1), 1 / 1000, np.float32)}
    data = DataConfig(image_scale=(64, 64), num_workers=0)
    config = dataclasses.replace(Config(), data=data)
    made = partial(make_predictor, detector=detector, params=params)
    monkeypatch.setattr(predict_lib, "load_predictor", lambda c, path, mesh: made(c, mesh=mesh))
    monkeypatch.setattr(predict_lib, "PART", 2)

    def run(images, out, code=0, **options):
        with pytest.raises(SystemExit) if code else contextlib.nullcontext() as stop:
            run_predict(config, "x.pth", images, out, **options)
        assert not code or stop.value.code == code

    return run


def test_one_name_that_is_too_long_is_a_line(predict, photos, tmp_path, capsys):
    for name in ("x", "y" * 251, "z" * 250):
        (tmp_path / f"{name}.png").write_bytes((photos / "0.png").read_bytes())
    predict([str(tmp_path)], tmp_path / "out", code=2)
    assert capsys.readouterr().err.endswith(
        "yy.png: its name is too long for its results'; rename it\n"
    )
    assert len([*(tmp_path / "out").iterdir()]) == 2


def records_of(folder: Path) -> dict[str, dict]:
    """By image, as nothing may be there twice."""
    lines = [line for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    found = {record["image"]: record for record in map(json.loads, lines)}
    assert len(found) == len(lines)
    return found


def test_shards_hold_what_files_do_and_go_on(predict, photos, tmp_path, capsys):
    archives = [f"{photos}/a.tar", f"{photos}/b.tar"]
    predict([str(photos)], tmp_path / "files", code=2)
    assert "cut.png: image cannot be decoded" in capsys.readouterr().err
    predict([str(photos)], tmp_path / "shards", code=2, shards="jsonl")
    names = [f"{i:05}-of-00005.jsonl" for i in range(5)]
    assert sorted(p.name for p in (tmp_path / "shards").iterdir()) == [*names, "predict.json"]
    shards = records_of(tmp_path / "shards")
    assert len(shards) == 12
    assert set(shards.pop(f"{photos}/inner/cut.png")) == {"image", "error"}
    files = {
        r["image"]: r
        for r in map(json.loads, map(Path.read_text, (tmp_path / "files").glob("*.json")))
    }
    assert files == shards
    assert len(files[f"{archives[0]}/a1.png"]["boxes"]) == 6
    assert files[f"{archives[0]}/a1.png"]["scores"] == files[f"{photos}/inner/more/1.png"]["scores"]

    before = {p.name: p.read_bytes() for p in (tmp_path / "shards").iterdir()}
    for name in names[2:4]:
        (tmp_path / "shards" / name).unlink()
    predict([str(photos)], tmp_path / "shards", shards="jsonl")
    assert {p.name: p.read_bytes() for p in (tmp_path / "shards").iterdir()} == before
    said = capsys.readouterr().out
    assert "going on: 3 of 5 files are there" in said
    assert "proposals of 6 images" in said
    for images, options in ((archives, {}), ([str(photos)], {"top": 3})):
        with pytest.raises(
            InputError, match=r"predict\.json: the results there are of (top|images)"
        ):
            predict(images, tmp_path / "shards", shards="jsonl", **options)


def test_the_best_alone_in_parquet(predict, photos, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    predict([f"{photos}/0.png"], tmp_path / "all")
    every = json.loads((tmp_path / "all" / "0.json").read_text())
    threshold = np.mean(every["scores"][3:5])
    images = [f"{photos}/0.png", f"{photos}/1.jpg", f"{photos}/inner/cut.png"]
    predict(images[:1], tmp_path / "few", threshold=float(threshold))
    predict(images[:1], tmp_path / "three", threshold=float(threshold), top=3)
    for name, count in (("few", 4), ("three", 3)):
        few = json.loads((tmp_path / name / "0.json").read_text())
        assert few["boxes"] == every["boxes"][:count]
    predict(images[::2], tmp_path / "shards", code=2, top=3, shards="parquet")
    path = tmp_path / "shards" / "00000-of-00001.parquet"
    first, cut = parquet.read_table(path).sort_by("image").to_pylist()
    assert (first["image"], first["width"], first["error"]) == (images[0], 64, None)
    np.testing.assert_allclose(first["boxes"], every["boxes"][:3], rtol=1e-6)
    assert "cannot be decoded" in cut["error"]


@pytest.mark.parametrize("options", [{"threshold": float("nan")}, {"top": 0}, {"threshold": 2.0}])
def test_limits_are_checked(options):
    with pytest.raises(InputError, match=r"^--threshold: a score from 0 to 1; --top: a number"):
        run_predict(Config(), "", [], Path(), **options)
