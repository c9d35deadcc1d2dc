"""The configuration: its fields, and how one is read."""
# ruff: noqa: F401 - names of the room's own files

from jaxdet.config.fields import (
    Config,
    DataConfig,
    DetectionConfig,
    ModelConfig,
    OptimizerConfig,
    ProposalConfig,
    RoIConfig,
    TargetConfig,
    TrainConfig,
)
from jaxdet.config.help import help_text, meanings
from jaxdet.config.parse import FOLDER, load_file, load_module, load_run, parse, to_config_dict
from jaxdet.config.runs import (
    changes_results,
    differing,
    find_run,
    results_fields,
    warn_of_other_results,
)
