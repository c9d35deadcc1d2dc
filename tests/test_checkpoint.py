"""Checkpoints of a run: whole or put aside, and the best one."""

import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdet.checkpoint import Checkpoints, read_params, save_best, write_first
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


@pytest.mark.parametrize("name", ["\u00b2", "\u0663", "12345678901", "007", "x_7"])
def test_a_folder_that_no_step_is_called_is_named(tmp_path, name):
    (tmp_path / "checkpoints" / name / "params").mkdir(parents=True)
    with pytest.raises(InputError, match="no step of a run; move it out") as caught:
        Checkpoints(tmp_path)
    assert name in str(caught.value)
    with pytest.raises(InputError, match="no such checkpoint"):
        read_params(tmp_path, {})


def test_a_damaged_best_gives_way(tmp_path):
    save_best(tmp_path, 1, params_at(1), 0.9)
    (tmp_path / "best" / "1" / "meta" / "metadata").write_text("{")
    save_best(tmp_path, 2, params_at(2), 0.1)
    found = read_params(tmp_path / "best", params_at(0))
    jax.tree.map(np.testing.assert_array_equal, found, params_at(2))


def test_a_killed_process_leaves_one_best(tmp_path):
    save_best(tmp_path, 1, params_at(1), 0.5)
    shutil.copytree(tmp_path / "best" / "1", tmp_path / "best" / "2")  # killed before 1 went
    save_best(tmp_path, 3, params_at(3), 0.1)
    assert [p.name for p in (tmp_path / "best").iterdir()] == ["2"]


def test_a_checkpoint_that_is_a_link_takes_its_turn(tmp_path):
    """It is deleted like others, and what it names is not."""
    save(tmp_path / "other", 1)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "1").symlink_to(tmp_path / "other" / "checkpoints" / "1")
    with Checkpoints(tmp_path / "run", keep=1) as checkpoints:
        assert checkpoints.restore_newest(params_at(0), slots_at(0)).step == 1
        checkpoints.save(2, params_at(2), slots_at(2), {})
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["2"]
    assert newest(tmp_path / "other").step == 1


def test_a_folder_that_the_locale_does_not_know_is_refused_and_not_made(tmp_path):
    folder = tmp_path / os.fsdecode(b"gr\xc3\xb6\xdfe")
    with pytest.raises(InputError, match="LC_ALL"):
        write_first(folder, 3, params_at(3), None, {})
    assert not folder.exists()


def test_the_first_of_a_work_directory_is_whole_or_absent(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("orbax.checkpoint.CheckpointManager.save", full)
        with pytest.raises(InputError, match="run/checkpoints: cannot be written: No space"):
            write_first(tmp_path / "run", 3, params_at(3), None, {})
    assert list(tmp_path.iterdir()) == []
    write_first(tmp_path / "run", 3, params_at(3), None, {})
    found = read_params(tmp_path / "run", params_at(0))
    jax.tree.map(np.testing.assert_array_equal, found, params_at(3))
