"""Greedy non-maximum suppression as one XLA program, exact and bounded in memory.

Candidates come in blocks, best first.  A block is compared with the list of boxes kept so far,
a chunk at a time, then resolved within itself, and what it keeps is appended to the list.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxdet.ops.boxes import FAR, MMDET1, BoxConvention, columns, iou_of_columns
from jaxdet.ops.platforms import platform_dependent

# Candidates per block and kept boxes per chunk.  A CPU wants the tables in its cache; a GPU
# wants few, large steps, and 2048 takes a pyramid level (2000 candidates) at once.
_CPU = (128, 512)
_OTHER = (2048, 2048)


def nms(
    boxes: Float[Array, "n 4"],
    valid: Bool[Array, " n"],
    threshold: float | Float[Array, ""],
    convention: BoxConvention = MMDET1,
    *,
    labels: Int[Array, " n"] | None = None,
    limit: int | None = None,
    scores: Float[Array, " n"] | None = None,
) -> Bool[Array, " n"]:
    """Returns which boxes greedy suppression keeps.

    The same set as going through the boxes in order and dropping each whose IoU with a box
    already kept is above `threshold` (strictly, in float32, as the reference).  Boxes come in
    descending order of score, or in any with their `scores`, without NaN; those that are not
    `valid` neither suppress nor are kept, and those of different `labels` do not suppress one
    another.  From `limit` kept boxes on, those of the block at hand are the last: the first `limit`
    are right, and work ends early, as it does with the last valid box.

    Work is O(n * kept) IoUs, plus O(n * block) for each round that a block needs to settle: as
    many as its longest chain of boxes that suppress one another (1 to 6 on clustered proposals),
    at worst `block`.  Memory is O(n + block * chunk): on a CPU blocks of 128 and chunks of 512,
    elsewhere 2048 and 2048; up to a chunk's number of boxes are one block.  `jax.vmap` over
    images or levels costs no more than a loop over them.

    Examples:
        >>> boxes = jnp.array([[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 29, 29]])
        >>> nms(boxes, jnp.array([True, True, True]), 0.7).tolist()
        [True, False, True]
        >>> nms(boxes, jnp.array([True] * 3), 0.7, scores=jnp.array([0.1, 0.9, 0.2])).tolist()
        [False, True, True]
    """
    if boxes.shape[0] == 0:
        return valid
    if scores is not None:
        order = jnp.argsort(-scores, stable=True)
        given = None if labels is None else labels[order]
        keep = nms(boxes[order], valid[order], threshold, convention, labels=given, limit=limit)
        return jnp.zeros_like(keep).at[order].set(keep)
    boxes = jax.lax.stop_gradient(boxes)  # a choice has none, nor has a loop
    suppress = partial(_nms, threshold=threshold, convention=convention, limit=limit)
    plain = partial(suppress, sizes=boxes.shape[:1] * 2)  # one block
    if limit is not None:
        plain = partial(_box_after_box, threshold=threshold, convention=convention, limit=limit)
    return platform_dependent(
        boxes,
        valid,
        labels,
        cpu=partial(suppress, sizes=_CPU),
        default=partial(suppress, sizes=_OTHER),
        plain=plain,
    )


def _nms(
    boxes: Array,
    valid: Array,
    labels: Array | None = None,
    *,
    threshold: float | Array,
    sizes: tuple[int, int],
    convention: BoxConvention = MMDET1,
    limit: int | None = None,
) -> Array:
    n = boxes.shape[0]
    block, chunk = sizes
    if n <= chunk:  # as large a table as a chunk's at most, and no list to keep
        block = -(-n // 32) * 32
    blocks = -(-n // block)
    candidates = columns(jnp.pad(boxes, ((0, blocks * block - n), (0, 0))), convention)
    valid = jnp.pad(valid, (0, blocks * block - n))
    nowhere = columns(jnp.full((1, 4), FAR), convention)
    suppresses = partial(_suppresses, threshold=threshold, convention=convention)
    if labels is not None:  # a sixth row; exact in float32
        row = jnp.pad(labels.astype(jnp.float32), (0, blocks * block - n))
        candidates = jnp.concatenate([candidates, row[None]])
        nowhere = jnp.pad(nowhere, ((0, 1), (0, 0)))
    if blocks == 1:
        return _resolve(candidates, valid, suppresses)[:n]
    room = -(-blocks * block // chunk) * chunk  # chunks are read whole
    # The state is made from the data so that it varies over devices as they do, which
    # `shard_map` asks of a loop.
    kept = jnp.zeros_like(candidates, shape=(nowhere.shape[0], room)) + nowhere
    state = (kept, jnp.zeros_like(valid, shape=(), dtype=jnp.int32), jnp.zeros_like(valid))

    def step(index: Int[Array, ""], state: tuple[Array, Array, Array]):
        kept, count, keep = state
        start = index * block
        current = jax.lax.dynamic_slice_in_dim(candidates, start, block, axis=1)
        alive = jax.lax.dynamic_slice_in_dim(valid, start, block)
        alive = _survivors(current, alive, kept, count, chunk, suppresses)
        alive = _resolve(current, alive, suppresses)
        order = jnp.argsort(~alive, stable=True)
        # What follows the kept ones is far away; the next append overwrites it.
        new = jnp.where(alive[order][None], current[:, order], nowhere)
        kept = jax.lax.dynamic_update_slice(kept, new, (0, count))
        keep = jax.lax.dynamic_update_slice(keep, alive, (start,))
        return kept, count + alive.sum(dtype=jnp.int32), keep

    if limit is None:
        return jax.lax.fori_loop(0, blocks, step, state)[2][:n]
    end = jnp.where(valid, jnp.arange(1, blocks * block + 1), 0).max()
    _, (_, _, keep) = jax.lax.while_loop(
        lambda loop: (loop[0] * block < end) & (loop[1][1] < limit),
        lambda loop: (loop[0] + 1, step(*loop)),
        (jnp.zeros_like(end), state),
    )
    return keep[:n]


def _box_after_box(
    boxes: Array,
    valid: Array,
    labels: Array | None = None,
    *,
    threshold: float | Array,
    convention: BoxConvention,
    limit: int,
) -> Array:
    """Returns the first `limit` boxes that greedy suppression keeps, one in each round.

    For other compilers: nothing is sliced, and the rounds are as many for every image.
    """
    candidates = columns(boxes, convention)
    if labels is not None:
        candidates = jnp.concatenate([candidates, labels.astype(jnp.float32)[None]])
    n = boxes.shape[0]
    index = jnp.arange(n)

    def step(_: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        alive, keep = state
        best = alive & (index == jnp.where(alive, index, n).min())
        box = jnp.where(best[None], candidates, 0).sum(axis=1, keepdims=True)
        hits = _suppresses(box, candidates, threshold=threshold, convention=convention)[0]
        return alive & ~best & ~hits, keep | best

    return jax.lax.fori_loop(0, min(limit, n), step, (valid, jnp.zeros_like(valid)))[1]


def _suppresses(
    a: Array, b: Array, *, threshold: float | Array, convention: BoxConvention
) -> Array:
    """Returns which boxes by column of `a` suppress which of `b`: bool [a, b].

    A sixth row holds labels, which must be equal.
    """
    hits = iou_of_columns(a[:5, :, None], b[:5, None], convention) > threshold
    return hits & (a[5][:, None] == b[5][None]) if a.shape[0] > 5 else hits


def _survivors(
    current: Array, alive: Array, kept: Array, count: Array, chunk: int, suppresses: Callable
) -> Array:
    """Returns those of `alive` that none of the first `count` columns of `kept` suppresses."""

    def step(state: tuple[Array, Array]) -> tuple[Array, Array]:
        start, alive = state
        some = jax.lax.dynamic_slice_in_dim(kept, start, chunk, axis=1)
        # Candidates along the last axis: a reduction over the first one is vectorised.
        return start + chunk, alive & ~suppresses(some, current).any(axis=0)

    return jax.lax.while_loop(lambda state: state[0] < count, step, (jnp.int32(0), alive))[1]


def _resolve(current: Array, alive: Array, suppresses: Callable) -> Array:
    """Returns what greedy suppression keeps of one block, by iteration to the fixed point.

    `keep[i] = alive[i] and no kept j < i suppresses i` determines keep[0], then keep[1], and so
    on: it has one solution, the greedy one, and each round settles at least one more box.
    """
    index = jnp.arange(alive.shape[0])
    hits = suppresses(current, current) & (index[:, None] < index[None, :])  # [j, i]

    def step(state: tuple[Array, Array]) -> tuple[Array, Array]:
        keep, _ = state  # numbers: batched, a loop chooses, and ONNX Runtime not between bools
        new = alive & ~(hits & (keep > 0)[:, None]).any(axis=0)
        return new.astype(jnp.int32), (new != keep).any().astype(jnp.int32)

    first = step((alive.astype(jnp.int32), jnp.int32(0)))
    return jax.lax.while_loop(lambda state: state[1] > 0, step, first)[0] > 0
