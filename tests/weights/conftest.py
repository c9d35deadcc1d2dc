"""Weights to convert: seeded ones with the zoo's names, and a small sample of everything."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest


def sample_arrays():
    """What tests/weights/data/sample_*.pth hold under 'state_dict', in order."""
    base = np.arange(24, dtype=np.float32).reshape(4, 6) / 8 - 1
    return OrderedDict(
        whole=base,
        transposed=base.T,
        rows=base[1:3],
        column=base[:, 2],
        scalar=np.array(7, np.int64),
        half=np.array([0.5, -2.0, 65504.0], np.float16),
        double=np.array([[1e-300, np.pi]], np.float64),
        flags=np.array([True, False, True]),
        bytes=np.array([0, 255], np.uint8),
        shorts=np.array([-32768, 32767], np.int16),
        empty=np.zeros((0, 3), np.float32),
        parameter=np.array([1.0, 2.0], np.float32),
        brain=np.array([1.0, -3.140625, 2.0**100], np.float32),  # bfloat16 in the file
    )


def sample_checkpoint(torch):
    """The same as PyTorch objects, with the meta and optimizer entries of a zoo file."""
    arrays = sample_arrays()
    state = OrderedDict()
    whole = torch.from_numpy(arrays["whole"].copy())
    state["whole"] = whole
    state["transposed"] = whole.t()
    state["rows"] = whole[1:3]
    state["column"] = whole[:, 2]
    for name in ("scalar", "half", "double", "flags", "bytes", "shorts", "empty"):
        state[name] = torch.from_numpy(arrays[name].copy())
    state["parameter"] = torch.nn.Parameter(torch.from_numpy(arrays["parameter"].copy()))
    state["brain"] = torch.from_numpy(arrays["brain"].copy()).to(torch.bfloat16)
    state._metadata = OrderedDict([("", {"version": 1})])
    meta = {
        "epoch": 12,
        "iter": 2**40,
        "time": "Wed Oct 10 2018",
        "score": np.float64(0.571),
        "history": np.arange(6, dtype=">i4").reshape(2, 3),
        "classes": ("person", "caf\u00e9"),
        "none": None,
    }
    optimizer = {
        "state": {140251: {"momentum_buffer": torch.ones(2)}},
        "param_groups": [{"lr": 0.02, "nesterov": False, "params": [140251]}],
    }
    return {"meta": meta, "state_dict": state, "optimizer": optimizer}


@pytest.fixture
def sample():
    """The arrays of `sample_arrays`."""
    return sample_arrays()


@pytest.fixture
def torch_checkpoint():
    """`sample_checkpoint`; skips where PyTorch is missing."""
    return sample_checkpoint(pytest.importorskip("torch"))


if __name__ == "__main__":  # writes the committed files anew
    import torch

    for name, zipped in (("zip", True), ("legacy", False)):
        path = Path(__file__).parent / "data" / f"sample_{name}.pth"
        torch.save(sample_checkpoint(torch), path, _use_new_zipfile_serialization=zipped)
