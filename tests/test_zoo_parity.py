"""Published checkpoints on COCO give the published AR1000 or AP, if one is: `pytest -m zoo`.

COCO_ROOT=/data/coco CHECKPOINT_ROOT=/data/zoo JAX_PLATFORMS=cuda python -m pytest -m zoo

`COCO_ROOT` holds annotations/instances_val2017.json and val2017/, `CHECKPOINT_ROOT` the zoo's
files under their published names.  What is absent is skipped, with a line that says where it can
be downloaded.
"""

import dataclasses
import os
from pathlib import Path

import pytest
from zoo_cases import CONFIGS

from jaxdet import config as config_lib
from jaxdet.config import Config
from jaxdet.zoo.measure import measure
from jaxdet.zoo.published import PUBLISHED, Row


def folder_of(variable: str, content: str) -> Path:
    """The folder that an environment variable names; without one the test is skipped."""
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"needs {variable}: the folder with {content}")
    return Path(folder)


def job_of(row: Row) -> tuple[Config, str]:
    """What `python -m jaxdet.zoo --measure` measures for a row: config and checkpoint."""
    coco = folder_of("COCO_ROOT", "annotations/instances_val2017.json and val2017/")
    zoo = folder_of("CHECKPOINT_ROOT", "the published files")
    if not (zoo / str(row.file)).is_file():
        pytest.skip(f"needs {zoo / str(row.file)}: download {row.urls[0]}")
    if row.detector.startswith("Fast R-CNN"):
        pytest.skip("needs proposals of its own: measure it by hand")
    config = config_lib.parse(config_lib.load_file(CONFIGS / f"{row.config}.py"))
    data = dataclasses.replace(config.data, root=str(coco))
    return dataclasses.replace(config, data=data), str(zoo / str(row.file))


@pytest.mark.zoo
@pytest.mark.parametrize("row", [row for row in PUBLISHED if row.file], ids=lambda r: r.zoo_name)
def test_published_figures(row):
    result = measure(*job_of(row), steps=0)
    figures = {name: result[name] for name in ("AR1000", "AR1000_fast", "box_AP", "mask_AP")}
    assert not row.difference(result), f"published {row.figures}, measured {figures}"
    if row.config.startswith(("detectron2_rpn", "torchvision_rpn")) and row.ar1000 is None:
        # of a detector's RPN: that its file is read and finds what others do
        assert result["AR1000_fast"] > 50, figures
