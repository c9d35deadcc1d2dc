"""The command as a user runs it: whole runs on a tiny set, and bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from forked_commands import QUICK, run_forked
from tiny_coco import TINY_FLAGS, TINY_MODEL, write_coco

import jaxdet
from jaxdet import config as config_lib

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A folder of its own, as runs may lie in the one that tests are started in."""
    monkeypatch.chdir(tmp_path)


def run(*arguments, timeout=300, **environment) -> subprocess.CompletedProcess:
    """Runs `python -m jaxdet.main`."""
    return subprocess.run(
        [sys.executable, "-m", "jaxdet.main", *map(str, arguments)],
        env={**os.environ, "XLA_FLAGS": QUICK, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def refused(cases: dict[tuple[str, ...], tuple]) -> None:
    """Each list of arguments gives one line on stderr that has all its parts, and exit code 2."""
    results = run_forked(*([*map(str, arguments)] for arguments in cases))
    for (code, _, errors), parts in zip(results, cases.values(), strict=True):
        is_refusal(code, errors, *parts)


def is_refusal(code: int, errors: str, *parts: object) -> None:
    """A command ended with exit code 2 and one line on stderr that has all parts."""
    assert code == 2, errors
    lines = errors.strip().splitlines()
    assert len(lines) == 1, errors
    assert lines[0].startswith("jaxdet: ")
    for part in parts:
        assert str(part) in lines[0]


@pytest.fixture(scope="session")
def coco(tmp_path_factory) -> Path:
    return write_coco(tmp_path_factory.mktemp("coco"))


@pytest.fixture
def on_coco(coco):
    return [*TINY_FLAGS, "--config.data.name=coco", f"--config.data.root={coco}"]


@pytest.fixture(scope="session")
def trained(coco, tmp_path_factory) -> Path:
    """A work directory of a run of four steps."""
    workdir = tmp_path_factory.mktemp("run")
    arguments = [*TINY_FLAGS, "--config.data.name=coco", f"--config.data.root={coco}"]
    result = run(*arguments, f"--workdir={workdir}", "--config.train.num_steps=4")
    assert result.returncode == 0, result.stderr
    assert "AR, COCO API" in result.stdout
    assert "ETA" in result.stdout
    return workdir


def test_training_leaves_what_the_contract_names(trained):
    for name in ("config.json", "eval.json", "proposals.png", "metrics.jsonl", "report.html"):
        assert (trained / name).is_file()
    assert list(trained.glob("events.out.tfevents.*"))
    assert (trained / "checkpoints" / "4" / "params").is_dir()
    result = json.loads((trained / "eval.json").read_text())
    assert {"AR@100", "AR@300", "AR@1000", "fast", "images_per_second"} <= set(result)
    assert set(result["seconds_per_image"]) == {"data", "forward", "post"}
    assert result["num_images"] == 6
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == [2, 4]


def test_second_run_goes_on(trained, on_coco, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir)
    new = ("--config.train.num_steps=6", "--config.optimizer.learning_rate=0.001")
    result = run(*on_coco, f"--workdir={workdir}", *new)
    assert result.returncode == 0, result.stderr
    assert "going on from step 4" in result.stdout
    assert "from here on: optimizer.learning_rate 0.0015 there, 0.001 now" in result.stdout
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == [2, 4, 6]


def test_help_shows_every_field_and_quiet_only_errors(trained, coco, tmp_path):
    predict = (f"--checkpoint={trained}", "--mode=predict", f"--out={tmp_path / 'out'}", "--quiet")
    good, broken = coco / "val2017" / "0.png", tmp_path / "broken.png"
    broken.write_bytes(good.read_bytes()[:60])
    shown, quiet = run_forked(["--help"], [*predict, f"--images={good},{broken}"])
    assert shown[0] == 0
    assert "--[no]quiet" in shown[1]
    assert "--config.data.flip=0.5\n    probability of a horizontal mirror image" in shown[1]
    code, output, errors = quiet
    assert (code, output) == (2, "")
    assert errors.startswith(f"jaxdet: {broken}: ")
    assert len(errors.splitlines()) == 1
    assert (tmp_path / "out" / "0.json").is_file()


@pytest.mark.slow
@pytest.mark.xdist_group("trained")
def test_heads_that_do_not_fit_begin_anew_when_asked_for(trained, on_coco, tmp_path):
    other = (*on_coco, f"--checkpoint={trained}", "--config.model.anchor_ratios=(1.0, 2.0)")
    other = (*other, "--config.train.num_steps=1")
    asked = (*other, "--config.train.fresh_heads=True", f"--workdir={tmp_path / 'b'}")
    refusal, done = run_forked([*other, f"--workdir={tmp_path / 'a'}"], [*asked])
    said = "; with --config.train.fresh_heads=True they begin anew"
    is_refusal(refusal[0], refusal[2], "rpn_head/rpn_cls", said)
    assert done[0] == 0, done[2]
    assert "begin anew: rpn_head/rpn_cls, rpn_head/rpn_reg" in done[2]


def test_eval_and_predict(trained, on_coco, coco, tmp_path):
    before = json.loads((trained / "eval.json").read_text())
    workdir = tmp_path / "eval"
    result = run(
        *on_coco, "--mode=eval", f"--checkpoint={trained}", f"--workdir={workdir}",
        "--save_proposals",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    after = json.loads((workdir / "eval.json").read_text())
    assert after["AR@1000"] == before["AR@1000"]
    with np.load(workdir / "proposals.npz") as arrays:
        assert arrays["count"].sum() == len(arrays["boxes"]) == len(arrays["scores"])
    result = run(
        *on_coco, "--mode=eval", f"--checkpoint={trained}", f"--workdir={workdir}",
        "--save_proposals", "--split=train",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert json.loads((workdir / "eval.json").read_text()) == after
    with np.load(workdir / "train" / "proposals.npz") as arrays:
        assert arrays["image_id"].tolist() == [1, 2, 3, 4, 5, 6]

    out = tmp_path / "out"
    images = f"{coco}/val2017/0.png,{coco}/train2017/5.png"
    result = run(
        *on_coco, "--mode=predict", f"--checkpoint={trained}", f"--images={images}",
        f"--out={out}", "--draw",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert sorted(p.name for p in out.iterdir()) == ["0.json", "0.png", "5.json", "5.png"]
    record = json.loads((out / "0.json").read_text())
    assert (record["width"], record["height"]) == (64, 48)
    assert len(record["boxes"]) == len(record["scores"]) > 0
    assert record["scores"] == sorted(record["scores"], reverse=True)

    config = config_lib.load_file("rpn_r18_fpn_shapes")
    config.model.update(TINY_MODEL)
    config.data.image_scale = (64, 64)
    found = jaxdet.load(config, trained)(coco / "val2017" / "0.png")
    # Boxes whose scores differ by float32 rounding may change places.
    gaps = np.abs(found.boxes[:, None] - np.array(record["boxes"])).max(axis=-1)
    assert max(gaps.min(axis=0).max(), gaps.min(axis=1).max()) < 2e-3
    np.testing.assert_allclose(found.scores, record["scores"], atol=2e-6)


@pytest.mark.slow
@pytest.mark.xdist_group("trained")
def test_a_runs_own_config_is_the_default(trained, coco, tmp_path):
    """Without it the demo's network would be asked for; with another scale a line says so."""
    image = (f"--images={coco}/val2017/0.png", "--mode=predict")
    other = (f"--config={trained}/config.json", "--config.data.image_scale=(96, 64)")
    (code, _, errors), (other_code, _, line) = run_forked(
        [*image, f"--checkpoint={trained}/checkpoints/4", f"--out={tmp_path}/a"],
        [*other, *image, f"--checkpoint={trained}", f"--out={tmp_path}/b"],
    )
    assert (code, errors, other_code) == (0, "", 0)
    assert line == (
        f"jaxdet: {trained}/config.json: its run had other settings: "
        "data.image_scale (64, 64) there, (96, 64) now\n"
    )


@pytest.mark.slow
@pytest.mark.xdist_group("trained")
def test_results_of_something_else_stay(trained, on_coco, coco, tmp_path):
    """An evaluation writes over none of another config, checkpoint or data set."""
    own = tmp_path / "own"
    shutil.copytree(trained, own)
    before = (own / "eval.json").read_bytes()
    more = tmp_path / "more"
    shutil.copytree(coco, more)
    path = more / "annotations" / "instances_val2017.json"
    path.write_text(path.read_text().replace("20, 16", "20, 17"))
    evaluate = (*on_coco, f"--workdir={own}", "--mode=eval")
    config = "--config.proposals.nms_post=7"
    refused(
        {
            (*evaluate, f"--checkpoint={trained}"): (own, f"checkpoint its own, not of {trained};"),
            (*evaluate, config): ("config.json", "nms_post 2000 there, 7 now"),
            (*evaluate, f"--config.data.root={more}"): ("data 6 images, 9 annotations (", own),
            (*evaluate[:-1], "--mode=check", config): ("config.json", "nms_post"),
        }
    )
    assert (own / "eval.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.xdist_group("trained")
def test_without_a_validation_set_nothing_is_measured(trained, coco, tmp_path):
    """Neither while training, nor of a file of images alone, of which proposals are made."""
    annotations = coco / "annotations" / "instances_train2017.json"
    paths = [f"--config.data.train_{k}={v}" for k, v in
             (("annotations", annotations), ("images", coco / "train2017"))]  # fmt: skip
    content = json.loads(annotations.read_text())
    (tmp_path / "info.json").write_text(json.dumps({"images": content["images"]}))
    info = [f"--config.data.val_annotations={tmp_path}/info.json", *paths[1:]]
    info += [f"--config.data.val_images={coco}/val2017", "--save_proposals", "--mode=eval"]
    train, evaluation = run_forked(
        [*TINY_FLAGS, "--config.data.name=coco", *paths, f"--workdir={tmp_path}/run",
         "--config.train.num_steps=2"],
        [*info, f"--checkpoint={trained}", f"--workdir={tmp_path}/info"],
    )  # fmt: skip
    assert (train[0], evaluation[0]) == (0, 0), (train, evaluation)
    said = "config.data.val_annotations: no annotations to validate with; nothing is measured\n"
    assert said in train[1]
    assert train[1].endswith(f"wrote {tmp_path}/run/report.html\n")
    assert (tmp_path / "run" / "checkpoints" / "2").is_dir()
    assert not (tmp_path / "run" / "eval.json").exists()
    said = f"{tmp_path}/info.json: no annotations, so there is nothing to measure\n"
    assert evaluation[1].endswith(said)
    with np.load(tmp_path / "info" / "proposals.npz") as arrays:
        assert arrays["image_id"].tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
@pytest.mark.xdist_group("trained")
def test_what_a_run_began_with_may_be_gone(trained, on_coco, coco, tmp_path):
    """It goes on without its pretrained weights; what changed since is said."""
    workdir, grown = tmp_path / "run", tmp_path / "grown"
    shutil.copytree(trained, workdir)
    shutil.copytree(coco, grown)
    path = grown / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    content["images"].append({**content["images"][0], "id": 7})
    path.write_text(json.dumps(content))
    result = run(
        *on_coco, f"--workdir={workdir}", f"--config.data.root={grown}", "--checkpoint=gone.pth",
        "--config.train.num_steps=5",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert f"{workdir}: goes on from its own checkpoints; gone.pth is not read" in lines
    (line,) = [line for line in lines if line.startswith("other training data than before: ")]
    assert "6 images, 9 annotations (" in line
    assert "7 images, 9 annotations (" in line


@pytest.mark.parametrize(
    ("number", "code", "workers"),
    [pytest.param("SIGTERM", 143, 0, marks=pytest.mark.slow), ("SIGINT", 130, 1)],
)
def test_signals_save_first(on_coco, tmp_path, number, code, workers):
    """Ctrl-C reaches the loader's processes too, which keep quiet."""
    workdir = tmp_path / "run"
    arguments = [*on_coco, f"--workdir={workdir}", "--config.train.num_steps=100000"]
    arguments.append(f"--config.data.num_workers={workers}")
    # SIGINT is not ignored, as it would be in the background.
    heard = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL)"
    heard += "; os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", heard, sys.executable, "-m", "jaxdet.main", *arguments],
        env={**os.environ, "XLA_FLAGS": QUICK, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 240
    log = workdir / "metrics.jsonl"
    while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(process.pid, signal.Signals[number])
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    saved = max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    line = f"jaxdet: {number}: saved step {saved}; the same command goes on from there\n"
    assert errors == line


@pytest.mark.parametrize("lost", ["", "except KeyboardInterrupt: time.sleep(60)"])
def test_ctrl_c_ends_what_does_not_train(lost):
    """In a line, also where a callback of the garbage collector swallows the exception."""
    program = f"""
import os, signal, time
signal.signal(signal.SIGINT, signal.SIG_DFL)
from jaxdet import console

def main(argv):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    {lost or "finally: pass"}

console.GRACE = 0.1 if {bool(lost)} else 50
console.start(main)
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False
    )
    said = "jaxdet: interrupted; nothing half-written is left\n"
    assert (result.returncode, result.stderr) == (130, said)


def test_bad_flags_and_configs(coco, tmp_path):
    on_coco = (*TINY_FLAGS, "--config.data.name=coco")
    annotations = tmp_path / "annotations" / "instances_train2017.json"
    refused(
        {
            ("--config=configs/rpn_r51.py",): ("configs/rpn_r51.py",),
            (*TINY_FLAGS, "--config.model.deepness=3"): ("deepness",),
            (*TINY_FLAGS, "--config.model.depth=51"): ("config.model.depth", 51),
            (*TINY_FLAGS, "--config.train.seed=one"): ("seed",),
            (*TINY_FLAGS, "--mode=dance"): ("mode",),
            (*TINY_FLAGS, "train"): ("train",),
            (*TINY_FLAGS, "--mode=predict", "--images=nowhere.jpg"): ("nowhere.jpg",),
            on_coco: ("config.data.root",),
            (*on_coco, f"--config.data.root={tmp_path}"): (annotations,),
        }
    )


def test_bad_checkpoints_and_workdirs(trained, on_coco, tmp_path):
    evaluate = (*on_coco, "--mode=eval")
    narrow = (*evaluate, "--config.model.fpn_channels=8", f"--checkpoint={trained}")
    other = (*on_coco, f"--workdir={trained}", "--config.train.seed=5")
    refused(
        {
            (*evaluate, f"--checkpoint={tmp_path}/x.pth"): ("x.pth",),
            (*evaluate, f"--checkpoint={tmp_path}"): (tmp_path,),
            narrow: ("neck/fpn_convs_0", "(4,)", "(8,)"),
            other: ("train.seed",),
        }
    )
