"""What `--help` says of every field, read from the file that defines them."""

import ast
import textwrap
from collections.abc import Iterator
from pathlib import Path

from jaxdet.config import fields

_INDENT = " " * 4


def meanings() -> Iterator[tuple[str, str, str]]:
    """Yields each field's name (`data.root`), its default and choices, and its meaning.

    The meaning is the comment above the field or behind it.
    """
    text = Path(fields.__file__).read_text("utf-8")
    lines = text.splitlines()
    groups = {c.name: c for c in ast.parse(text).body if isinstance(c, ast.ClassDef)}

    def of_group(group: str, prefix: str = "") -> Iterator[tuple[str, str, str]]:
        for node in groups[group].body:
            if not isinstance(node, ast.AnnAssign) or node.value is None:
                continue
            name, kind = f"{prefix}{ast.unparse(node.target)}", ast.unparse(node.annotation)
            if kind in groups:
                yield from of_group(kind, f"{name}.")
                continue
            first = node.lineno - 1
            while lines[first - 1].lstrip().startswith("#"):
                first -= 1
            last = lines[(node.end_lineno or 0) - 1][node.end_col_offset :]
            said = [line.strip().lstrip("# ") for line in (*lines[first : node.lineno - 1], last)]
            choices = kind[len("Literal[") : -1] if kind.startswith("Literal[") else ""
            default = ast.unparse(node.value) + (f" of {choices}" if choices else "")
            yield name, default, " ".join(said).strip()

    return of_group(fields.Config.__name__)


def help_text() -> str:
    """Returns a list of all fields for a terminal."""
    entries = ["Fields of a config, with the default of each; a config changes some of them:"]
    for name, default, meaning in meanings():
        wrapped = textwrap.fill(meaning, 80, initial_indent=_INDENT, subsequent_indent=_INDENT)
        entries.append(f"  --config.{name}={default}\n{wrapped}")
    return "\n".join(entries)
