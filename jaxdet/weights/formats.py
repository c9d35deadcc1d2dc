"""Files of weights that PyTorch did not write, told by their content: safetensors, and others."""

import re
from collections.abc import Iterable, Mapping

import numpy as np
import safetensors

from jaxdet.weights.pickled_arrays import STORAGE_DTYPES, Storage

HEAD = 512  # bytes at the start of a file tell its format
_AS_TENSORS = "load it where it was made, and save the model's state_dict() with torch.save"
_UNPACK = "unpack it first"
_OF_PYTORCH = "give PyTorch's weights of the same model"
# What other files begin with, what they are, and what to do.
_OTHERS = {
    rb"version https://git-lfs": (
        "a pointer of Git LFS, not the file itself",
        "run `git lfs pull` in its folder, or download the file",
    ),
    rb"\s*<(!doctype|html|head|\?xml|!--)": (
        "a web page, not the file itself",
        "download what its link leads to",
    ),
    rb"\x1f\x8b": ("compressed by gzip", _UNPACK),
    rb"BZh\d": ("compressed by bzip2", _UNPACK),
    rb"\xfd7zXZ\0": ("compressed by xz", _UNPACK),
    rb"\x28\xb5\x2f\xfd": ("compressed by zstd", _UNPACK),
    rb"7z\xbc\xaf|Rar!": ("an archive", _UNPACK),
    rb".{257}ustar": (
        "a tar archive, which PyTorch wrote before 0.1.10",
        f"if it is of PyTorch, {_AS_TENSORS}; else {_UNPACK}",
    ),
    rb"\x89HDF\r\n": ("an HDF5 file, as of Keras", _OF_PYTORCH),
    rb"\x93NUMPY": ("a single array of NumPy", "give a file with all tensors and their names"),
    rb"\x08[\x03-\x20][\x12\x1a\x22\x32\x3a\x42]": (
        "an ONNX model",
        "give the checkpoint that it was exported from",
    ),
    rb"\x08\x01\x12|.{4}TFL3": ("a TensorFlow model", _OF_PYTORCH),
    rb"\0{4}[\1\2]\0{3}[\0-\5]\0{3}": ("a file of Darknet's weights", _OF_PYTORCH),
    rb"\s*\{": (
        "JSON, perhaps the index of weights in several files",
        "give a file that holds all weights",
    ),
    rb"\x89PNG|\xff\xd8\xff|GIF8|%PDF": ("an image or a document", "give the file of weights"),
}
# The same of zip archives, by what a member's name begins with.
_ARCHIVES = {
    r"[^/]+/(code/|constants\.pkl)": (
        "a TorchScript archive, a program with its weights",
        "load it with torch.jit.load, and save its state_dict() with torch.save",
    ),
    r"([^/]+/)?archive_(format|version)": (
        "a program that torch.export saved",
        "load it with torch.export.load, and save its state_dict with torch.save",
    ),
    r"model\.weights\.h5": ("a Keras model", _OF_PYTORCH),
    r"manifest\.json": ("what --mode=export wrote", "load it with jaxdet.load_exported"),
    r"[^/]*\.npy$": ("a file of NumPy's arrays", "give one of PyTorch or safetensors"),
    r"": ("a zip archive, but not one of PyTorch's", _UNPACK),
}
_SAFETENSORS = {
    **{f"{kind.upper()}{8 * n}": np.dtype(f"<{kind}{n}") for kind in "fiu" for n in (2, 4, 8)},
    **{"I8": np.dtype("i1"), "U8": np.dtype("u1"), "BOOL": np.dtype("?")},
    "BF16": STORAGE_DTYPES["BFloat16Storage"],
}


class Unsupported(ValueError):
    """The file is sound, as far as one can tell, but of a kind that is not read."""

    def __init__(self, what: str, advice: str = _AS_TENSORS) -> None:
        super().__init__(f"{what}; this is not read: {advice}")


def refuse_others(head: bytes) -> None:
    """Raises `Unsupported` if a file that begins with `head` is of a format known by name."""
    for start, (what, advice) in _OTHERS.items():
        if re.match(start, head, re.DOTALL | re.IGNORECASE):
            raise Unsupported(what, advice)


def refuse_archive(members: Iterable[str]) -> None:
    """Raises `Unsupported`, which says what a zip archive with these members is."""
    for start, (what, advice) in _ARCHIVES.items():
        if not start or any(re.match(start, name) for name in members):
            raise Unsupported(what, advice)


def is_safetensors(head: bytes) -> bool:
    """Returns whether a file that begins with `head` has a header of JSON behind its length."""
    return head[5:9] == b"\0\0\0{"


def read_safetensors(data: bytes) -> Mapping[str, np.ndarray]:
    """Returns the tensors of a `.safetensors` by name; bfloat16 is widened to float32.

    Raises `Unsupported` where a tensor is of another type of number than weights have, and the
    library's own exceptions where the bytes are damaged.
    """
    tensors = {}
    for name, stored in safetensors.deserialize(data):
        code, shape = stored["dtype"], stored["shape"]
        if code not in _SAFETENSORS:
            raise Unsupported(f"safetensors with numbers of type {code} ({name})")
        storage = Storage.empty(_SAFETENSORS[code], int(np.prod(shape, dtype=np.int64)))
        storage.fill(stored["data"])
        tensors[name] = storage.numbers.reshape(shape)
    return tensors
