"""The same training however it is spread: devices, loader processes, hosts."""

import dataclasses
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from forked_commands import QUICK
from test_train import tiny_config
from tiny_coco import TINY_FLAGS, write_coco

from jaxdet.checkpoint import read_params
from jaxdet.config import Config
from jaxdet.data.load import load_dataset
from jaxdet.detectors.build import build_detector, param_shapes
from jaxdet.distributed import data_mesh
from jaxdet.inference.evaluate import evaluate
from jaxdet.inference.predictor import make_predictor
from jaxdet.training import loop as loop_module
from jaxdet.training.loop import train
from jaxdet.weights import layout, torch_file

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_programs")]

STEPS = 5
GROUPS = 8  # of one image each; every group has its own normaliser, wherever it is computed


def spread_config(coco: Path, accumulation: int, num_workers: int) -> Config:
    config = tiny_config(coco, name="sgd", learning_rate=0.05, warmup_steps=0)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, num_workers=num_workers),
        train=dataclasses.replace(
            config.train, num_steps=STEPS, log_every=1, accumulation=accumulation
        ),
    )


def losses_of(workdir: Path) -> np.ndarray:
    """Loss terms and norms of every step, [step, term]."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    names = ("loss", "loss_cls", "loss_bbox", "num_positive", "grad_norm", "param_norm")
    return np.array([[row[name] for name in names] for row in rows])


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    return write_coco(tmp_path_factory.mktemp("coco"))


def run_on(devices: int, num_workers: int, coco: Path, workdir: Path, monkeypatch):
    """Losses and parameters of a run whose eight groups share so many devices."""
    mesh = data_mesh(jax.devices()[:devices])
    monkeypatch.setattr(loop_module, "data_mesh", lambda: mesh)
    config = spread_config(coco, GROUPS // devices, num_workers)
    train(config, workdir)
    return losses_of(workdir), read_params(workdir, param_shapes(build_detector(config)))


def test_devices_and_loader_processes_do_not_matter(coco, tmp_path, monkeypatch):
    """1, 2 and 8 devices, 0 and 4 processes; the means are summed in another order."""
    expected, params = run_on(1, 0, coco, tmp_path / "one", monkeypatch)
    assert len(set(expected[:, 0])) == STEPS  # it trains
    for devices, num_workers in ((2, 0), (8, 4)):
        workdir = tmp_path / f"{devices}-{num_workers}"
        losses, found = run_on(devices, num_workers, coco, workdir, monkeypatch)
        # Rounding of the gradient grows over the steps: 5e-7 at the first.
        np.testing.assert_allclose(losses[0], expected[0], rtol=2e-6)
        np.testing.assert_allclose(losses, expected, rtol=2e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, params)


def start_hosts(coco: Path, workdir: Path, *flags: str) -> list[subprocess.Popen]:
    """Two processes of four devices each, on loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "jaxdet.main", *TINY_FLAGS, "--config.data.images_per_device=1"),
        *("--config.data.name=coco", f"--config.data.root={coco}", f"--workdir={workdir}"),
        *("--config.optimizer.name=sgd", "--config.optimizer.learning_rate=0.05"),
        *("--config.optimizer.warmup_steps=0", "--config.train.matmul_precision=highest"),
        *flags,
    ]
    environment = {
        **os.environ,
        "XLA_FLAGS": f"{QUICK} --xla_force_host_platform_device_count=4",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": "2",
    }
    return [
        subprocess.Popen(
            [*command, "--distributed"],
            cwd=ROOT,
            env={**environment, "JAX_PROCESS_ID": str(i)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]


def test_two_hosts(coco, tmp_path, monkeypatch):
    """Two processes of four devices train as eight devices of one process do; one prints."""
    length = f"--config.train.num_steps={STEPS}", "--config.train.log_every=1"
    hosts = start_hosts(coco, tmp_path / "two", *length)
    results = [host.communicate(timeout=540) for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], results
    assert "8 devices x 1 images = 8 a step" in results[0][0]
    assert "step" not in results[1][0]

    config = spread_config(coco, 1, 0)
    precise = dataclasses.replace(config.train, matmul_precision="highest")
    config = dataclasses.replace(config, train=precise)
    result = train(config, tmp_path / "one")
    np.testing.assert_allclose(losses_of(tmp_path / "two"), losses_of(tmp_path / "one"), rtol=2e-5)
    found = json.loads((tmp_path / "two" / "eval.json").read_text())
    assert found["num_images"] == result["num_images"] == 6
    assert_same_proposals(coco, tmp_path, config)


def assert_same_proposals(coco: Path, folder: Path, config: Config) -> None:
    """Two hosts evaluate a checkpoint: every image has the proposals that one process finds."""
    checkpoint = folder / "two"
    flags = ("--mode=eval", f"--checkpoint={checkpoint}", "--save_proposals")
    hosts = start_hosts(coco, folder / "eval", *flags)
    results = [host.communicate(timeout=540) for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], results
    params = read_params(checkpoint, param_shapes(build_detector(config)))
    dataset = load_dataset(config, "val")
    predictor = make_predictor(config, build_detector(config), params, data_mesh())
    _, expected = evaluate(predictor, dataset)
    with np.load(folder / "eval" / "proposals.npz") as found:
        np.testing.assert_array_equal(found["image_id"], dataset.image_ids)
        ends = np.cumsum(found["count"])
        scores, boxes = (np.split(found[k], ends[:-1]) for k in ("scores", "boxes"))
    for i, own in enumerate(expected):
        np.testing.assert_allclose(scores[i], own.scores, atol=1e-6)
        # Of equal scores, rounding may turn the order: the best are compared.
        np.testing.assert_allclose(boxes[i][:5], own.boxes[:5], atol=1e-3)
    assert not np.allclose(expected[0].scores[:5], expected[1].scores[:5], atol=1e-6)


def test_two_hosts_predict_are_killed_and_go_on(coco, tmp_path, monkeypatch):
    """Every image is there once, and no result depends on who made it."""
    monkeypatch.setenv("JAXDET_CACHE", str(tmp_path / "cache"))
    shapes = param_shapes(build_detector(spread_config(coco, 1, 0)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.uniform(0, 0.1, x.shape).astype(np.float32), shapes)
    torch_file.write(tmp_path / "x.pth", {"state_dict": layout.to_state_dict(params)})
    (tmp_path / "shards").mkdir()
    for i in range(8):
        with tarfile.open(tmp_path / "shards" / f"{i}.tar", "w") as tar:
            for j in range(24):
                tar.add(coco / "val2017" / f"{j % 6}.png", f"{i}-{j}.png")
    out = tmp_path / "out"
    flags = ("--mode=predict", f"--checkpoint={tmp_path}/x.pth", f"--images={tmp_path}/shards")
    flags = (*flags, f"--out={out}", "--shards=jsonl", "--top=50")
    hosts = start_hosts(coco, tmp_path / "run", *flags)
    deadline = time.monotonic() + 400
    while not [*out.glob("*.jsonl")] and time.monotonic() < deadline:
        time.sleep(0.01)
    for host in hosts:
        host.kill()
    killed = [host.communicate()[1] for host in hosts]
    before = {path: path.read_bytes() for path in out.glob("*.jsonl")}
    assert 0 < len(before) < 8, killed

    hosts = start_hosts(coco, tmp_path / "run", *flags)
    results = [host.communicate(timeout=400) for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], results
    assert f"proposals of {24 * (8 - len(before))} images" in results[0][0]
    assert "wrote" not in results[1][0]
    assert all(path.read_bytes() == content for path, content in before.items())
    paths = sorted(out.glob("*.jsonl"))
    records = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    found = {Path(record.pop("image")).stem: record for record in records}
    assert len(records) == len(found) == 8 * 24
    for i, j in itertools.product(range(8), range(24)):
        assert found[f"{i}-{j}"] == found[f"0-{j % 6}"]
    assert found["0-0"] != found["0-1"]


def test_one_host_is_told_to_stop(coco, tmp_path):
    """SIGTERM to the second: both save the same step and end; both go on from it."""
    rare = "--config.train.eval_every=100000"
    hosts = start_hosts(coco, tmp_path, "--config.train.num_steps=100000", rare)
    log = tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + 400
    while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.2)
    hosts[1].send_signal(signal.SIGTERM)
    errors = [host.communicate(timeout=120)[1] for host in hosts]
    assert [host.returncode for host in hosts] == [143, 143], errors
    step = max(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())
    assert all(f"saved step {step}" in text for text in errors)

    hosts = start_hosts(coco, tmp_path, f"--config.train.num_steps={step + 2}")
    results = [host.communicate(timeout=400) for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], results
    assert f"going on from step {step}" in results[0][0]
