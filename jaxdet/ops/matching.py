"""Matching of anchors to boxes as one XLA program, exact with ties.

`N` anchors, `M` padded boxes.  Memory grows with N, not with N * M: boxes are taken a few at a
time.  IoUs are bit for bit the reference's (see `ops.boxes`), so `==` below means what
it means there.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Bool, Float, Int32

from jaxdet.errors import InputError
from jaxdet.ops.boxes import FAR, MMDET1, BoxConvention, columns, iou_of_columns
from jaxdet.ops.platforms import platform_dependent

# Boxes per step: on a CPU few, to stay in the cache; elsewhere more, to take fewer steps.
_CPU_BLOCK = 4
_OTHER_BLOCK = 32

# Longest reduction that XLA's CPU backend compiles to vector code (see `_largest`).
_FAN = 32

# More than any IoU.
_NEVER = 2.0


def match(
    anchors: Float[Array, "n 4"],
    allowed: Bool[Array, " n"],
    boxes: Float[Array, "m 4"],
    box_mask: Bool[Array, " m"],
    *,
    pos_iou: float,
    neg_iou: float,
    min_pos_iou: float,
    low_quality_takes: bool = True,
    convention: BoxConvention = MMDET1,
) -> Int32[Array, " n"]:
    """Returns for each anchor -1 ignored, 0 negative, k > 0 matched to box `k - 1`.

    Anchors that are not `allowed` are ignored, and are no box's best.  Of the others an anchor
    is negative if its best IoU is below `neg_iou`, and is matched to its best box (the
    first of equals) if that IoU is at least `pos_iou`.  Then, box by box, every anchor whose IoU
    equals the box's best, if at least `min_pos_iou`, is matched to that box, whatever it was
    before; or else, unless `low_quality_takes`, to its own best box (the first one, if it meets
    none).  An image without boxes makes all allowed anchors negative.

    Work is O(N * boxes up to the last that is not masked), memory O(N).  Under `jax.vmap` all
    images take as long as the one with the most boxes.

    Examples:
        >>> anchors = jnp.array([[0.0, 0, 9, 9], [0, 0, 9, 5], [30, 30, 39, 39]])
        >>> boxes, mask = jnp.array([[0.0, 0, 9, 8]]), jnp.array([True])
        >>> every = jnp.array([True, True, True])
        >>> match(anchors, every, boxes, mask, pos_iou=0.7, neg_iou=0.3, min_pos_iou=0.3).tolist()
        [1, -1, 0]

    Raises `InputError` if `pos_iou` is not above 0.
    """
    if not pos_iou > 0:
        raise InputError(f"pos_iou is {pos_iou}: set an IoU above 0")
    if boxes.shape[0] == 0 or anchors.shape[0] == 0:
        return jnp.where(allowed, 0, -1)
    scan = partial(_scan, min_pos_iou=min_pos_iou, takes=low_quality_takes, convention=convention)
    best, matched = platform_dependent(
        jnp.where(allowed[:, None], anchors, FAR),
        boxes,
        box_mask,
        # One image after another: in a batched loop every step would copy the whole state.
        cpu=sequential_vmap(partial(scan, block=_CPU_BLOCK)),
        default=partial(scan, block=_OTHER_BLOCK),
    )
    below = jnp.where(best < neg_iou, 0, -1)
    assigned = jnp.where(matched < 0, -matched, jnp.where(best >= pos_iou, matched, below))
    return jnp.where(allowed, jnp.where(box_mask.any(), assigned, 0), -1)


def _scan(
    anchors: Array,
    boxes: Array,
    box_mask: Array,
    *,
    block: int,
    min_pos_iou: float,
    takes: bool,
    convention: BoxConvention,
) -> tuple[Array, Array]:
    """Returns each anchor's best IoU, and its match.

    The match is `k` where box `k - 1` is the anchor's best, `-k` where the anchor is the best
    of a box: of that box if it `takes` its best anchors, else of some box.
    """
    n, m = anchors.shape[0], boxes.shape[0]
    pad_n, pad_m = -n % _FAN**2, -m % block
    anchors = columns(jnp.pad(anchors, ((0, pad_n), (0, 0)), constant_values=FAR), convention)
    box_mask = jnp.pad(box_mask, (0, pad_m))
    # Far from everything, and on the other side from the anchors that are not allowed.
    boxes = jnp.where(box_mask[:, None], jnp.pad(boxes, ((0, pad_m), (0, 0))), -FAR)
    boxes = columns(boxes, convention)
    end = jnp.max(jnp.where(box_mask, jnp.arange(1, m + pad_m + 1), 0))

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        start, best, matched = state
        some = jax.lax.dynamic_slice_in_dim(boxes, start, block, axis=1)
        real = jax.lax.dynamic_slice_in_dim(box_mask, start, block)
        ious = iou_of_columns(some[:, :, None], anchors[:, None], convention)  # [block, N]
        top = _largest(ious)
        top = jnp.where(real & (top >= min_pos_iou), top, _NEVER)
        for i in range(block):
            number = start + i + 1
            better, forced = ious[i] > best, ious[i] == top[i]
            if takes:
                best_box = jnp.where(better & (matched >= 0), number, matched)
                matched = jnp.where(forced, -number, best_box)
            else:
                best_box = jnp.where(better, number, jnp.abs(matched))
                matched = jnp.where(forced | (matched < 0), -best_box, best_box)
            best = jnp.maximum(best, ious[i])
        return start + block, best, matched

    # Zeros made from the data vary over devices as the data do, which `shard_map` asks of a
    # loop's state.
    zeros = jnp.zeros_like(anchors[0])
    state = (jnp.int32(0), zeros, zeros.astype(jnp.int32) + (0 if takes else 1))
    _, best, matched = jax.lax.while_loop(lambda state: state[0] < end, step, state)
    return best[:n], matched[:n]


def _largest(values: Float[Array, "k n"]) -> Float[Array, " k"]:
    """Returns row maxima of non-negative floats; n is a multiple of `_FAN ** 2`.

    Written so that it is fast on a CPU, where `max(axis=1)` takes three times as long as the
    IoUs themselves: non-negative floats compare as their bits do, and integers need no care
    for NaN; columns are reduced first, `_FAN` at a time, because longer reductions are
    rewritten into windows that are not vectorised.
    """
    bits = jax.lax.bitcast_convert_type(values, jnp.int32)
    for _ in range(2):
        bits = bits.reshape(bits.shape[0], _FAN, -1).max(axis=1)
    return jax.lax.bitcast_convert_type(bits.max(axis=1), jnp.float32)
