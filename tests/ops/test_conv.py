"""Convolutions against XLA's own, its gradients, differences, and sums worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export, lax
from jax.sharding import PartitionSpec

from jaxdet.ops import conv, product, winograd
from jaxdet.ops.conv import conv2d
from jaxdet.ops.platforms import every_platform

# (batch, height, width, channels, features, kernel, stride, padding, groups).
ZOO = [
    (2, 37, 30, 3, 8, 7, 2, 3, 1),  # the stem
    (1, 13, 17, 16, 24, 1, 1, 0, 1),
    (2, 13, 17, 16, 24, 1, 2, 0, 1),
    (1, 13, 17, 16, 24, 3, 1, 1, 1),  # narrow
    (2, 12, 17, 16, 24, 3, 2, 1, 1),
    (1, 72, 67, 256, 8, 3, 2, 1, 1),  # large
    (2, 33, 35, 96, 128, 3, 1, 1, 1),  # wide
    (1, 36, 32, 128, 96, 3, 1, 0, 1),
    (1, 32, 33, 128, 96, 3, 1, 2, 1),
    (1, 13, 17, 128, 128, 3, 1, 1, 32),  # ResNeXt, 4 to 32 channels a group
    (1, 13, 18, 256, 256, 3, 2, 1, 32),
    (2, 9, 10, 256, 256, 3, 1, 1, 64),
    (1, 7, 9, 1024, 1024, 3, 2, 1, 32),
    (1, 7, 9, 96, 48, 3, 1, 1, 2),
    (1, 7, 9, 24, 12, 1, 1, 0, 3),
]
# Next to each output's standard deviation; sums of a few thousand float32 products.  In bfloat16
# the result alone is rounded, to 2**-9 of it; in `winograd` its factors are, too, which is 0.6 % of
# the standard deviation, and five times that in the worst of a hundred thousand.
TOLERANCE = {"float32": 2e-5, "bfloat16": 2e-2}
WINOGRAD_BFLOAT16 = 3e-2


def reference(x, kernel, stride, padding, groups):
    return lax.conv_general_dilated(
        x.astype(jnp.float32),
        kernel.astype(jnp.float32),
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def operands(case, dtype="float32", seed=0):
    """Rectified x, as most convolutions see it, and a kernel."""
    batch, height, width, channels, features, size, _, _, groups = case
    rng = np.random.default_rng(seed)
    x = np.maximum(rng.standard_normal((batch, height, width, channels)), 0)
    kernel = rng.standard_normal((size, size, channels // groups, features))
    kernel /= np.sqrt(kernel[..., 0].size)
    return jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)


def check(case, dtype):
    """Output and both gradients equal XLA's on the same numbers in float32."""
    stride, padding, groups = case[-3:]
    x, kernel = operands(case, dtype)
    rounded = dtype == "bfloat16" and conv._is_winograd(conv._Spec(*case[-3:]), x, kernel)
    tolerance = WINOGRAD_BFLOAT16 if rounded else TOLERANCE[dtype]

    def ours(x, kernel):
        return conv2d(x, kernel, stride=stride, padding=padding, groups=groups)

    y, pullback = jax.vjp(jax.jit(ours), x, kernel)
    y32, pullback32 = jax.vjp(lambda *args: reference(*args, *case[-3:]), x, kernel)
    dy = jnp.asarray(np.random.default_rng(1).standard_normal(y.shape), dtype)
    expected = y32, *pullback32(dy.astype(jnp.float32))
    for name, a, b in zip(("y", "dx", "dkernel"), (y, *pullback(dy)), expected, strict=True):
        assert a.shape == b.shape, name
        assert a.dtype == dtype, name
        b = np.asarray(b, np.float32)
        error = np.abs(np.asarray(a, np.float32) - b).max() / max(b.std(), 1e-6)
        assert error < tolerance, (name, error)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", ZOO, ids=str)
def test_equals_xla(case, dtype):
    check(case, dtype)


