"""Other systems' checkpoints to work directories and back; mmdet's with optimiser state, too."""

import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from jaxdet.checkpoint import params_of_file, read_params, write_first
from jaxdet.config import Config
from jaxdet.detectors.build import build_detector, param_shapes
from jaxdet.errors import InputError
from jaxdet.files import is_file, write_whole
from jaxdet.models.params import split_params
from jaxdet.training import optimizer as optim
from jaxdet.types import Params
from jaxdet.weights import layout, spelling, torch_file, write_pickle
from jaxdet.weights.state_dict import StateDict, state_dict
from jaxdet.weights.systems import COUNTER, SYSTEMS
from jaxdet.zoo.download import fetch

_SUFFIXES = (".pth", ".pt", ".pkl", ".tar", ".ckpt", ".bin", ".safetensors")  # of no folder


def convert(
    source: str,
    target: str,
    config: Config,
    with_optimizer: bool = False,
    system: str = "mmdet",
    bn_eps: float = 0.0,
) -> None:
    """Writes a system's checkpoint as the first of a work directory, or one of ours as a file.

    Args:
        source: a file or a published name; or a work directory or one of its checkpoints.
        target: a work directory without checkpoints; or a file.
        config: of the same architecture and convention.
        with_optimizer: also import the momentum and the iteration, so that training goes on.
        system: a key of `SYSTEMS`; its files end in `suffix`.
        bn_eps: see `layout.to_params`.

    Raises `InputError` if a name does not fit, the checkpoint cannot be read or is of another
    model, and then writes nothing; or if the target cannot be written.
    """
    reading = "://" in source or is_file(Path(source)) or source.endswith(_SUFFIXES)
    suffix, convention = SYSTEMS[system].suffix, config.model.convention
    if reading == target.endswith(_SUFFIXES):
        raise InputError(f"exactly one of {source} and {target} must be a file of weights")
    if with_optimizer and (not reading or system != "mmdet" or config.optimizer.name != "sgd"):
        raise InputError("--with_optimizer: only to read mmdet's, and config.optimizer.name=sgd")
    for name, other in SYSTEMS.items():
        if name != system and convention in other.conventions:
            raise InputError(
                f"--config: config.model.convention is {convention}: use converters.{name}"
            )
    if reading:
        _import(source, target, config, with_optimizer, bn_eps)
        return
    if not target.endswith(suffix):
        raise InputError(f"{target}: {system} reads {suffix} files; give it such a name")
    params = read_params(source, param_shapes(build_detector(config)))
    tensors = layout.to_state_dict(params, system, convention)
    if system == "detectron2":
        model = {"model": dict(tensors), "__author__": "jaxdet"}
        write_whole(Path(target), write_pickle.plain(model))
    elif system == "torchvision":
        torch_file.write(target, tensors)
    else:
        # The reference looks for `meta`, even where it makes no use of it.
        meta = {"config": config.name, "writer": "jaxdet"}
        torch_file.write(target, {"meta": meta, "state_dict": tensors})


def _import(source: str, workdir: str, config: Config, with_optimizer: bool, bn_eps: float) -> None:
    if any(Path(workdir).glob("checkpoints/*")):
        raise InputError(f"{workdir}: already holds checkpoints; choose another folder")
    path = fetch(source) if "://" in source else Path(source)
    checkpoint = torch_file.read(path)
    detector = build_detector(config)
    shapes = param_shapes(detector)
    params = params_of_file(checkpoint, path, shapes, config.model.convention, bn_eps)
    step: Any = 0
    opt_state = None
    if with_optimizer:
        meta = checkpoint.get("meta")
        step = meta.get("iter") if isinstance(meta, Mapping) else None
        if type(step) is not int or not 0 <= step < 2**31:
            raise InputError(f"{path}: names no usable iteration (meta.iter)")
        trainable, _ = split_params(params, detector.trainable)
        trace = read_momentum(checkpoint, trainable, str(path))
        # The rate plays no part in the state's structure.
        optimizer = optim.make_optimizer(config.optimizer, optax.constant_schedule(0.0))
        opt_state = jax.tree.map(np.asarray, optimizer.init(trainable))
        opt_state = optax.tree_utils.tree_set(opt_state, trace=trace, count=np.int32(step))
    meta = {"config": config.name, "source": path.name, "step": step}
    write_first(Path(workdir), step, params, opt_state, meta)


def read_momentum(checkpoint: Any, trainable: Params, source: str = "the checkpoint") -> Params:
    """Returns a reference checkpoint's momentum buffers, float32 in the structure of `trainable`.

    PyTorch numbers parameters in the order in which the optimizer was given them: that of the
    module, which is also the order of the state dict, either all or only those that train.
    Raises `InputError` if there is no optimizer state, or not one of these tensors.
    """
    try:
        groups, slots = (checkpoint["optimizer"][key] for key in ("param_groups", "state"))
        numbers = [operator.index(number) for group in groups for number in group["params"]]
        buffers = {n: slots[n]["momentum_buffer"] for n in numbers if n in slots}
    except (KeyError, TypeError) as error:
        raise InputError(f"{source}: holds no optimizer state of SGD with momentum") from error
    tensors = state_dict(checkpoint, source)
    own = {spelling.AS_2018(name): name for name in tensors}
    statistics = ("running_mean", "running_var", COUNTER)
    names = [name for name in own.values() if not name.endswith(statistics)]
    if len(numbers) != len(names):
        trained = {own.get(layout.torch_name(path)) for path, _ in layout.leaves(trainable)}
        names = [name for name in names if name in trained]
    if len(numbers) != len(names):
        raise InputError(
            f"{source}: its optimizer has {len(numbers)} tensors, the config trains {len(names)}"
        )
    named = zip(names, map(buffers.get, numbers), strict=True)
    present = {name: array for name, array in named if array is not None}
    present = StateDict(present, tensors.own)
    return layout.to_params(present, trainable, source=f"{source}: momentum")
