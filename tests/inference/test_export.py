"""The exported file: the same proposals as the live model, alone; anything else is refused."""

import dataclasses
import functools
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export as jax_export
from limited import read_each
from mutated_exports import mutated, with_buckets
from zoo_cases import fresh_params

import jaxdet
from jaxdet import config as config_lib
from jaxdet.checkpoint import Checkpoints
from jaxdet.config import Config, DataConfig
from jaxdet.data.buckets import batch_of_one
from jaxdet.detectors.build import build_detector
from jaxdet.errors import InputError
from jaxdet.inference import export, exported
from jaxdet.inference.predictor import Predictor, make_predictor
from jaxdet.inference.single import Result
from jaxdet.types import Params

ROOT = Path(__file__).parents[2]
CONFIG_FILE = ROOT / "configs" / "rpn_r18_fpn_shapes.py"
# One level of stride 8, whose post-processing compiles in a second.
SMALL = {"stem_channels": 8, "num_stages": 2, "fpn_channels": 0, "head_channels": 8}


def small_config(image_scale: tuple[int, int]):
    config = config_lib.load_file(CONFIG_FILE)
    config.model.update(SMALL)
    config.data.image_scale = image_scale
    return config


def random_params(config: Config) -> Params:
    """Scores spread out: a fresh head gives all anchors almost the same."""
    params = fresh_params(config.model)
    params["rpn_head"]["rpn_cls"]["kernel"] *= 300
    params["rpn_head"]["rpn_reg"]["kernel"] *= 10
    return params


@functools.cache
def small_params() -> Params:
    return random_params(config_lib.parse(small_config((64, 64))))


@pytest.fixture(scope="module")
def config() -> Config:
    """Three buckets: a square, landscape and portrait."""
    return config_lib.parse(small_config((96, 64)))


@pytest.fixture(scope="module")
def path(config, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("export") / "model.zip"
    export.write_exported(config, small_params(), path)
    return path


@pytest.fixture(scope="module")
def model(path) -> exported.ExportedModel:
    return jaxdet.load_exported(path)


@pytest.fixture(scope="module")
def live(config) -> Predictor:
    return make_predictor(config, build_detector(config), small_params())


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height + width).integers(0, 256, (height, width, 3), np.uint8)


def require_same(found, expected) -> None:
    """To rounding: the two are compiled apart."""
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert len(expected.scores) > 20
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
    # As sets: scores that are equal to rounding may swap.
    same = np.abs(found.boxes[:, None] - expected.boxes[None]).max(-1) < 0.01
    assert same.any(0).mean() > 0.99


@pytest.mark.parametrize(
    "size", [(64, 96), (61, 85), (480, 640), (33, 300), (300, 200), (500, 499), (1, 1)]
)
def test_same_as_live_model(size, model, live):
    require_same(model(noise(*size)), live(noise(*size)))


def test_takes_a_path(model, tmp_path):
    image = noise(70, 50)
    cv2.imwrite(str(tmp_path / "x.png"), image[..., ::-1])
    for found, expected in zip(model(tmp_path / "x.png")[:2], model(image)[:2], strict=True):
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(InputError, match="No such file"):
        model(tmp_path / "y.png")
    with pytest.raises(InputError, match="uint8"):
        model(image.astype(np.float32) + 0.5)


def test_any_batch_size(model):
    images = [noise(40 + i, 60 + i) for i in range(3)]
    data = DataConfig(image_scale=model.manifest.image_scale)
    rows = [batch_of_one(image, data, model.manifest.buckets) for image in images]
    found = model.predict(jax.tree.map(lambda *x: np.concatenate(x), *rows))
    assert found.boxes.shape[0] == 3
    for i, row in enumerate(rows):
        alone = model.predict(row)
        assert found.valid[i].sum() == alone.valid[0].sum() > 20
        np.testing.assert_allclose(found.scores[i], alone.scores[0], rtol=1e-5, atol=1e-7)
    with pytest.raises(
        InputError, match="batch: of 32 x 32 pixels; there are programs for 64 x 64"
    ):
        model.predict(rows[0]._replace(image=np.zeros((1, 32, 32, 3), np.uint8)))


def test_one_program_for_all_platforms_and_batch_sizes(path):
    with zipfile.ZipFile(path) as file:
        names = [name for name in file.namelist() if name.startswith("programs/")]
        programs = [jax_export.deserialize(bytearray(file.read(name))) for name in names]
        # Nothing tells whose machine it was made on.
        assert str(ROOT).encode() not in b"".join(map(file.read, file.namelist()))
    assert names == ["programs/64x64.jax", "programs/64x96.jax", "programs/96x64.jax"]
    for program in programs:
        assert program.platforms == ("cpu", "cuda", "tpu")
        assert not isinstance(program.in_avals[-2].shape[0], int)


