"""Nothing piles up: memory and open files over many steps and predictions, at a small size.

`benchmarks/soak.py` does the same for an hour's worth of steps, and holds the figures.
"""

import sys

import pytest
from tiny_coco import write_coco

from benchmarks import soak

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


def test_steps_and_predictions_leave_memory_and_files_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")  # one device, as users have
    workdir = tmp_path / "run"
    coco = write_coco(tmp_path / "coco")
    flags = (
        "--config.data.name=coco",
        f"--config.data.root={coco}",
        "--config.train.eval_every=100",  # 200 steps, the first within the warm-up
    )
    steps = soak.summary(soak.train(1000, workdir, *flags))
    predictions = soak.summary(soak.predict(500, workdir))
    print(f"\n{soak.shown('steps', steps)}\n{soak.shown('predictions', predictions)}")
    for row in (steps, predictions):
        first, second = row["handles"]
        assert first == second
    # A batch of four images that is kept would be 110 MB for 1000 steps; the pools that
    # evaluations fill still grow, by 22 MB.  The input of a prediction that is kept would be
    # 28 MB for 1000, and its result 20 MB.
    assert steps["mb_per_1000"] < 50
    assert predictions["mb_per_1000"] < 10
