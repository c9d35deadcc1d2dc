"""Work directories: whose they are, one run at a time, and those of earlier versions."""

import dataclasses
import json
import os

import pytest

from jaxdet.config import Config, load_file, parse, to_config_dict
from jaxdet.errors import InputError
from jaxdet.training.workdir import OWN, claim_workdir


def claim(workdir):
    with claim_workdir(workdir, Config()):
        pass


def earlier_config(**proposals):
    """What a version wrote that had no detectors, and `test` for `proposals`."""
    earlier = dataclasses.asdict(Config())
    earlier["test"] = {**earlier.pop("proposals"), **proposals}
    for name in ("detector", "convention"):
        del earlier["model"][name]
    return json.dumps(earlier)


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    """Its `test` is now `proposals`, and fields that it lacks had their defaults."""
    (tmp_path / "config.json").write_text(earlier_config())
    claim(tmp_path)
    assert "proposals" in json.loads((tmp_path / "config.json").read_text())


def test_a_run_of_an_earlier_version_with_other_settings_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(earlier_config(nms_pre=7))
    with (
        pytest.raises(InputError, match=r"proposals\.nms_pre 7 there, 2000 now"),
        claim_workdir(tmp_path, Config(), evaluated="x.pth"),
    ):
        pass


def test_a_name_that_the_locale_does_not_know_is_refused_at_the_start(tmp_path):
    """Python has bytes that are no text as lone surrogates, which C++ does not take."""
    workdir = tmp_path / os.fsdecode(b"gr\xc3\xb6\xdfe")
    with pytest.raises(InputError, match="LC_ALL"):
        claim(workdir)
    assert not workdir.exists()


def changed(**changes):
    """The default config with other values of fields, by names such as `data.flip`."""
    config = to_config_dict(Config())
    config.update_from_flattened_dict(changes)
    return parse(config)


def test_what_may_change_while_training_is_a_line(tmp_path, capsys):
    claim(tmp_path)
    new = {"optimizer.learning_rate": 0.5, "data.flip": 0.0, "proposals.max_num": 7}
    for _ in range(2):
        with claim_workdir(tmp_path, changed(**new, **{"train.fresh_heads": True})):
            pass
    assert capsys.readouterr().out == (
        f"{tmp_path}/config.json: other settings from here on: data.flip 0.5 there, 0.0 now, "
        "optimizer.learning_rate 0.02 there, 0.5 now, proposals.max_num 2000 there, 7 now\n"
    )
    with claim_workdir(tmp_path, changed(**{"proposals.max_num": 7}), evaluated=OWN):
        pass  # its results do not depend on the others


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model.frozen_stages", 0),
        ("model.anchor_ratios", (1.0,)),
        ("optimizer.name", "adamw"),
        ("train.seed", 1),
        ("data.keep_empty", True),
        ("data.images_per_device", 1),
    ],
)
def test_what_would_be_another_run_is_refused(tmp_path, name, value):
    claim(tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    said = rf"of another config \(1 fields differ: {name} .* now\); choose another --workdir"
    with pytest.raises(InputError, match=said), claim_workdir(tmp_path, changed(**{name: value})):
        pass
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_runs_own_config_does_not_lose_its_augmentation(tmp_path):
    """It names code, which is run only when somebody asks for it."""
    config = changed(**{"data.augment": "own.py:augment"})
    for _ in range(2):
        with claim_workdir(tmp_path, config):
            pass
    again = parse(load_file(tmp_path / "config.json"))
    with claim_workdir(tmp_path, again, evaluated=OWN):
        pass
    said = r"; add --config\.data\.augment=own\.py:augment$"
    with pytest.raises(InputError, match=said), claim_workdir(tmp_path, again):
        pass


def test_one_run_at_a_time(tmp_path):
    with claim_workdir(tmp_path / "run", Config()):
        said = rf"run: in use by another run \(process {os.getpid()} on .*\); wait for its end"
        with pytest.raises(InputError, match=said):
            claim(tmp_path / "run")
    claim(tmp_path / "run")


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "other").write_text("text")
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / ".lock").symlink_to(tmp_path / "other")
    with pytest.raises(InputError, match=r"\.lock: "):
        claim(workdir)
    assert (tmp_path / "other").read_text() == "text"


@pytest.mark.parametrize("name", ["eval.json", "environment.json"])
@pytest.mark.parametrize("text", ["{", "[]", '{"step": 1e400}', "[" * 100_000, "\xff"])
def test_what_the_report_cannot_read_is_found_before_the_work(tmp_path, name, text):
    (tmp_path / name).write_text(text, "latin-1")
    with pytest.raises(InputError, match=rf"{name}: not what a run writes .*; delete it"):
        claim(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '"test"', "9" * 5000, "[" * 100_000, "\xff"])
def test_what_is_no_config_is_one_line_and_stays(tmp_path, text):
    (tmp_path / "config.json").write_text(text, "latin-1")
    with pytest.raises(InputError, match=r"config\.json: not a config: ") as caught:
        claim(tmp_path)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "config.json").read_text("latin-1") == text