# Run in a process of its own, in an empty folder: the file and the installed library are enough.
ALONE = """
import sys
import numpy as np
import jaxdet
model = jaxdet.load_exported(sys.argv[1])
with np.load("in.npz") as images:
    found = model(list(images.values()))
np.savez("out.npz", *[x for result in found for x in result[:2]])
needless = ("configs", "jaxdet.configs", "jaxdet.models", "jaxdet.ops.nms", "flax")
print(sorted(name for name in sys.modules if name.startswith(needless)))
try:
    model([[1, 2]])
except jaxdet.InputError as error:
    print(error)
"""


def test_runs_in_a_process_without_the_config(path, live, tmp_path):
    moved = tmp_path / "moved.zip"
    moved.write_bytes(path.read_bytes())
    images = [noise(50, 80), noise(90, 70)]
    np.savez(tmp_path / "in.npz", *images)
    result = subprocess.run(
        [sys.executable, "-c", ALONE, moved.name],
        cwd=tmp_path,
        env={**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    modules, refusal = result.stdout.splitlines()
    assert modules == "[]"
    assert refusal.startswith("image: must be a path, or uint8 (height, width, 3) RGB, grey ")
    assert refusal.endswith(", not int")
    with np.load(tmp_path / "out.npz") as arrays:
        found = list(arrays.values())
    for i, image in enumerate(images):
        require_same(Result(*found[2 * i : 2 * i + 2]), live(image))


def refusal(path: Path) -> str:
    """The one line that a file is refused with, without its name."""
    with pytest.raises(InputError) as caught:
        jaxdet.load_exported(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def changed(path: Path, out: Path, **members) -> Path:
    """A copy of the zip with some members replaced, or left out where None."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = members.get(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    return out


def test_missing_file_and_folder(tmp_path):
    assert "cannot be read: No such file" in refusal(tmp_path / "none.zip")
    assert "cannot be read: not a regular file" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04" + bytes(100)])
def test_other_files_are_refused(content, tmp_path):
    (tmp_path / "x.zip").write_bytes(content)
    assert "not a whole exported model" in refusal(tmp_path / "x.zip")


def test_other_zips_are_refused(tmp_path):
    np.savez(tmp_path / "x.zip.npz", np.zeros(3))
    assert "manifest.json" in refusal(tmp_path / "x.zip.npz")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"format": "another"}, "$.format"),
        ({"format_version": 1}, "$.format_version"),
        ({"buckets": [[64]]}, "$.buckets"),
        ({"buckets": 3}, "$.buckets"),
        ({"buckets": [[64, 64]]}, "no bucket holds"),
        ({"image_scale": None}, "$.image_scale"),
    ],
)
def test_other_manifests_are_refused(fields, named, path, tmp_path):
    with zipfile.ZipFile(path) as file:
        text = json.dumps({**json.loads(file.read("manifest.json")), **fields})
    line = refusal(changed(path, tmp_path / "x.zip", **{"manifest.json": text}))
    assert f"not a whole exported model that jax {jax.__version__} can run" in line
    assert named in line


def npy(array) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def large_npy() -> bytes:
    """A header that promises four terabytes."""
    out = io.BytesIO()
    shape = {"descr": "<f4", "fortran_order": False, "shape": (10**12,)}
    np.lib.format.write_array_header_1_0(out, shape)
    return out.getvalue() + bytes(100)


PROGRAM, BIAS = "programs/64x96.jax", "params/rpn_head/rpn_cls/bias.npy"


@pytest.mark.parametrize(
    ("member", "content", "said"),
    [
        (PROGRAM, None, PROGRAM),
        (PROGRAM, b"x" * 1000, ""),
        (PROGRAM, b"", ""),
        (BIAS, None, BIAS),
        (BIAS, b"xx", ""),
        (BIAS, npy(np.array([print], object)), "allow_pickle"),
        (BIAS, large_npy(), ""),
        (BIAS, npy(np.zeros(3)), f"{BIAS} is float64"),
        (BIAS, npy(np.zeros(4, np.float32)), f"{BIAS} is float32 (4,), not float32[9]"),
        (BIAS, npy(np.full(9, np.nan, np.float32)), f"{BIAS} holds NaN or infinity"),
    ],
)
def test_damaged_params_and_programs_are_refused(member, content, said, path, tmp_path):
    line = refusal(changed(path, tmp_path / "x.zip", **{member: content}))
    assert "not a whole exported model" in line
    assert said in line


def test_a_program_of_another_bucket_is_refused(path, tmp_path):
    with zipfile.ZipFile(path) as file:
        other = file.read("programs/96x64.jax")
    assert "64" in refusal(changed(path, tmp_path / "x.zip", **{PROGRAM: other}))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated_files_are_refused(share, path, tmp_path):
    data = path.read_bytes()
    (tmp_path / "x.zip").write_bytes(data[: int(share * len(data))])
    assert "not a whole exported model" in refusal(tmp_path / "x.zip")


def test_a_wrong_byte_is_refused_or_harmless(path, model, tmp_path):
    """Checksums cover all that counts; a time stamp or an attribute may say what it likes."""
    data, other = path.read_bytes(), tmp_path / "x.zip"
    directory = data.rindex(b"PK\x01\x02")  # the last entry; where parsers are least protected

    @settings(max_examples=60, deadline=None)
    @given(
        st.one_of(st.integers(0, len(data) - 1), st.integers(directory, len(data) - 1)),
        st.integers(1, 255),
    )
    def check(place, change):
        other.write_bytes(data[:place] + bytes([data[place] ^ change]) + data[place + 1 :])
        try:
            loaded = jaxdet.load_exported(other)
        except InputError as error:
            assert str(error).startswith(f"{other}: ")  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
        else:
            jax.tree.map(np.testing.assert_array_equal, loaded._params, model._params)

    check()


def read_mutated(count, path, tmp_path) -> None:
    good = with_buckets(path.read_bytes(), (64, 64))
    cases = (mutated(good, seed) for seed in range(count))
    lines = read_each("jaxdet.inference.exported:load_exported", good, cases, tmp_path)
    assert sum(map(bool, lines.values())) > count / 2


def test_a_file_changed_member_by_member_is_one_line(path, tmp_path):
    read_mutated(10, path, tmp_path)


@pytest.mark.slow
def test_many_files_changed_member_by_member_are_one_line(path, tmp_path):
    read_mutated(1000, path, tmp_path)


@pytest.mark.parametrize("count", [65, 10**6])
def test_more_buckets_than_an_export_has_are_refused_at_once(count, path, tmp_path):
    (tmp_path / "x.zip").write_bytes(with_buckets(path.read_bytes(), *[(64, 64)] * count))
    assert "Expected `array` of length <= 64 - at `$.buckets`" in refusal(tmp_path / "x.zip")


@pytest.fixture(scope="module")
def square() -> Config:
    """One bucket."""
    return config_lib.parse(small_config((64, 64)))


def test_a_file_for_other_devices_is_refused(square, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "PLATFORMS", ("tpu",))
    export.write_exported(square, small_params(), tmp_path / "x.zip")
    assert "exported for tpu, not for cpu" in refusal(tmp_path / "x.zip")


@pytest.mark.slow
def test_same_model_same_file(square, tmp_path):
    for name in ("a.zip", "b.zip"):
        export.write_exported(square, small_params(), tmp_path / name)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


@pytest.mark.slow
def test_bfloat16_model(square, tmp_path):
    train = dataclasses.replace(square.train, precision="bfloat16")
    config = dataclasses.replace(square, train=train)
    export.write_exported(config, small_params(), tmp_path / "x.zip")
    found = jaxdet.load_exported(tmp_path / "x.zip")(noise(64, 60))
    live = make_predictor(config, build_detector(config), small_params())
    expected = live(noise(64, 60))
    assert len(found.scores) > 20
    # One rounding of an activation is 2**-9; programs differ in where they round.
    np.testing.assert_allclose(found.scores[:20], expected.scores[:20], rtol=2e-2)


def test_a_failed_export_leaves_what_was_there(square, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("the machine is on fire")

    monkeypatch.setattr(export, "_program", fail)
    out = tmp_path / "x.zip"
    out.write_text("precious")
    with pytest.raises(RuntimeError):
        export.write_exported(square, small_params(), out)
    assert out.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [out]
    with pytest.raises(InputError, match="is a folder"):
        export.write_exported(square, small_params(), tmp_path)
    with pytest.raises(InputError, match=r"x\.zip: cannot be made: File exists"):
        export.write_exported(square, small_params(), out / "y.zip")


@pytest.fixture
def workdir(tmp_path) -> Path:
    with Checkpoints(tmp_path / "run") as checkpoints:
        checkpoints.save(0, small_params(), None, {})
    return tmp_path / "run"


def run_command(*arguments) -> subprocess.CompletedProcess:
    overrides = [f"--config.model.{name}={value}" for name, value in SMALL.items()]
    overrides.append("--config.data.image_scale=(64, 64)")
    return subprocess.run(
        [sys.executable, "-m", "jaxdet.main", "--mode=export", *overrides, *arguments],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_pyramid_of_the_default_config(tmp_path):
    """Five levels, in every bucket."""
    config = config_lib.parse(config_lib.load_file(CONFIG_FILE))
    params = random_params(config)
    export.write_exported(config, params, tmp_path / "x.zip")
    model = jaxdet.load_exported(tmp_path / "x.zip")
    live = make_predictor(config, build_detector(config), params)
    for size in [(150, 200), (160, 160)]:
        require_same(model(noise(*size)), live(noise(*size)))


@pytest.mark.slow
def test_command(workdir, tmp_path):
    out = tmp_path / "new" / "model.zip"
    result = run_command(f"--checkpoint={workdir}", f"--out={out}")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[-2] == "bucket 64 x 64 (3 of 3)"  # after 32 x 64 and 64 x 32
    assert lines[-1].startswith(f"wrote {out} (")
    expected = jaxdet.load(small_config((64, 64)), workdir)(noise(50, 60))
    require_same(jaxdet.load_exported(out)(noise(50, 60)), expected)

    result = run_command(f"--checkpoint={tmp_path}/none", f"--out={out}")
    assert result.returncode == 2
    assert (
        result.stderr == f"jaxdet: {tmp_path}/none: no such checkpoint; "
        "give a work directory or a file of weights\n"
    )
