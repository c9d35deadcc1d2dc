"""The reference's checkpoints to jaxdet's and back.

python -m converters.mmdet rpn_r50_fpn_1x.pth runs/converted --config=configs/rpn_r50_fpn_1x.py
python -m converters.mmdet runs/converted out.pth --config=configs/rpn_r50_fpn_1x.py

The side that ends in `.pth` tells the direction; a `.pth` to read may also be a name such as
zoo://rpn_r50_fpn_1x.  `runs/converted` serves as --checkpoint, and as --workdir to train on.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging

from jaxdet import config as config_lib
from jaxdet.checkpoint import read_params
from jaxdet.config import Config
from jaxdet.detectors.build import build_detector, param_shapes
from jaxdet.errors import InputError
from jaxdet.models.params import split_params
from jaxdet.saving import Checkpoints
from jaxdet.training import optimizer as optim
from jaxdet.training.step import TrainState
from jaxdet.types import Params
from jaxdet.weights import layout, torch_file
from jaxdet.zoo.download import fetch


def import_checkpoint(
    source: str | Path, workdir: str | Path, config: Config, with_optimizer: bool = False
) -> None:
    """Writes a reference checkpoint as the first checkpoint of a work directory.

    Args:
        source: a `.pth` file, or a published name.
        workdir: may exist, but not hold checkpoints.
        config: of the same architecture.
        with_optimizer: also take the momentum and the iteration, so that training goes on.

    Raises:
        InputError: the file cannot be read or does not fit, and nothing is written; or the
            folder cannot be written.
    """
    if any(Path(workdir).glob("checkpoints/*")):
        raise InputError(f"{workdir}: already holds checkpoints; choose another folder")
    path = fetch(str(source)) if "://" in str(source) else Path(source)
    checkpoint = torch_file.read(path)
    shapes = param_shapes(build_detector(config))
    params = layout.to_params(checkpoint, shapes, source=str(path))
    meta: dict[str, Any] = {"config": config.name, "source": path.name, "step": 0}
    state = _train_state(checkpoint, params, config, str(path)) if with_optimizer else None
    try:
        Path(workdir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{workdir}: cannot be written: {error.strerror}") from error
    with Checkpoints(workdir) as checkpoints:
        if state is None:
            checkpoints.save_params(params, meta)
        else:
            checkpoints.save(
                int(state.step), params, state.opt_state, {**meta, "step": int(state.step)}
            )
            checkpoints.wait()


def export_checkpoint(source: str | Path, target: str | Path, config: Config) -> None:
    """Writes a jaxdet checkpoint as a `.pth` that the reference loads with strict keys.

    Args:
        source: a work directory or one of its checkpoints.
        target: the file.
        config: of the same architecture.

    Raises:
        InputError: the checkpoint cannot be read or does not fit, or the file not be written.
    """
    params = read_params(source, param_shapes(build_detector(config)))
    # The reference looks for `meta`, even where it makes no use of it.
    meta = {"config": config.name, "writer": "jaxdet"}
    torch_file.write(target, {"meta": meta, "state_dict": layout.to_state_dict(params)})


def read_momentum(checkpoint: Any, trainable: Params, source: str = "the checkpoint") -> Params:
    """Returns the momentum buffers of a reference checkpoint.

    PyTorch numbers parameters in the order in which the optimizer was given them: that of the
    module, which is also the order of the state dict, either all or only those that train.

    Args:
        checkpoint: what `torch_file.read` returned, with an 'optimizer'.
        trainable: the tensors that train; leaves with a `.shape`.
        source: the file's name, for messages.

    Returns:
        The structure of `trainable` with float32 arrays.

    Raises:
        InputError: there is no optimizer state, or it is not one of these tensors.
    """
    try:
        groups, slots = (checkpoint["optimizer"][key] for key in ("param_groups", "state"))
        numbers = [number for group in groups for number in group["params"]]
        buffers = {n: slots[n]["momentum_buffer"] for n in numbers if n in slots}
    except (KeyError, TypeError) as error:
        raise InputError(f"{source}: holds no optimizer state of SGD with momentum") from error
    names = [
        name
        for name in layout.state_dict(checkpoint, source)
        if not name.endswith(("running_mean", "running_var"))
    ]
    if len(numbers) != len(names):
        trained = {layout.torch_name(path) for path, _ in layout.leaves(trainable)}
        names = [name for name in names if name in trained]
    if len(numbers) != len(names):
        raise InputError(
            f"{source}: its optimizer has {len(numbers)} tensors, the config trains {len(names)}"
        )
    named = {name: buffers.get(n) for name, n in zip(names, numbers, strict=True)}
    present = {name: array for name, array in named.items() if array is not None}
    return layout.to_params(present, trainable, source=f"{source}: momentum")


def _train_state(checkpoint: Any, params: Params, config: Config, source: str) -> TrainState:
    """Returns the state of training at the iteration that the checkpoint names."""
    trainable, frozen = split_params(params, build_detector(config).trainable)
    meta = checkpoint.get("meta") if isinstance(checkpoint, Mapping) else None
    step = meta.get("iter") if isinstance(meta, Mapping) else None
    if type(step) is not int or step < 0:
        raise InputError(f"{source}: does not say its iteration (meta.iter)")
    momentum = read_momentum(checkpoint, trainable, source)
    # The rate plays no part in the state's structure.
    optimizer = optim.make_optimizer(config.optimizer, optax.constant_schedule(0.0))
    slots = optax.tree_utils.tree_set(
        jax.tree.map(np.asarray, optimizer.init(trainable)), trace=momentum, count=np.int32(step)
    )
    return TrainState(jnp.int32(step), trainable, frozen, slots)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Prints one line in place of the usage."""
        _fail(f"{message} (see --help)")


def main(argv: list[str] | None = None) -> None:
    """Runs the command; bad input ends with one line and exit code 2."""
    parser = _Parser(
        prog="python -m converters.mmdet",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="a .pth file or zoo:// name, or a work directory")
    parser.add_argument("target", help="a work directory, or a .pth file")
    parser.add_argument("--config", required=True, help="the config of the same architecture")
    parser.add_argument("--with-optimizer", action="store_true", help="import the momentum too")
    args = parser.parse_args(argv)
    try:
        _run(args)
    except InputError as error:
        _fail(str(error))
    print(f"wrote {args.target}")


def _run(args: argparse.Namespace) -> None:
    config = config_lib.parse(config_lib.load_file(args.config))
    for side in (args.source, args.target):
        if side.endswith(".pkl"):
            raise InputError(f"{side}: a backbone only; set config.model.pretrained to it instead")
    reading = args.source.endswith(".pth") or "://" in args.source
    if reading == args.target.endswith(".pth"):
        raise InputError("exactly one of source and target must be a .pth file")
    if reading:
        import_checkpoint(args.source, args.target, config, args.with_optimizer)
    elif args.with_optimizer:
        raise InputError("--with-optimizer: a .pth is written without optimizer state")
    else:
        export_checkpoint(args.source, args.target, config)


def _fail(message: str) -> NoReturn:
    print(f"converters.mmdet: {message}", file=sys.stderr, flush=True)
    sys.exit(2)


if __name__ == "__main__":
    logging.set_verbosity(logging.ERROR)
    main()
