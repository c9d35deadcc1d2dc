"""Whatever is wrong on the command line: one line on stderr, exit code 2, and nothing written."""

import json
import os

import cv2
import jax
import numpy as np
import pytest
from forked_commands import AS_A_USER
from forked_commands import run_forked as run
from tiny_coco import TINY_MODEL, write_coco

from jaxdet import config as config_lib
from jaxdet.checkpoint import Checkpoints
from jaxdet.detectors.build import build_detector, param_shapes

CONFIG = "--config=rpn_r18_fpn_shapes"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A folder of its own, as runs may lie in the one that tests are started in."""
    monkeypatch.chdir(tmp_path)


def refused(results, expected) -> None:
    """One line each, with its part."""
    for (code, out, err), part in zip(results, expected, strict=True):
        assert (code, out) == (2, ""), err
        assert err.startswith("jaxdet: ")
        assert err.splitlines() == [err.removesuffix("\n")]
        assert part in err


OVERRIDES = {
    "proposals.nms_threshold=nan": "nms_threshold: Expected `float` >= 0.0; it is nan",
    "test.nms_threshold=0.5": "--config.test.nms_threshold=0.5: no such field or value",
    "train.seed=99999999999999999999": "config.train.seed: too large",
    "train.seed=" + 5000 * "9": "config.train.seed",
    "data.image_scale=()": "(long side, short side), not ()",
    "data.image_scale=(64,'x')": "config.data.image_scale[1]: Expected `int`, got `str`; it is 'x'",
    "data.image_scale=(((((": "config.data.image_scale",
    "data.flip=": "config.data.flip",
    "data.root=a\nb": "config.data.root: must be printable text",
    "name=../x": "config.name",
    "model.depth=[50]": "config.model.depth",
    "model.depth": "Missing value for flag --config.model.depth",
    "model.depth.x=3": "--config.model.depth.x=3: no such field or value",
    "model.__class__=x": "--config.model.__class__=x: no such field or value",
    "model={}": "config.model.",
    "model.train_norm=maybe": "train_norm=maybe",
    "train=3": "config.train=3",
    "optimizer.learning_rate=1e400": "config.optimizer.learning_rate",
    "optimizer.decay_epochs=[1e308]": "config.optimizer.decay_epochs",
    ".=3": CONFIG,
    "=3": CONFIG,
}


@pytest.mark.slow
def test_overrides():
    results = run(*([CONFIG, f"--config.{override}"] for override in OVERRIDES))
    refused(results, OVERRIDES.values())


@pytest.mark.slow
def test_overrides_are_not_executed(tmp_path):
    target = tmp_path / "executed"
    call = f"__import__('pathlib').Path({str(target)!r}).touch()"
    fields = ("optimizer.decay_epochs", "model.anchor_scales", "train.seed", "data.root", "model")
    results = run(*([CONFIG, "--mode=eval", f"--config.{f}={call}"] for f in fields))
    assert {code for code, _, _ in results} == {2}
    assert not target.exists()


def test_config_files_flags_and_paths(tmp_path):
    texts = {"syntax": "def get_config(:\n", "raises": "raise RuntimeError('a\\nb')\n", "none": ""}
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    pipe = tmp_path / "pipe.pth"
    os.mkfifo(pipe)
    coco, scale = "--config.data.name=coco", "--config.data.image_scale="
    cases = {
        **{(f"--config={tmp_path}/{name}.py",): f"{name}.py" for name in texts},
        ("--config=",): "no such config",
        ("--config=rpn_r51",): "rpn_r51: no such config",
        (f"--config={tmp_path}",): f"{tmp_path}: no such config",
        ("--mode=",): "--mode=",
        (f"{scale}(64, 64)", f"{scale}(64,)"): "not (64,)",  # the last one counts
        ("--nonsense=1",): "nonsense",
        ("x\ny",): "x\\ny: not understood",
        ("--num_processes=x",): "num_processes",
        ("--mode=predict",): "--images",
        ("--mode=predict", f"--images={pipe}"): "pipe.pth: cannot be read: Not a directory",
        ("--mode=predict", f"--images={tmp_path}"): "holds no images",
        ("--mode=eval", f"--checkpoint={pipe}"): "not a regular file",
        ("--mode=eval", f"--checkpoint={'a' * 5000}"): "File name too long",
        ("--mode=eval", "--checkpoint=zoo://../../x"): "nothing of this name is published",
        ("--mode=export", "--checkpoint=/dev/null"): "not a regular file",
        ("--mode=eval", coco, f"--config.data.root={tmp_path}"): "instances_val2017.json",
    }
    out = f"--out={tmp_path}/out"
    refused(run(*([*case, out, f"--workdir={tmp_path}/run"] for case in cases)), cases.values())
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "run").exists()


def test_what_the_system_refuses_an_ordinary_user(tmp_path):
    """Private folders, names that no file can have, pipes: a line each with the name."""
    private, pipe, long = tmp_path / "private", tmp_path / "pipe", f"{tmp_path}/{300 * 'n'}"
    write_coco(private / "coco")
    (private / "x.pth").touch()
    os.mkfifo(pipe)
    private.chmod(0)
    coco, run_folder = "--config.data.name=coco", f"--workdir={tmp_path}/run"
    evaluate = ("--mode=eval", run_folder)
    denied, too_long = "Permission denied; choose another", "File name too long"
    cases = {
        (coco, f"--config.data.root={private}/coco", run_folder): denied,
        (
            coco,
            f"--config.data.root={private}/coco",
            f"--workdir={tmp_path}/check",
            "--mode=check",
        ): denied,
        (*evaluate, f"--checkpoint={private}/x.pth"): denied,
        (*evaluate, f"--checkpoint={private}/run"): denied,
        (f"--workdir={private}/run",): denied,
        ("--mode=eval", f"--workdir={private}/run/x"): denied,
        (f"--config={private}/x.py",): denied,
        ("--mode=predict", f"--images={private}/x.png"): denied,
        (f"--workdir={long}",): too_long,
        (coco, f"--config.data.root={long}", run_folder): too_long,
        (coco, f"--config.data.train_annotations={long}", run_folder): too_long,
        (*evaluate, f"--checkpoint={long}"): too_long,
        (*evaluate, f"--checkpoint={long}.pth"): too_long,
        (f"--config={long}",): too_long,
        ("--mode=predict", f"--images={long}"): too_long,
        ("--flagfile=/nonexistent",): "/nonexistent: cannot be read: No such file",
        ("--flagfile", str(pipe)): "pipe: cannot be read: not a regular file",
        (f"--config={pipe}",): "pipe: no such config",
    }
    try:
        results = run(*([CONFIG, *case] for case in cases), before=AS_A_USER)
    finally:
        private.chmod(0o700)
    refused(results, cases.values())
    assert not (tmp_path / "run").exists()


def test_flag_files_are_read(tmp_path):
    (tmp_path / "flags").write_text("# of a colleague\n--mode=dance\n\n")
    refused(run([CONFIG, f"--flagfile={tmp_path}/flags"]), ["--mode=dance"])


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> list[str]:
    """Arguments for a network that compiles in seconds, with fresh weights."""
    config = config_lib.load_file("rpn_r18_fpn_shapes")
    config.model.update(TINY_MODEL)
    rng, shapes = np.random.default_rng(0), param_shapes(build_detector(config_lib.parse(config)))
    params = jax.tree.map(lambda x: rng.uniform(0, 0.1, x.shape).astype(np.float32), shapes)
    workdir = tmp_path_factory.mktemp("run")
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(0, params, None, {})
    fields = [f"--config.model.{name}={value}" for name, value in TINY_MODEL.items()]
    return [CONFIG, *fields, "--config.data.image_scale=(64, 64)", f"--checkpoint={workdir}"]


def test_predict_names_bad_images_and_finishes_the_others(model, tmp_path):
    """One image is none by its header, one turns out to be cut off when it is decoded."""
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    for name in ("first", "last"):
        cv2.imwrite(str(folder / f"{name}.png"), noise)
    whole = (folder / "last.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "page.jpg").write_text("<html>")
    (folder / "first.png").rename(folder / "first.jfif")  # told by its content
    (folder / "notes.md").touch()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    predict = [*model, "--mode=predict", "--draw"]
    mixed, none, same = run(
        [*predict, f"--images={folder}", f"--out={out}"],
        [*predict, f"--images={folder}/page.jpg", f"--out={tmp_path}/none"],
        [*predict, f"--images={folder}", f"--out={folder}"],
    )
    code, said, err = mixed
    assert code == 2
    assert "wrote proposals of 2 images" in said
    assert err.splitlines() == [
        f"jaxdet: {folder}: passes over 1 links and other files (notes.md)",
        f"jaxdet: {folder}/cut.png: image cannot be decoded; it is damaged or cut off",
        f"jaxdet: {folder}/page.jpg: not a JPEG, PNG, WebP, BMP, GIF or TIFF image, "
        "or cut off within its header",
    ]
    names = ["first.json", "first.png", "last.json", "last.png"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert len(json.loads((out / "last.json").read_text())["boxes"]) > 0
    refused([none], [f"{folder}/page.jpg: not a JPEG"])
    assert same[0] == 2
    assert "a drawing would replace" in same[2]
    assert not [*(tmp_path / "none").iterdir()]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.slow
def test_results_have_no_place(model, tmp_path):
    coco = write_coco(tmp_path / "coco")
    (tmp_path / "file").write_text("precious")
    for folder in ("out/0.json", "out2/0.png", "run/eval.json", "run2/proposals.npz"):
        (tmp_path / folder).mkdir(parents=True)
    predict = [*model, "--mode=predict", f"--images={coco}/val2017/0.png"]
    data = ["--config.data.name=coco", f"--config.data.root={coco}"]
    evaluate = [*model, *data, "--mode=eval", "--save_proposals"]
    outcomes = run(
        [*predict, f"--out={tmp_path}/file"],
        [*predict, f"--out={tmp_path}/out"],
        [*predict, f"--out={tmp_path}/out2", "--draw"],
        [*evaluate, f"--workdir={tmp_path}/file"],
        [*evaluate, f"--workdir={tmp_path}/run"],
        [*evaluate, f"--workdir={tmp_path}/run2"],
    )
    said = [
        "file: cannot be made: File exists",
        "out/0.json: cannot be written: Is a directory",
        "out2/0.png: cannot be written: Is a directory",
        "file: cannot be made: File exists",
        "run/eval.json: cannot be written: Is a directory",
        "run2/proposals.npz: cannot be written: Is a directory",
    ]
    for (code, _, err), words in zip(outcomes, said, strict=True):
        line = f"jaxdet: {tmp_path}/{words}"
        assert (code, err.splitlines()) == (2, [line])
    assert (tmp_path / "file").read_text() == "precious"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["0.json"]
