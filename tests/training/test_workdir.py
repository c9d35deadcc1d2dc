"""Work directories: whose they are, and those of earlier versions."""

import dataclasses
import json

import pytest

from jaxdet.config import Config
from jaxdet.errors import InputError
from jaxdet.training.workdir import claim_workdir


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    """Its `test` is now `proposals`, and fields that it lacks had their defaults."""
    earlier = dataclasses.asdict(Config())
    earlier["test"] = earlier.pop("proposals")
    for name in ("detector", "convention"):
        del earlier["model"][name]
    (tmp_path / "config.json").write_text(json.dumps(earlier))
    with claim_workdir(tmp_path, Config()):
        pass
    assert "proposals" in json.loads((tmp_path / "config.json").read_text())


def test_a_run_of_an_earlier_version_with_other_settings_is_refused(tmp_path):
    earlier = dataclasses.asdict(Config())
    earlier["test"] = {**earlier.pop("proposals"), "nms_pre": 7}
    (tmp_path / "config.json").write_text(json.dumps(earlier))
    said = r"proposals\.nms_pre 7 there, 2000 now"
    with pytest.raises(InputError, match=said), claim_workdir(tmp_path, Config()):
        pass
