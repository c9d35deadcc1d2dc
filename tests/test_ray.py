"""The recipe of docs/at_scale.md, run as it is written, on one machine."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_coco import TINY_MODEL, write_coco
from zoo_cases import fresh_params

import jaxdet
from jaxdet import config as config_lib
from jaxdet.inference.export import write_exported

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_an_exported_model_over_a_ray_data_set(tmp_path):
    pytest.importorskip("ray.data")
    parquet = pytest.importorskip("pyarrow.parquet")
    config = config_lib.load_file("rpn_r18_fpn_shapes")
    config.model.update(TINY_MODEL)
    config.data.image_scale = (64, 64)
    parsed = config_lib.parse(config)
    write_exported(parsed, fresh_params(parsed.model), tmp_path / "model.zip")
    images = write_coco(tmp_path / "coco") / "val2017"
    (recipe,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "at_scale.md").read_text(), re.S
    )
    (tmp_path / "recipe.py").write_text(recipe)
    result = subprocess.run(
        [sys.executable, "recipe.py", tmp_path / "model.zip", images, tmp_path / "out"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    rows = {Path(row["path"]).name: row for row in parquet.read_table(tmp_path / "out").to_pylist()}
    assert sorted(rows) == [f"{i}.png" for i in range(6)]
    model = jaxdet.load_exported(tmp_path / "model.zip")
    for name, row in rows.items():
        found = model(images / name)
        np.testing.assert_allclose(row["scores"], found.scores[:100], atol=1e-6)
        # Of equal scores, rounding may turn the order: the best are compared.
        np.testing.assert_allclose(row["boxes"][:5], found.boxes[:5], atol=1e-3)
