"""The same network, weights and images for jaxdet and for PyTorch."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.matching import objects
from benchmarks.timing import torch, torch_device
from jaxdet.config import Config, load_file, parse
from jaxdet.detectors.build import build_detector
from jaxdet.types import Batch, Params
from jaxdet.weights.layout import to_state_dict

if TYPE_CHECKING:
    from benchmarks.plain_rpn import PlainRPN

CONFIGS = Path(__file__).parent.parent / "configs"
MODELS = ("rpn_r50_fpn_1x", "rpn_x101_32x4d_fpn_1x")


def parser(description: str, repeats: int) -> argparse.ArgumentParser:
    """The flags that measuring a network takes."""
    flags = argparse.ArgumentParser(description=description)
    flags.add_argument("--config", nargs="+", default=MODELS, help="names of files in configs/")
    flags.add_argument("--size", type=int, nargs=2, default=(800, 1088), help="height and width")
    flags.add_argument("--batch", type=int, default=2 if jax.default_backend() == "gpu" else 1)
    flags.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    flags.add_argument("--repeats", type=int, default=repeats)
    return flags


def load_config(name: str, precision: str = "float32") -> Config:
    """A config of the zoo by its name; on a GPU float32 products are TensorFloat-32."""
    config = parse(load_file(CONFIGS / f"{name}.py"))
    products = "tensorfloat32" if jax.default_backend() == "gpu" else "highest"
    train = replace(config.train, precision=precision, matmul_precision=products)
    return replace(config, train=train)


def random_params(config: Config) -> Params:
    """Parameters that spread activations, scores and deltas, as trained ones do; NumPy.

    Freshly initialised, but batch norms are not trivial, and those at a block's end not zero.
    """
    rng = np.random.default_rng(0)
    params = jax.jit(build_detector(config).init)(jax.random.key(0, impl="rbg"))

    def spread(path: tuple[Any, ...], leaf: jax.Array) -> np.ndarray:
        names = [part.key for part in path]
        if names[-1] != "scale":
            return np.asarray(leaf)
        # Small at a block's end, so that sums over blocks do not grow.
        low = 0.2 if names[-2] == "conv3" else 0.8
        return rng.uniform(low, 1.25 * low, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(spread, params)


def random_batch(size: tuple[int, int], count: int, boxes: int = 10) -> Batch:
    """Noise of (height, width), multiples of 32, with boxes of many sizes; NumPy."""
    rng = np.random.default_rng(0)
    height, width = size
    shrink = np.array([width / 1344, height / 800] * 2)
    found = np.stack([objects(boxes, seed) for seed in range(count)]) * shrink
    sizes = np.tile(np.array(size, np.int32), (count, 1))
    return Batch(
        image=rng.integers(0, 256, (count, height, width, 3), np.uint8),
        image_size=sizes,
        pad_size=sizes,
        scale=np.ones((count, 2), np.float32),
        boxes=found.astype(np.float32),
        box_mask=np.ones((count, boxes), bool),
        seed=np.arange(count, dtype=np.uint32),
        index=np.arange(count, dtype=np.int32),
    )


def on_device(batch: Batch) -> Batch:
    """The batch where jax computes."""
    return jax.tree.map(jnp.asarray, batch)


def plain_model(config: Config, params: Params) -> PlainRPN:
    """The PyTorch network with these weights, on its device."""
    from benchmarks.plain_rpn import PlainRPN

    # TensorFloat-32, as jaxdet's products; cuDNN may choose its programs.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    model = PlainRPN(config.model)
    state = {k: torch.from_numpy(np.array(v)) for k, v in to_state_dict(params).items()}
    model.load_state_dict(state, strict=True)
    return model.to(torch_device())


def plain_images(image: np.ndarray, config: Config) -> torch.Tensor:
    """[B, 3, H, W] floats, normalised, from uint8 [B, H, W, 3] RGB."""
    model = config.model
    ordered = image[..., ::-1] if model.channel_order == "bgr" else image
    mean, std = (np.array(x, np.float32) for x in (model.pixel_mean, model.pixel_std))
    x = (ordered.astype(np.float32) - mean) / std
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))).to(torch_device())


def plain_precision(config: Config) -> AbstractContextManager:
    """Autocasting where the config computes in bfloat16."""
    if config.train.precision == "bfloat16":
        return torch.autocast(torch_device(), torch.bfloat16)
    return nullcontext()


def wait() -> None:
    """Until PyTorch's device is done."""
    if torch_device() == "cuda":
        torch.cuda.synchronize()
