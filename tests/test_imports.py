"""Rooms import only from rooms above them."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]

# From the top down; a module may import those of its own line and of the lines above.
ROOMS = [
    ["errors", "files", "progress", "cache", "types", "limits", "config"],
    ["boxes", "anchors", "nms", "matching"],
    ["data"],
    ["models"],
    ["targets", "losses", "proposals", "coverage"],
    ["hosts", "devices", "environment", "optim", "train_step"],
    ["published", "download", "converters", "checkpoint", "saving"],
    ["proposer", "metrics", "evaluate", "visualize", "logbook", "predictor", "single", "exported"],
    ["workdir"],
    ["html"],
    ["report", "loop", "train", "command", "modes", "measure", "table", "export"],
    ["zoo", "check", "main"],
]
LEVEL = {name: level for level, names in enumerate(ROOMS) for name in names}


def room_of(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] == "converters":
        return "converters"
    return parts[1] if parts[0] == "jaxdet" and len(parts) > 1 else None


def imports(path: Path) -> set[str]:
    """Modules that a file names in import statements, wherever they stand."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_every_module_has_a_room():
    modules = {p.stem for p in (ROOT / "jaxdet").iterdir() if p.suffix == ".py" or p.is_dir()}
    modules -= {"__init__", "__pycache__"}
    assert modules == set(LEVEL) - {"converters"}


def test_no_room_imports_downward():
    wrong = []
    for path in (ROOT / "jaxdet").rglob("*.py"):
        relative = path.relative_to(ROOT).with_suffix("")
        own = room_of(".".join(relative.parts))
        if own in (None, "__init__"):
            continue
        for name in imports(path):
            other = room_of(name)
            if other in LEVEL and LEVEL[other] > LEVEL[own]:
                wrong.append(f"{relative} imports {name}")
    assert not wrong


def test_converters_need_no_network_code_and_no_model():
    for path in (ROOT / "converters").glob("*.py"):
        if path.stem == "mmdet":  # the command
            continue
        rooms = {room_of(name) for name in imports(path)} - {None, "converters"}
        assert rooms <= {"errors"}, path
