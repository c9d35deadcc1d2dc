"""Exported files changed where a zip's checksums do not protect them: member by member."""

import io
import json
import zipfile

import numpy as np

MANIFEST, BIAS = "manifest.json", "params/rpn_head/rpn_cls/bias.npy"
PROGRAM = "programs/64x64.jax"
DEEP = "[" * 3000 + "]" * 3000
VALUES = ["1e400", "true", "-1", "0", "null", '"x"', "9" * 4000, DEEP, "[[64, 64]]", '"\\u009b"']
SHAPES = [
    "(True, 9)",
    "(9,)",
    "(True,) * 9",
    "(" * 3000 + ")" * 3000,
    f"({10**12},)",
    "(-1,)",
    "9.0",
]


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {name: file.read(name) for name in file.namelist()}


def zipped(content: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, data in content.items():
            file.writestr(name, data)
    return out.getvalue()


def with_buckets(data: bytes, *buckets: tuple[int, int]) -> bytes:
    """The file, with these buckets, of which only 64 x 64 has a program."""
    content = members(data)
    manifest = {**json.loads(content[MANIFEST]), "image_scale": [64, 64], "buckets": buckets}
    others = {name for name in content if name.startswith("programs/")} - {PROGRAM}
    kept = {name: data for name, data in content.items() if name not in others}
    return zipped({**kept, MANIFEST: json.dumps(manifest).encode()})


def mutated(good: bytes, seed: int) -> bytes:
    """The file with one thing changed."""
    rng = np.random.default_rng(seed)
    content = members(good)
    match rng.integers(5):
        case 0:  # a field of the manifest
            manifest = json.loads(content[MANIFEST])
            manifest[str(rng.choice(list(manifest)))] = "@"
            text = json.dumps(manifest).replace('"@"', VALUES[rng.integers(len(VALUES))])
            content[MANIFEST] = text.encode()
        case 1:  # the shape or the type of an array
            old = (b"(9,)", b"'<f4'")[rng.integers(2)]
            header = content[BIAS][10:128].replace(old, rng.choice(SHAPES).encode())
            start = b"\x93NUMPY\x02\0" + len(header).to_bytes(4, "little")
            content[BIAS] = start + header + content[BIAS][128:]
        case 2:  # a member left out
            del content[str(rng.choice(list(content)))]
        case _:  # bytes of a program, half of them where it describes itself
            data = bytearray(content[PROGRAM])
            for _ in range(rng.integers(1, 5)):
                data[rng.integers(rng.choice([600, len(data)]))] = rng.integers(256)
            content[PROGRAM] = bytes(data)
    return zipped(content)
