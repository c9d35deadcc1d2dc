"""Compiled programs that are kept from process to process, and made again where damaged."""

import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet import programs
from jaxdet.programs import Programs, Store, remembered


class Images(NamedTuple):
    image: np.ndarray


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXDET_CACHE", str(tmp_path))
    return tmp_path / "programs"


def doubled(traced: list, key: str = "", device: int = 0) -> Programs:
    """Twice an image, and a note in `traced` each time that this is traced."""

    def double(images: Images) -> jax.Array:
        traced.append(images.image.shape)
        return images.image * jnp.float32(2)

    devices = (jax.devices()[device],)
    return Programs(jax.jit(double), store=Store(key, devices))


def ones(*shape: int) -> Images:
    return Images(np.ones(shape, np.float32))


def test_a_kept_program_is_not_traced_again(cache):
    traced = []
    for _ in range(2):
        program = doubled(traced)
        np.testing.assert_array_equal(program(ones(1, 2, 3)), 2)
    assert traced == [(1, 2, 3)]
    assert program.compile(ones(1, 2, 4))
    assert not program.compile(ones(1, 2, 4))
    doubled(traced, key="another config")(ones(1, 2, 3))
    with jax.default_matmul_precision("bfloat16"):
        doubled(traced)(ones(1, 2, 3))
    assert len(traced) == len([*cache.iterdir()]) == 4


def damage_nothing(path, content):
    path.unlink()


def damage_a_part(path, content):
    path.write_bytes(content[: len(content) // 2])


def damage_a_byte(path, content):
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])


@pytest.mark.parametrize("damage", [damage_nothing, damage_a_part, damage_a_byte])
def test_a_damaged_program_is_made_again(cache, damage):
    traced = []
    doubled(traced)(ones(1, 2, 3))
    (path,) = cache.iterdir()
    damage(path, path.read_bytes())
    for _ in range(2):
        np.testing.assert_array_equal(doubled(traced)(ones(1, 2, 3)), 2)
    assert len(traced) == 2


def test_what_cannot_be_kept_is_made(cache, monkeypatch):
    """A cache folder that cannot be written, and jax's own cache, which is left to itself."""
    traced = []
    cache.write_text("no folder")
    np.testing.assert_array_equal(doubled(traced)(ones(1, 2, 3)), 2)
    assert remembered("x", lambda: 3) == 3
    cache.unlink()
    monkeypatch.setattr(programs, "_usable", lambda: False)
    doubled(traced)(ones(1, 2, 3))
    assert not cache.exists()
    assert remembered("x", lambda: 4) == remembered("x", lambda: 5) == 4


PROGRAM = """
import jax
from jaxdet.programs import keep_programs
keep_programs()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: jax.numpy.sin(x) @ x)(jax.numpy.ones((4, 4)))
"""


def test_an_entry_cut_short_is_made_again(tmp_path):
    def errors() -> list[str]:
        command = [sys.executable, "-c", PROGRAM]
        result = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
        return result.stderr.splitlines()

    assert errors() == []
    (entry,) = (tmp_path / "xla").glob("jit__lambda-*-cache")
    whole = entry.read_bytes()
    entry.write_bytes(whole[:100])
    (line,) = errors()
    assert line.startswith(f"jaxdet: {tmp_path}/xla: jit__lambda cannot be used or kept: ")
    assert len(entry.read_bytes()) > 0.9 * len(whole)  # which holds the time that it took
    assert errors() == []


FREED = """
import resource
from jaxdet.programs import keep_memory
keep_memory()
size = 2**30
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * size
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.parametrize("intel", [True, False])
def test_options_of_a_cpu(monkeypatch, intel):
    """Those that there are give the same numbers up to rounding, by another library."""
    monkeypatch.setattr(programs, "is_intel_avx512", lambda: intel)
    options = programs.compiler_options.__wrapped__("float32")
    assert bool(options) == intel
    assert not programs.compiler_options.__wrapped__("bfloat16")
    x = jax.random.normal(jax.random.key(0), (128, 256)) / 16  # of length 1, about
    product = jax.jit(lambda x: x @ x.T, compiler_options=options)(x)
    np.testing.assert_allclose(product, jax.jit(lambda x: x @ x.T)(x), atol=1e-6)


def test_an_option_that_xla_does_not_know_is_left_out(monkeypatch):
    def unknown(*_, compiler_options):
        return jit(*_, compiler_options=dict.fromkeys(compiler_options, "no such type"))

    jit = jax.jit
    monkeypatch.setattr(programs, "is_intel_avx512", lambda: True)
    monkeypatch.setattr(jax, "jit", unknown)
    assert programs.compiler_options.__wrapped__("float32") == {}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep memory their own way")
def test_freed_memory_is_not_made_anew():
    """A buffer of 1 GiB, of 262,144 pages."""
    command = [sys.executable, "-c", FREED]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    first, _, third = map(int, result.stdout.split())
    assert first > 200_000
    assert third < 5_000
