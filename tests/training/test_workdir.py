"""Work directories: whose they are, one run at a time, and those of earlier versions."""

import dataclasses
import json
import os

import pytest

from jaxdet.config import Config
from jaxdet.errors import InputError
from jaxdet.training.workdir import claim_workdir


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
    with pytest.raises(InputError, match=r"proposals\.nms_pre 7 there, 2000 now"):
        claim(tmp_path)


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
    with pytest.raises(InputError, match=r"\.lock: cannot be locked: .*; choose another --workdir"):
        claim(workdir)
    assert (tmp_path / "other").read_text() == "text"


@pytest.mark.parametrize("text", ["", "{", "[]", '"test"', "9" * 5000, "[" * 100_000, "\xff"])
def test_what_is_no_config_is_one_line_and_stays(tmp_path, text):
    (tmp_path / "config.json").write_text(text, "latin-1")
    with pytest.raises(InputError, match=r"config\.json: not a config: ") as caught:
        claim(tmp_path)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "config.json").read_text("latin-1") == text
