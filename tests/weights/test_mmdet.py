"""The command: a .pth in, a work directory, and a .pth out again."""

import dataclasses
import functools
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdet import config as config_lib
from jaxdet import convert
from jaxdet.checkpoint import Checkpoints, read_params
from jaxdet.config import Config, ModelConfig
from jaxdet.detectors.build import build_detector, param_shapes
from jaxdet.errors import InputError
from jaxdet.models.params import split_params
from jaxdet.training import optimizer as optim
from jaxdet.weights import layout, torch_file

ROOT = Path(__file__).parents[2]
CONFIG = dataclasses.replace(
    Config(),
    name="tiny",
    model=ModelConfig(
        depth=18, num_stages=2, stem_channels=8, fpn_channels=8, head_channels=8, train_norm=True
    ),
)
DETECTOR = build_detector(CONFIG)
CONFIG_FILE = """
from jaxdet.config import Config, to_config_dict

def get_config():
    config = to_config_dict(Config())
    config.name = "tiny"
    config.model.update(depth=18, num_stages=2, stem_channels=8, fpn_channels=8, head_channels=8)
    return config
"""


@functools.cache
def shapes():
    return param_shapes(DETECTOR)


def seeded(seed=0):
    """A parameter tree of random numbers, positive because variances are among them."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.uniform(size=x.shape).astype(np.float32), shapes())


def checkpoint(frozen=True, **meta):
    """A reference checkpoint with momentum; `frozen`: the optimizer knows all parameters."""
    params = seeded()
    state = layout.to_state_dict(params)
    trainable, _ = split_params(params, DETECTOR.trainable)
    momentum = layout.to_state_dict(jax.tree.map(lambda x: 2 * x, trainable))
    names = [n for n in state if n.endswith((".weight", ".bias"))]
    names = names if frozen else [n for n in names if n in momentum]
    # Numbers as PyTorch before 1.5 gave them: addresses.
    numbers = {name: 1000 + 17 * (i * 7 % 101) for i, name in enumerate(names)}
    slots = {numbers[n]: {"momentum_buffer": momentum[n]} for n in names if n in momentum}
    groups = [{"lr": 0.02, "params": list(numbers.values())}]
    return {
        "meta": {"epoch": 3, "iter": 21, **meta},
        "state_dict": OrderedDict((f"module.{k}", v) for k, v in state.items()),
        "optimizer": {"state": slots, "param_groups": groups},
    }


@pytest.fixture
def files(tmp_path):
    """A checkpoint and its config."""
    torch_file.write(tmp_path / "reference.pth", checkpoint())
    (tmp_path / "tiny.py").write_text(CONFIG_FILE)
    return tmp_path


def run(source, target, config, **options):
    """Converts within this process."""
    parsed = config_lib.parse(config_lib.load_file(config))
    convert.convert(str(source), str(target), parsed, **options)


def test_there_and_back_is_bit_identical(files):
    config = files / "tiny.py"
    run(files / "reference.pth", files / "run", config)
    jax.tree.map(np.testing.assert_array_equal, read_params(files / "run", shapes()), seeded())
    run(files / "run", files / "out.pth", config)
    back = torch_file.read(files / "out.pth")
    assert isinstance(back["meta"], dict)
    expected = layout.to_state_dict(seeded())
    assert list(back["state_dict"]) == list(expected)
    for name, array in expected.items():
        assert back["state_dict"][name].tobytes() == array.tobytes()
        assert back["state_dict"][name].dtype == array.dtype
    run(files / "out.pth", files / "again", config)
    jax.tree.map(np.testing.assert_array_equal, read_params(files / "again", shapes()), seeded())


def test_pytorch_loads_the_result_with_strict_keys(files):
    torch = pytest.importorskip("torch")
    run(files / "reference.pth", files / "run", files / "tiny.py")
    run(files / "run", files / "out.pth", files / "tiny.py")
    state = torch.load(files / "out.pth", weights_only=True)["state_dict"]
    stem = torch.nn.Module()
    stem.conv1 = torch.nn.Conv2d(3, 8, 7, bias=False)
    stem.bn1 = torch.nn.BatchNorm2d(8)
    prefix = "backbone."
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    own = {k: v for k, v in own.items() if k.startswith(("conv1.", "bn1."))}
    stem.load_state_dict(own, strict=True)
    kernel = seeded()["backbone"]["conv1"]["kernel"].transpose(3, 2, 0, 1)
    np.testing.assert_array_equal(stem.conv1.weight.detach().numpy(), kernel)


@pytest.mark.parametrize("frozen", [True, False])
def test_training_goes_on_with_the_momentum(tmp_path, frozen):
    torch_file.write(tmp_path / "a.pth", checkpoint(frozen))
    convert.convert(f"{tmp_path}/a.pth", f"{tmp_path}/run", CONFIG, with_optimizer=True)
    params = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes())
    trainable, _ = split_params(params, DETECTOR.trainable)
    optimizer = optim.make_optimizer(CONFIG.optimizer, optax.constant_schedule(0.1))
    with Checkpoints(tmp_path / "run") as checkpoints:
        state = checkpoints.restore_newest(params, optimizer.init(trainable))
    assert state.step == 21
    jax.tree.map(np.testing.assert_array_equal, state.params, seeded())
    expected, _ = split_params(seeded(), DETECTOR.trainable)
    momentum = optax.tree_utils.tree_get(state.opt_state, "trace")
    doubled = jax.tree.map(lambda x: 2 * x, expected)
    jax.tree.map(np.testing.assert_array_equal, momentum, doubled)
    assert optax.tree_utils.tree_get(state.opt_state, "count") == 21


def test_momentum_by_pytorch_itself(tmp_path):
    """PyTorch numbers the parameters and fills the buffers."""
    torch = pytest.importorskip("torch")
    trainable, _ = split_params(seeded(), DETECTOR.trainable)
    state = layout.to_state_dict(seeded())
    parameters = {}
    for name, array in state.items():
        if name.endswith((".weight", ".bias")):
            parameters[name] = torch.nn.Parameter(torch.from_numpy(array.copy()))
    sgd = torch.optim.SGD(parameters.values(), lr=0.1, momentum=0.9)
    trained = layout.to_state_dict(trainable)
    for i, (name, parameter) in enumerate(parameters.items()):
        if name in trained:  # frozen ones have no gradient, and no buffer
            parameter.grad = torch.full_like(parameter, i)
    sgd.step()
    tensors = {k: torch.from_numpy(v) for k, v in state.items()}
    saved = {"state_dict": tensors, "optimizer": sgd.state_dict()}
    torch.save(saved, tmp_path / "a.pth")
    momentum = convert.read_momentum(torch_file.read(tmp_path / "a.pth"), trainable)
    for path, leaf in layout.leaves(momentum):
        assert (leaf == list(parameters).index(layout.torch_name(path))).all()


HUGE: Any = ()  # takes for ever to hash
for _ in range(60):
    HUGE = (HUGE, HUGE)
HUGE = {"state": {1: {}}, "param_groups": [{"params": [HUGE]}]}


def test_optimizers_that_do_not_fit():
    trainable, _ = split_params(seeded(), DETECTOR.trainable)
    for optimizer in (None, {}, {"state": {}}, {"state": {1: {}}, "param_groups": [1]}, HUGE):
        with pytest.raises(InputError, match="no optimizer state"):
            convert.read_momentum({**checkpoint(), "optimizer": optimizer}, trainable)
    other = checkpoint()
    other["optimizer"]["param_groups"][0]["params"].pop()
    with pytest.raises(InputError, match="its optimizer has 43 tensors, the config trains 29"):
        convert.read_momentum(other, trainable)
    other = checkpoint()
    numbers = other["optimizer"]["param_groups"][0]["params"]
    numbers[-1], numbers[-2] = numbers[-2], numbers[-1]
    with pytest.raises(InputError, match=r"momentum: .* misshaped \(module\.rpn_head\.rpn_reg"):
        convert.read_momentum(other, trainable)
    other = checkpoint()
    other["optimizer"]["state"].popitem()
    with pytest.raises(InputError, match="1 missing"):
        convert.read_momentum(other, trainable)


def test_bad_input_is_one_line_and_nothing_is_written(files):
    good, new, config = files / "reference.pth", files / "new", files / "tiny.py"

    def fails(*args, **options):
        with pytest.raises(InputError) as caught:
            run(*args, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "No such file" in fails(files / "absent.pth", new, config)
    assert "no such config" in fails(good, new, "absent.py")
    assert "exactly one" in fails(good, files / "b.pth", config)
    assert "exactly one" in fails(new, files / "b", config)
    (files / "R-50.pkl").write_bytes(pickle.dumps({"conv1_w": np.zeros(1)}, 2))
    assert "pretrained" in fails(files / "R-50.pkl", new, config)
    assert "--with_optimizer" in fails(new, files / "b.pth", config, with_optimizer=True)
    (files / "adamw.py").write_text(
        CONFIG_FILE.replace("    return", '    config.optimizer.name = "adamw"\n    return')
    )
    assert "--with_optimizer" in fails(good, new, files / "adamw.py", with_optimizer=True)
    assert "no such checkpoint" in fails(new, files / "b.pth", config)
    (files / "cut.pth").write_bytes(good.read_bytes()[:5000])
    assert "damaged or truncated" in fails(files / "cut.pth", new, config)
    other = checkpoint()
    other["state_dict"].popitem(last=False)
    torch_file.write(files / "other.pth", other)
    assert "1 missing (module.backbone.conv1.weight)" in fails(files / "other.pth", new, config)
    for iteration in ("soon", 10**12, -1):
        torch_file.write(files / "when.pth", checkpoint(iter=iteration))
        assert "meta.iter" in fails(files / "when.pth", new, config, with_optimizer=True)
    assert not new.exists()
    assert "cannot be made" in fails(good, good / "new", config)
    run(good, new, config)
    assert "already holds checkpoints" in fails(good, new, config)
    assert "cannot be written" in fails(new, files / "absent" / "b.pth", config)


def test_the_command_as_a_user_calls_it(files):
    args = [sys.executable, "-m", "converters.mmdet", f"--config={files}/tiny.py"]
    good = [str(files / "reference.pth"), str(files / "run")]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        args + good, capture_output=True, text=True, cwd=ROOT, env=environment, check=True
    )
    assert done.stdout == f"wrote {files}/run\n"
    bad = subprocess.run(
        args + good, capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    assert bad.returncode == 2
    assert bad.stdout == ""
    assert bad.stderr.startswith("jaxdet: ")
    assert bad.stderr.count("\n") == 1
    bare = subprocess.run(
        args, capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    assert (bare.returncode, bare.stderr.count("\n")) == (2, 1)
    assert "give a source, a target and --config" in bare.stderr
