"""What the modes refuse before they do anything."""

import jax
import pytest

from jaxdet.config import Config
from jaxdet.errors import InputError
from jaxdet.inference.export import run_export


def test_several_hosts_would_write_the_same_file(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(InputError, match=r"^--mode=export: runs on one host; start it there"):
        run_export(Config(), "absent.pth", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
