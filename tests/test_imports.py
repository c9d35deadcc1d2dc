"""Modules import only from their own row of the README's map, or from rows above."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(p for p in (ROOT / "jaxdet").rglob("*.py") if "configs" not in p.parts)


def rows() -> dict[str, int]:
    """The names in the README's map and the number of the row that each stands in."""
    text = (ROOT / "README.md").read_text().partition("## The map")[2].partition("\n## ")[0]
    lines = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {name: i for i, line in enumerate(lines) for name in re.findall(r"`([\w/]+)`", line)}


ROWS = rows()


def row_of(module: str) -> int | None:
    """The row of `jaxdet.ops.nms`: that of `ops/nms`, or of its room `ops/`."""
    parts = module.split(".")[1:]
    for name in ("/".join(parts[:2]), f"{parts[0]}/" if parts else "", parts[0] if parts else ""):
        if name in ROWS:
            return ROWS[name]
    return None


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Modules that a file names in import statements, wherever they stand."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.startswith("jaxdet.")}


def test_the_map_names_every_module_and_nothing_else():
    lost = [name_of(p) for p in MODULES if row_of(name_of(p)) is None]
    assert lost == ["jaxdet", "jaxdet.zoo"]  # both import nothing of jaxdet's at once
    for name in ROWS:
        path = ROOT / "jaxdet" / name
        assert path.is_dir() if name.endswith("/") else path.with_suffix(".py").is_file(), name


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_imports_downward(path):
    own = row_of(name_of(path))
    if own is None:
        return
    below = [name for name in imports(path) if (row_of(name) or 0) > own]
    assert not below


def test_weights_know_arrays_and_errors_only():
    for path in (ROOT / "jaxdet" / "weights").glob("*.py"):
        rooms = {name.split(".")[1] for name in imports(path)} - {"weights"}
        assert rooms <= {"errors", "files"}, path


def test_only_detectors_name_a_detector():
    """Everything generic is given a `types.Detector`; which one, `detectors/build.py` decides."""
    for path in MODULES:
        if path.parent.name != "detectors":
            named = [n for n in imports(path) if n.startswith("jaxdet.detectors.")]
            assert all(n.startswith("jaxdet.detectors.build.") for n in named), path
