"""Checkpoints of a run: whole or put aside, and the best one."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdet.checkpoint import Checkpoints, read_params, save_best
from jaxdet.errors import InputError


def params_at(step: int) -> dict:
    return {
        "backbone": {"conv1": {"kernel": jnp.full((2, 3), step, jnp.float32)}},
        "rpn_head": {"rpn_cls": {"bias": jnp.arange(4.0) + step}},
    }


def slots_at(step: int) -> optax.OptState:
    return optax.sgd(0.1, 0.9).init(params_at(step)["rpn_head"])


def save(workdir, *steps: int) -> None:
    with Checkpoints(workdir, keep=5) as checkpoints:
        for step in steps:
            checkpoints.save(step, params_at(step), slots_at(step), {"name": "x"})


def newest(workdir):
    with Checkpoints(workdir, keep=5) as checkpoints:
        return checkpoints.restore_newest(params_at(0), slots_at(0))


def spoil(workdir, step: int) -> None:
    """Writes another checksum, as if the bytes had changed."""
    path = workdir / "checkpoints" / str(step) / "meta" / "metadata"
    meta = json.loads(path.read_text())
    meta["checksums"]["optimizer"] ^= 1
    path.write_text(json.dumps(meta))


def test_restores_the_newest(tmp_path):
    assert newest(tmp_path) is None
    save(tmp_path, 1, 2)
    found = newest(tmp_path)
    assert found.meta["name"] == "x"
    assert found.step == 2
    expected = params_at(2), slots_at(2)
    jax.tree.map(np.testing.assert_array_equal, (found.params, found.opt_state), expected)


def test_damaged_ones_are_put_aside_and_not_overwritten(tmp_path, capsys):
    save(tmp_path, 1, 2, 3)
    spoil(tmp_path, 3)
    spoil(tmp_path, 2)
    assert newest(tmp_path).step == 1
    assert capsys.readouterr().out.count("damaged: optimizer is not what was written") == 2
    save(tmp_path, 2)
    spoil(tmp_path, 2)
    assert newest(tmp_path).step == 1
    assert {p.name for p in (tmp_path / "damaged").iterdir()} == {"3", "2", "2.1"}


def test_a_part_that_is_missing_is_damage(tmp_path, capsys):
    save(tmp_path, 1, 2)
    shutil.rmtree(tmp_path / "checkpoints" / "2" / "optimizer")
    assert newest(tmp_path).step == 1
    assert "checkpoints/2: damaged: optimizer is not what was written" in capsys.readouterr().out


def test_all_damaged_is_an_error_that_loses_nothing(tmp_path):
    save(tmp_path, 1)
    spoil(tmp_path, 1)
    with pytest.raises(InputError, match="no checkpoint is whole"):
        newest(tmp_path)
    assert (tmp_path / "damaged" / "1" / "params").is_dir()


def test_another_architecture_is_not_taken_for_damage(tmp_path):
    save(tmp_path, 1)
    other = jax.tree.map(lambda x: jnp.zeros((5, *x.shape)), params_at(0))
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(InputError, match="architecture"):
        checkpoints.restore_newest(other, slots_at(0))
    assert (tmp_path / "checkpoints" / "1").is_dir()


def test_best_is_the_highest_recall_and_the_first_of_equals(tmp_path):
    for step, recall in ((1, 0.3), (2, 0.5), (3, 0.4), (4, 0.5)):
        save_best(tmp_path, step, params_at(step), recall)
        assert len([p for p in (tmp_path / "best").iterdir() if p.name.isdigit()]) == 1
    found = read_params(tmp_path / "best", params_at(0))
    jax.tree.map(np.testing.assert_array_equal, found, params_at(2))


def test_best_of_steps_that_were_undone_gives_way(tmp_path):
    """A run that went back behind its best step finds a better one on its new way."""
    save_best(tmp_path, 9, params_at(9), 0.3)
    save_best(tmp_path, 5, params_at(5), 0.4)
    found = read_params(tmp_path / "best", params_at(0))
    jax.tree.map(np.testing.assert_array_equal, found, params_at(5))


def test_a_damaged_best_gives_way(tmp_path):
    save_best(tmp_path, 1, params_at(1), 0.9)
    (tmp_path / "best" / "1" / "meta" / "metadata").write_text("{")
    save_best(tmp_path, 2, params_at(2), 0.1)
    found = read_params(tmp_path / "best", params_at(0))
    jax.tree.map(np.testing.assert_array_equal, found, params_at(2))
