"""The configuration: its fields, and how one is read."""

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
from jaxdet.config.parse import FOLDER, load_file, parse, to_config_dict

__all__ = [
    "FOLDER",
    "Config",
    "DataConfig",
    "DetectionConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ProposalConfig",
    "RoIConfig",
    "TargetConfig",
    "TrainConfig",
    "load_file",
    "parse",
    "to_config_dict",
]
