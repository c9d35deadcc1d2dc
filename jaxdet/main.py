"""The command: `python -m jaxdet.main --config=... --mode=train|eval|predict|export|check`."""

import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from jaxdet import config as config_lib
from jaxdet import console
from jaxdet.errors import InputError
from jaxdet.files import cache_folder

DEFAULT_CONFIG = Path(__file__).parents[1] / "configs" / "rpn_r18_fpn_shapes.py"

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "A file of configs/, by default the embedded rpn_r18_fpn_shapes.py; any field can follow as "
    "--config.x.y=z.",
)
_MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "eval", "predict", "export", "check"], "What to do."
)
_WORKDIR = flags.DEFINE_string("workdir", "", "Where the run's files go; runs/<config's name>.")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "", "A work directory, a .pth file or zoo://NAME; the work directory's own."
)
_IMAGES = flags.DEFINE_list("images", [], "predict: images or folders, separated by commas.")
_OUT = flags.DEFINE_string(
    "out", "", "predict: the folder for results, proposals; export: the file, <config's name>.zip."
)
_DRAW = flags.DEFINE_bool("draw", False, "predict: also write images with their best boxes.")
_SAVE = flags.DEFINE_bool("save_proposals", False, "eval: also write proposals.npz.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join the other hosts, as JAX_* variables or the cluster describe them."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", "", "Several hosts: HOST:PORT of the first; implies --distributed."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Several hosts: how many.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Several hosts: which this is, from 0.")


def main(argv: list[str]) -> None:
    """Runs one mode; bad input ends with one line and exit code 2."""
    if len(argv) > 1:
        console.fail(f"{argv[1]}: not understood; flags begin with --", 2)
    try:
        _run(_config())
    except InputError as error:
        console.fail(str(error), 2)


def _config() -> config_lib.Config:
    try:
        return config_lib.parse(_CONFIG.value)
    except OSError:  # what ml_collections raises, at the first look, for a file that is not there
        path = config_flags.get_config_filename(flags.FLAGS["config"])
        raise InputError(f"{path}: no such config; the zoo's are in configs/") from None


def _run(config: config_lib.Config) -> None:
    # Imported late: loader processes import this module again and must not pay for jax.
    import jax

    from jaxdet import cli as modes
    from jaxdet import data_check as check
    from jaxdet import hosts
    from jaxdet.inference import export

    given = (_NUM_PROCESSES.value, _PROCESS_ID.value)
    if _DISTRIBUTED.value or _COORDINATOR.value or given != (None, None):
        hosts.join_hosts(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    workdir = Path(_WORKDIR.value or f"runs/{config.name}")
    checkpoint = _CHECKPOINT.value
    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
    if _MODE.value == "train":
        modes.run_train(config, workdir, checkpoint)
    elif _MODE.value == "eval":
        modes.run_eval(config, workdir, checkpoint or workdir, _SAVE.value)
    elif _MODE.value == "export":
        export.run_export(config, checkpoint or workdir, Path(_OUT.value or f"{config.name}.zip"))
    elif _MODE.value == "check":
        check.run_check(config, workdir)
    else:
        out = Path(_OUT.value or "proposals")
        modes.run_predict(config, checkpoint or workdir, _IMAGES.value, out, _DRAW.value)


if __name__ == "__main__":
    if not any(argument.split("=")[0].strip("-") == "config" for argument in sys.argv):
        # As a default of the flag, a wrong override would raise before flags are parsed.
        sys.argv.insert(1, f"--config={DEFAULT_CONFIG}")
    console.start(main)
