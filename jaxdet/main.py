"""The command: `python -m jaxdet.main --config=... --mode=train|eval|predict`."""

from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from jaxdet import command, report
from jaxdet import config as config_lib
from jaxdet.cache import cache_folder
from jaxdet.errors import InputError
from jaxdet.modes import run_eval, run_predict
from jaxdet.train import Stopped, TrainingError, train

DEFAULT_CONFIG = Path(__file__).parents[1] / "configs" / "rpn_r18_fpn_shapes.py"

_CONFIG = config_flags.DEFINE_config_file(
    "config", str(DEFAULT_CONFIG), "A file of configs/; any field can follow as --config.x.y=z."
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval", "predict"], "What to do.")
_WORKDIR = flags.DEFINE_string("workdir", "", "Where the run's files go; runs/<config's name>.")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "", "A work directory, a .pth file or zoo://NAME; the work directory's own."
)
_IMAGES = flags.DEFINE_list("images", [], "predict: pictures or folders, separated by commas.")
_OUT = flags.DEFINE_string("out", "proposals", "predict: the folder for results.")
_DRAW = flags.DEFINE_bool("draw", False, "predict: also write pictures with their best boxes.")
_SAVE = flags.DEFINE_bool("save_proposals", False, "eval: also write proposals.npz.")


def main(argv: list[str]) -> None:
    """Runs one mode; bad input ends with one line and exit code 2."""
    if len(argv) > 1:
        command.fail(f"{argv[1]}: not understood; flags begin with --", 2)
    try:
        _run()
    except InputError as error:
        command.fail(str(error), 2)
    except Stopped as stop:
        command.fail(str(stop), 143)
    except TrainingError as error:
        command.fail(str(error), 1)


def _run() -> None:
    config = config_lib.parse(_CONFIG.value)
    workdir = Path(_WORKDIR.value or f"runs/{config.name}")
    checkpoint = _CHECKPOINT.value
    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
    if _MODE.value == "train":
        report.claim_workdir(workdir, config)
        train(config, workdir, checkpoint)
        report.say(f"wrote {workdir}/eval.json and {workdir}/proposals.png")
    elif _MODE.value == "eval":
        run_eval(config, workdir, checkpoint or workdir, _SAVE.value)
    else:
        run_predict(config, checkpoint or workdir, _IMAGES.value, Path(_OUT.value), _DRAW.value)


if __name__ == "__main__":
    command.start(main)