def test_cases_reach_every_program():
    """Else the comparisons above would say nothing of the program they leave out."""
    taken = set()
    for case in ZOO:
        x, kernel = operands(case)
        stride, padding, groups = spec = conv._Spec(*case[-3:])
        if groups > 1:
            taken.add(("grouped", kernel.shape[0], stride))
        elif conv._is_product(spec, kernel):
            taken.add(("product", stride))
        elif conv._is_winograd(spec, x, kernel):
            taken.add(("winograd", padding))
        else:
            taken.add(("lax", stride, conv._is_large(x)))
    assert taken >= {("grouped", 3, 1), ("grouped", 3, 2), ("grouped", 1, 1)}
    assert taken >= {("product", 1), ("product", 2)}
    assert taken >= {("winograd", 0), ("winograd", 1), ("winograd", 2)}
    assert taken >= {("lax", 1, False), ("lax", 2, False), ("lax", 2, True)}


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(st.data())
def test_equals_xla_at_any_size(data):
    draw = data.draw
    size = draw(st.sampled_from([1, 2, 3, 5]))
    padding = draw(st.integers(0, 2))
    height, width = (draw(st.integers(max(1, size - 2 * padding), 9)) for _ in range(2))
    groups = draw(st.sampled_from([1, 1, 2, 3, 8]))
    channels, features = (groups * draw(st.integers(1, 5)) for _ in range(2))
    stride = draw(st.integers(1, 3))
    batch = draw(st.integers(1, 3))
    check((batch, height, width, channels, features, size, stride, padding, groups), "float32")


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(
    batch=st.integers(1, 2),
    height=st.integers(3, 14),
    width=st.integers(3, 14),
    channels=st.integers(1, 4),
    features=st.integers(1, 4),
    padding=st.integers(0, 2),
)
def test_winograd_at_any_size(batch, height, width, channels, features, padding):
    case = batch, height, width, channels, features, 3, 1, padding, 1
    x, kernel = operands(case)
    y, pullback = jax.vjp(lambda kernel: reference(x, kernel, 1, padding, 1), kernel)
    np.testing.assert_allclose(winograd.conv3x3(x, kernel, padding), y, atol=1e-4)
    dkernel = winograd.conv3x3_kernel_gradient(x, y, padding)
    np.testing.assert_allclose(dkernel, pullback(y)[0], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("dtype", "usual", "largest"), [("float32", 1.5e-6, 1.5e-5), ("bfloat16", 4.5e-3, 2.5e-2)]
)
def test_winograd_rounding(dtype, usual, largest):
    """The error stated in the docstrings, on rectified noise against float64."""
    case = 1, 32, 32, 256, 32, 3, 1, 1, 1
    x, kernel = (np.asarray(a) for a in operands(case))
    padded = np.pad(x[0].astype(np.float64), ((1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (0, 1))  # [H, W, C, 3, 3]
    exact = np.einsum("yxcij,ijco->yxo", windows, kernel.astype(np.float64))
    y = winograd.conv3x3(jnp.asarray(x, dtype), jnp.asarray(kernel, dtype), 1)[0]
    error = np.asarray(y, np.float32) - exact
    assert error.std() < usual * exact.std()
    assert np.abs(error).max() < largest * exact.std()


def test_bfloat16_is_multiplied_as_it_is():
    """Also at the precision that commands run with, which would make float32 of it first."""
    x = jnp.ones((64, 64), jnp.bfloat16)
    with jax.default_matmul_precision("highest"):
        text = jax.jit(lambda x: product.einsum("ij,jk->ik", x, x)).lower(x).as_text()
    (line,) = (line for line in text.splitlines() if "dot_general" in line)
    assert "(tensor<64x64xbf16>, tensor<64x64xbf16>) -> tensor<64x64xf32>" in line
    assert "DEFAULT" in line
    assert "HIGHEST" not in line


def test_known_values():
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    y = conv2d(x, jnp.ones((3, 3, 1, 1)), stride=2, padding=1)
    np.testing.assert_array_equal(y[0, ..., 0], [[8, 12], [20, 24]])


@pytest.mark.parametrize(
    "case",
    [(1, 5, 4, 2, 3, 3, 2, 1, 1), (1, 4, 5, 4, 4, 3, 1, 1, 2), (2, 5, 4, 3, 2, 1, 2, 0, 1)],
    ids=str,
)
def test_gradients_are_slopes(case):
    """A convolution is linear in x and in the kernel, so steps of any length give the slope."""
    stride, padding, groups = case[-3:]
    x, kernel = operands(case)
    u, w = operands(case, seed=1)

    def ours(x, kernel):
        return conv2d(x, kernel, stride=stride, padding=padding, groups=groups)

    y, pullback = jax.vjp(ours, x, kernel)
    dx, dkernel = pullback(y)
    np.testing.assert_allclose(np.vdot(dx, u), np.vdot(y, ours(x + u, kernel) - y), rtol=1e-4)
    np.testing.assert_allclose(np.vdot(dkernel, w), np.vdot(y, ours(x, kernel + w) - y), rtol=1e-4)


WIDE, GROUPED = (2, 32, 33, 96, 96, 3, 1, 1, 1), (2, 9, 8, 64, 64, 3, 2, 1, 16)


def loss(case):
    stride, padding, groups = case[-3:]

    def of(x, kernel):
        y = conv2d(x, kernel, stride=stride, padding=padding, groups=groups)
        return jnp.sum(jnp.sin(y), axis=(0, 1, 2, 3))

    return of


@pytest.mark.parametrize("case", [WIDE, GROUPED], ids=["wide", "grouped"])
def test_under_checkpoint(case):
    args = operands(case)
    expected = jax.jit(jax.grad(loss(case), (0, 1)))(*args)
    got = jax.jit(jax.grad(jax.checkpoint(loss(case)), (0, 1)))(*args)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, expected)


@pytest.mark.parametrize("check_vma", [False, True])
@pytest.mark.parametrize("case", [WIDE, GROUPED], ids=["wide", "grouped"])
def test_inside_shard_map(case, check_vma):
    x, kernel = operands(case)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    data, whole = PartitionSpec("data"), PartitionSpec()

    def step(x, kernel):
        dx, dkernel = jax.grad(loss(case), (0, 1))(x, kernel)
        # With `check_vma` the gradient of what all devices share is summed already.
        return dx, dkernel if check_vma else lax.psum(dkernel, "data")

    sharded = jax.shard_map(
        step, mesh=mesh, in_specs=(data, whole), out_specs=(data, whole), check_vma=check_vma
    )
    expected = jax.jit(jax.grad(loss(case), (0, 1)))(x, kernel)
    got = jax.jit(sharded)(x, kernel)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, expected)


