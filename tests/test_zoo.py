"""The zoo's table."""

import subprocess
import sys
from pathlib import Path

from jaxdet.published import ROWS
from jaxdet.zoo import markdown_table

DATA = Path(__file__).parent / "data"


def test_the_table_is_the_published_document():
    """Byte for byte as far as the document goes; it breaks off within a row."""
    published = (DATA / "model_zoo_table.md").read_text()
    assert markdown_table().startswith(published)


def test_fourteen_rows_of_equal_width():
    lines = markdown_table().splitlines()
    assert len(lines) == 2 + 14
    assert len({len(line) for line in lines}) == 1
    assert len({row.config for row in ROWS}) == 14
    x101 = (
        "| X-101-64x4d-FPN | pytorch |   1x    |   9.5    |        0.955        |      8.3       |"
    )
    assert lines[-2].startswith(x101)


def test_every_row_has_its_config():
    configs = {path.stem for path in (Path(__file__).parents[1] / "configs").glob("rpn_*.py")}
    assert {row.config for row in ROWS} == configs - {"rpn_r18_fpn_shapes"}


def test_the_command_prints_it():
    command = [sys.executable, "-m", "jaxdet.zoo"]
    root = Path(__file__).parents[1]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert output.stdout == markdown_table() + "\n"
