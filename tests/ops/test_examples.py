"""The examples in the docstrings of ops give what they show, and every public function has one."""

import doctest
import importlib
import inspect

import pytest

ROOM = ("anchors", "boxes", "losses", "masks", "matching", "nms", "sampling")


@pytest.mark.parametrize("name", ROOM)
def test_examples(name):
    module = importlib.import_module(f"jaxdet.ops.{name}")
    assert doctest.testmod(module).failed == 0
    for key, value in vars(module).items():
        own = inspect.isfunction(value) and value.__module__ == module.__name__
        if own and not key.startswith("_"):
            assert ">>>" in (value.__doc__ or ""), key