def test_export_lowers_each_platform_its_own_way():
    """A GPU gets two convolutions and no product, a CPU products alone."""
    gradient = jax.jit(jax.grad(loss(WIDE), (0, 1)))

    def exported(*platforms):
        with every_platform():
            return export.export(gradient, platforms=platforms)(*operands(WIDE))

    text = {platform: exported(platform).mlir_module() for platform in ("cpu", "cuda", "tpu")}
    assert "stablehlo.convolution" not in text["cpu"]
    for platform in ("cuda", "tpu"):
        assert "stablehlo.dot_general" not in text[platform]
        assert "stablehlo.convolution" in text[platform]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        list(export.deserialize(exported("cpu", "cuda").serialize()).call(*operands(WIDE))),
        list(gradient(*operands(WIDE))),
    )


def test_keeps_x_and_kernel_alone():
    x, kernel = operands(WIDE)
    _, pullback = jax.vjp(lambda *args: conv2d(*args, padding=1), x, kernel)
    kept = [leaf for leaf in jax.tree.leaves(pullback) if hasattr(leaf, "shape")]
    assert sum(leaf.size for leaf in kept) == x.size + kernel.size


def test_computed_once_changes_nothing_and_compilers_cannot_see_through_it():
    def blocks(x):
        for _ in range(3):
            x = conv.computed_once(jax.nn.relu(x + jnp.sin(x)))
        return x

    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3), np.float32))
    plain = jax.nn.relu(x + jnp.sin(x))
    np.testing.assert_array_equal(conv.computed_once(plain), plain)
    gradient = jax.grad(lambda x: (conv.computed_once(x) ** 2).sum())(x)
    np.testing.assert_array_equal(gradient, 2 * x)
    if jax.default_backend() == "cpu":
        assert jax.jit(blocks).lower(x).compile().as_text().count(" conditional(") == 3
