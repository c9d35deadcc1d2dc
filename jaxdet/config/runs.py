"""The config that a run left in its folder: found, and compared with another."""

import dataclasses
import logging
import re
from pathlib import Path
from typing import Any

from jaxdet.config.fields import Config
from jaxdet.config.parse import flat, load_run

_LOG = logging.getLogger(__name__)

FILE = "config.json"
# What predictions of given parameters depend on.
_RESULTS = re.compile(
    r"model\.(?!frozen|train_norm|init|pretrained)|proposals\.(?!batch_size)|detections\.|"
    r"data\.(image_scale|resize|box_scale|pad_multiple)|train\.\w*precision|"
    r"rois\.(aligned|points|min_side|level_rule|max_given)"
)


def changes_results(field: str) -> bool:
    """Returns whether predictions of given parameters depend on a field (`data.root`)."""
    return bool(_RESULTS.match(field))


def find_run(folder: str | Path) -> Path | None:
    """Returns the `config.json` of the run that a folder is, or is a checkpoint of."""
    path = Path(folder).absolute()
    for inner in (path, path.parent, path.parent.parent):
        if (inner / FILE).is_file():
            return inner / FILE
        if inner.name not in ("checkpoints", "best") and not inner.name.isdecimal():
            break
    return None


def results_fields(config: Config) -> dict[str, Any]:
    """Returns the fields, by names like `data.resize`, that predictions of parameters depend on."""
    fields = flat(dataclasses.asdict(config))
    return {name: value for name, value in fields.items() if _RESULTS.match(name)}


def differing(run: Config, config: Config) -> dict[str, tuple[Any, Any]]:
    """Returns the fields, by names like `data.root`, that differ, with both values."""
    there, here = (flat(dataclasses.asdict(c)) for c in (run, config))
    return {name: (there[name], here[name]) for name in here if there[name] != here[name]}


def warn_of_other_results(checkpoint: str | Path, config: Config) -> None:
    """Says which fields give the parameters of a run other results than it had, if any do."""
    run = find_run(checkpoint)
    fields = differing(load_run(run), config) if run else {}
    parts = [f"{k} {a} there, {b} now" for k, (a, b) in fields.items() if changes_results(k)]
    if parts:
        _LOG.warning("%s: its run had other settings: %s", run, ", ".join(parts))
