"""The training loop: plans, stopping on bad numbers, and the demo's figures."""

import dataclasses
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_coco import TINY_MODEL, write_coco

from jaxdet import config as config_lib
from jaxdet.checkpoint import read_params
from jaxdet.config import Config
from jaxdet.data.load import load_dataset
from jaxdet.detectors.build import build_detector, param_shapes
from jaxdet.inference.evaluate import evaluate
from jaxdet.inference.predictor import make_predictor
from jaxdet.training.loop import TrainingError, progress_line, train
from jaxdet.training.plan import make_plan

ROOT = Path(__file__).parents[1]
DEMO = config_lib.parse(config_lib.load_file(ROOT / "configs" / "rpn_r18_fpn_shapes.py"))


def tiny_config(root: Path, **optimizer) -> Config:
    """Six images, one per device in a batch, a network that compiles in seconds."""
    return dataclasses.replace(
        DEMO,
        model=dataclasses.replace(DEMO.model, **TINY_MODEL),
        data=dataclasses.replace(
            DEMO.data, name="coco", root=str(root), image_scale=(64, 64), images_per_device=1
        ),
        optimizer=dataclasses.replace(DEMO.optimizer, **optimizer),
        train=dataclasses.replace(DEMO.train, num_steps=6, checkpoint_every=1),
    )


def test_nothing_swaps_the_import_while_a_checkpoint_is_written():
    """A run of one step left loaded grain in its evaluation, and orbax then failed to import."""
    begun = "import sys, jaxdet.training.loop; sys.exit('grain' not in sys.modules)"
    assert subprocess.run([sys.executable, "-c", begun], cwd=ROOT, check=False).returncode == 0


def test_plan_counts_repeated_images(tmp_path):
    config = tiny_config(write_coco(tmp_path))
    plan = make_plan(config, load_dataset(config, "train"), num_devices=4)
    assert plan.global_batch == 4
    assert plan.steps_per_epoch == 2  # six images of one aspect group, filled up to eight
    assert plan.total_steps == 6


def test_progress_line_by_hand(tmp_path):
    config = tiny_config(write_coco(tmp_path))
    plan = make_plan(config, load_dataset(config, "train"), num_devices=4)
    plan = plan._replace(total_steps=87960, steps_per_epoch=7330)
    row = {
        "epoch": 1,
        "loss": 0.7243,
        "loss_cls": 0.693,
        "grad_norm": 1.0,
        "seconds_per_step": 0.25,
        "wait_share": 0.034,
        "learning_rate": 0.02,
        "images_per_second": 64.0,
    }
    # 87460 steps of a quarter second are 21865 s: 6 h, 4 min, 25 s.
    assert progress_line(plan, 500, row) == (
        "step   500/87960  epoch  1/12  loss  0.7243  loss_cls  0.6930  lr 2.00e-02"
        "    0.250 s/it     64.0 img/s  wait   3%  ETA   6:04:25"
    )


@pytest.mark.slow
def test_numbers_that_are_not_finite_stop_the_run(tmp_path):
    config = tiny_config(write_coco(tmp_path / "coco"), learning_rate=1e30, name="sgd")
    with pytest.raises(TrainingError) as caught:
        train(config, tmp_path / "run")
    message = str(caught.value)
    assert "not finite: loss" in message
    assert "loss_bbox" in message
    ids = message.split("image ids ")[1].split(";")[0].split(", ")
    assert set(map(int, ids)) == {1, 2, 3, 4, 5, 6}  # eight devices see all of them
    step = int(message.split("step ")[1].split(":")[0])
    saved = [int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir()]
    assert max(saved, default=0) < step
    if saved:
        shapes = param_shapes(build_detector(config))
        params = read_params(tmp_path / "run", shapes)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))


@pytest.mark.slow
def test_demo_reaches_its_figures(tmp_path):
    """The README's first command from an empty cache; time and memory are printed, not judged."""
    workdir = tmp_path / "run"
    start = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "jaxdet.main", f"--workdir={workdir}"],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": "", "JAXDET_CACHE": str(tmp_path / "cache")},
        check=True,
    )
    seconds = time.monotonic() - start
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    result = json.loads((workdir / "eval.json").read_text())

    os.environ["JAXDET_CACHE"] = str(tmp_path / "cache")
    detector = build_detector(DEMO)
    predictor = make_predictor(
        DEMO, detector, jax.jit(detector.init)(jax.random.key(0, impl="rbg"))
    )
    untrained, _ = evaluate(predictor, load_dataset(DEMO, "val"))
    print(f"\n{seconds:.0f} s, at most {memory:.2f} GiB")
    for name in ("AR@100", "AR@300", "AR@1000"):
        print(f"{name}: trained {result[name]:.3f}, untrained {untrained[name]:.3f}")
    assert result["AR@1000"] >= 0.85 > untrained["AR@1000"] + 0.25
    assert result["AR@100"] >= 0.78 > untrained["AR@100"] + 0.25
