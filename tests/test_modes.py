"""What the modes refuse before they do anything."""

from functools import partial

import jax
import pytest

from jaxdet.cli import run_predict
from jaxdet.config import Config
from jaxdet.errors import InputError
from jaxdet.inference.export import run_export


@pytest.mark.parametrize(
    ("mode", "run"),
    [
        ("predict", partial(run_predict, Config(), "absent.pth", ["absent.jpg"], draw=False)),
        ("export", partial(run_export, Config(), "absent.pth")),
    ],
)
def test_several_hosts_would_write_the_same_files(tmp_path, monkeypatch, mode, run):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(InputError, match=f"^--mode={mode}: runs on one host; start it there"):
        run(out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
