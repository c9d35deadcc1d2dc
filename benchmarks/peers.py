"""What people run a PyTorch network with: eager, channels_last, torch.compile, and exported files.

Each peer is a function of the plain network (`benchmarks/plain_rpn.py`) and its images; all use
the threads that `timing.use_same_threads` set.  ONNX Runtime and OpenVINO fold batch norms when
they load a file, as they do by default.
"""

import copy
import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.setups import wait
from benchmarks.timing import torch, torch_device

FORWARD = ("eager", "channels_last", "compile", "onnxruntime", "openvino")
TRAINING = ("eager", "channels_last", "compile")

Precision = Callable[[], AbstractContextManager]


def variant(kind: str, model: Any) -> Any:
    """Returns the network as `kind` (one of TRAINING) runs it; its weights are shared or copied."""
    if kind == "channels_last":
        return copy.deepcopy(model).to(memory_format=torch.channels_last)
    return torch.compile(copy.deepcopy(model)) if kind == "compile" else model


def laid_out(kind: str, images: Any) -> Any:
    """Returns the images as `kind` likes them in memory."""
    return images.to(memory_format=torch.channels_last) if kind == "channels_last" else images


def forward(
    kind: str, model: Any, images: Any, precision: Precision, *, any_size: bool = False
) -> Callable[[Any], list]:
    """Returns a function of images that gives all logits, then all deltas, fine to coarse.

    Images are as large as these, unless they may be of `any_size`.
    """
    if kind in TRAINING:
        network = variant(kind, model)

        def run(images: Any) -> list:
            with torch.inference_mode(), precision():
                logits, deltas = network(laid_out(kind, images))
            wait()
            return [*logits, *deltas]

        return run
    source = exported(model, images, any_size)
    session = onnxruntime_session(source) if kind == "onnxruntime" else openvino_session(source)
    return lambda images: session(images.numpy())


def exported(model: Any, images: Any, any_size: bool) -> bytes:
    """Returns the network as an ONNX file."""
    file = io.BytesIO()
    outputs = [f"out{i}" for i in range(2 * len(model.config.strides))]
    sides = {"dynamic_axes": {"images": {2: "height", 3: "width"}}} if any_size else {}
    torch.onnx.export(
        model, (images,), file, input_names=["images"], output_names=outputs,
        dynamo=False, opset_version=17, **sides,
    )  # fmt: skip
    return file.getvalue()


def onnxruntime_session(source: bytes) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Returns the function of an ONNX file, by ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return lambda array: session.run(None, {"images": array})


def openvino_session(source: bytes) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Returns the function of an ONNX file, by OpenVINO, in float32."""
    import openvino

    core = openvino.Core()
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    network = core.compile_model(core.read_model(source), "CPU", options)
    return lambda array: list(network([array]).values())


def available(kinds: tuple[str, ...], precision: str) -> list[str]:
    """Returns those of `kinds` that are installed; exported files are of float32, on a CPU."""
    if torch is None:
        return []
    exports = precision == "float32" and torch_device() == "cpu" and find_spec("onnx")
    return [kind for kind in kinds if kind in TRAINING or (exports and find_spec(kind))]
