"""The command: `python -m jaxdet.main --config=... --mode=train|eval|predict|export|check`."""

import os
import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    # Until `console.start` takes over, as the imports below take a second.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

import argparse
import sys
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from jaxdet import config as config_lib
from jaxdet import console
from jaxdet.errors import InputError

DEFAULT_CONFIG = "rpn_r18_fpn_shapes"


class _ConfigParser(flags.ArgumentParser):
    """Finds a config by name as well as by file."""

    def parse(self, argument: str) -> Any:
        return config_lib.load_file(argument).lock()


_MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "eval", "predict", "export", "check"], "What to do."
)
_WORKDIR = flags.DEFINE_string("workdir", "", "Where the run's files go; runs/<config's name>.")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "", "A work directory, a file of weights or zoo://NAME; by default --workdir."
)
_IMAGES = flags.DEFINE_list(
    "images",
    [],
    "predict: images, folders, .tar archives and .txt files of paths, separated by commas.",
)
_TOP = flags.DEFINE_integer("top", None, "predict: keep so many results of an image at most.")
_THRESHOLD = flags.DEFINE_float("threshold", 0.0, "predict: keep results from this score on.")
_SHARDS = flags.DEFINE_enum(
    "shards",
    None,
    ["jsonl", "parquet"],
    "predict: one file for every thousand images; the same command goes on where it was ended.",
)
_OUT = flags.DEFINE_string(
    "out", "", "predict: the folder for results, proposals; export: the file, <config's name>.zip."
)
_DRAW = flags.DEFINE_bool("draw", False, "predict: also write images with their best boxes.")
_SAVE = flags.DEFINE_bool("save_proposals", False, "eval: also write all proposals.")
_FORMAT = flags.DEFINE_enum(
    "proposals_format",
    "npz",
    ["npz", "json", "pkl"],
    "eval: of proposals.npz; json is COCO's results format, pkl the 2018 toolbox's.",
)
_SPLIT = flags.DEFINE_enum(
    "split", "val", ["val", "train"], "eval: of which images; train writes into <workdir>/train."
)
_PROPOSALS = flags.DEFINE_list(
    "proposals", [], "Fast R-CNN: files .npz, .json or .pkl; eval: FILE; train: TRAIN,VAL."
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join the other hosts, as JAX_* variables or the cluster describe them."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", "", "Several hosts: HOST:PORT of the first; implies --distributed."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Several hosts: how many.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Several hosts: which this is, from 0.")


def main(argv: list[str]) -> None:
    """Runs one mode."""
    if len(argv) > 1:
        raise InputError(f"{argv[1]}: not understood; flags begin with --")
    config = config_lib.parse(flags.FLAGS.config)
    # Imported late: loader processes import this module again and must not pay for jax.

    from jaxdet import distributed, programs

    mode = _MODE.value
    if mode in ("eval", "predict"):
        programs.keep_memory()
    if config.model.takes_proposals and mode in ("predict", "export"):
        raise InputError(
            f"--mode={mode}: {config.model.detector} works on a file of proposals only"
        )
    hosts = (_NUM_PROCESSES.value, _PROCESS_ID.value)
    if _DISTRIBUTED.value or _COORDINATOR.value or hosts != (None, None):
        distributed.join_hosts(_COORDINATOR.value, *hosts)
    if mode not in ("eval", "predict"):  # whose programs are kept whole, see `programs.Store`
        programs.keep_programs()
    workdir = Path(_WORKDIR.value or f"runs/{config.name}")
    checkpoint = _CHECKPOINT.value or workdir
    match mode:
        case "train":
            from jaxdet import cli

            cli.run_train(config, workdir, _CHECKPOINT.value, _PROPOSALS.value)
        case "eval":
            from jaxdet import cli

            given: Any = _SPLIT.value, _PROPOSALS.value, _FORMAT.value
            cli.run_eval(config, workdir, checkpoint, _SAVE.value, *given)
        case "predict":
            from jaxdet.inference import predict

            predict.run_predict(
                config,
                checkpoint,
                _IMAGES.value,
                Path(_OUT.value or "proposals"),
                draw=_DRAW.value,
                top=_TOP.value,
                threshold=_THRESHOLD.value,
                shards=_SHARDS.value,
            )
        case "export":
            from jaxdet.inference import export

            export.run_export(config, checkpoint, Path(_OUT.value or f"{config.name}.zip"))
        case "check":
            from jaxdet import data_check

            data_check.run_check(config, workdir)


def _with_config(argv: list[str]) -> list[str]:
    """Returns a command line that names a config, by default that of the run it works on."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("config", "checkpoint", "workdir"):
        early.add_argument(f"--{name}", f"-{name}", nargs="?", const=" ")
    known = early.parse_known_args(argv)[0]
    if known.config:
        return argv
    folder = known.checkpoint or known.workdir
    run = config_lib.find_run(folder) if folder else None
    # As a default of the flag, a wrong override would raise before flags are parsed.
    return [argv[0], f"--config={run or DEFAULT_CONFIG}", *argv[1:]]


def _define_config() -> None:
    """Defines `--config`, which looks for its fields in `sys.argv` at once."""
    sys.argv = _with_config(sys.argv)
    config_flags.DEFINE_config_file(
        "config",
        None,
        "A config's file or name, or a run's config.json; fields follow: --config.x.y=z.  By "
        f"default that of the run that --checkpoint or --workdir is, or {DEFAULT_CONFIG}.",
    )
    flags.FLAGS["config"].parser = _ConfigParser()


if __name__ == "__main__":
    console.start(main, _define_config)
