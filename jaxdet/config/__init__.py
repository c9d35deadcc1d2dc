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
from jaxdet.config.parse import FOLDER, load_file, load_run, parse, to_config_dict
from jaxdet.config.runs import differing, find_run, warn_of_other_results
