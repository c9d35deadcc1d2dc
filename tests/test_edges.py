"""Numbers at the edges, through targets, losses, proposals and metrics: what comes out."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import plain_numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_coco import annotated

from jaxdet.config import ModelConfig, ProposalConfig, TargetConfig
from jaxdet.detectors.proposals import propose
from jaxdet.detectors.rpn import Targets, anchor_grid, make_targets, rpn_losses
from jaxdet.inference import recall as metrics
from jaxdet.inference.single import Result
from jaxdet.models.rpn_head import Outputs
from jaxdet.ops.anchors import inside, pyramid_anchors
from jaxdet.ops.boxes import to_xywh
from jaxdet.ops.losses import binary_cross_entropy
from jaxdet.types import Batch, Images

BUCKET = (64, 96)
M = 1000
MODEL = ModelConfig(num_stages=2, anchor_scales=(2.0, 4.0))  # strides 4, 8, 16
CELLS = [(16, 24), (8, 12), (4, 6)]
ANCHORS = np.concatenate(pyramid_anchors(BUCKET, anchor_grid(MODEL)))
A = 6  # per cell


def batch_of(boxes, size=BUCKET) -> Batch:
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    padded = np.zeros((1, M, 4), np.float32)
    padded[0, : len(boxes)] = boxes
    return Batch(
        image=np.zeros((1, *BUCKET, 3), np.uint8),
        image_size=np.array([size], np.int32),
        pad_size=np.array([BUCKET], np.int32),
        scale=np.ones((1, 2), np.float32),
        boxes=padded,
        box_mask=np.arange(M)[None] < len(boxes),
        seed=np.zeros(1, np.uint32),
        index=np.zeros(1, np.int32),
    )


def outputs_of(logit=0.0, delta=0.0) -> Outputs:
    """The same number everywhere."""
    logits = [jnp.full((1, *cells, A), logit, jnp.float32) for cells in CELLS]
    return Outputs(logits, [jnp.full((1, *cells, 4 * A), delta, jnp.float32) for cells in CELLS])


@jax.jit
def targets_of(batch: Batch) -> Targets:
    return make_targets(batch, MODEL, TargetConfig())


@jax.jit
def loss_and_gradient(outputs: Outputs, targets: Targets):
    """(classification loss, box loss) and the gradient of their sum."""

    def loss(outputs):
        parts = tuple(x.sum() for x in rpn_losses(outputs, targets, TargetConfig()))
        return sum(parts), parts

    (_, parts), gradient = jax.value_and_grad(loss, has_aux=True)(outputs)
    return parts, gradient


def trained(boxes, size=BUCKET):
    """Positive and negative anchors, the two losses; everything is finite."""
    targets = targets_of(batch_of(boxes, size))
    parts, gradient = loss_and_gradient(outputs_of(), targets)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((targets, parts, gradient)))
    return np.asarray(targets.positive[0]), np.asarray(targets.negative[0]), *map(float, parts)


def test_no_box_256_negatives_and_no_box_loss():
    positive, negative, classification, box = trained([])
    assert (positive.sum(), negative.sum()) == (0, 256)
    assert box == 0
    # log 2 each, over 256 and the one positive that every image counts.
    assert classification == pytest.approx(256 * np.log(2) / 257, rel=1e-6)


ONE_BOX = {
    "an anchor": [30, 30, 45, 45],
    "the image": [0, 0, 95, 63],
    "a pixel": [50, 20, 50, 20],
    "a row": [0, 10, 95, 10],
    "a corner, what clipping leaves of a box outside": [95, 63, 95, 63],
}


@pytest.mark.parametrize("box", ONE_BOX.values(), ids=ONE_BOX)
def test_one_box_is_assigned_as_in_numpy(box):
    positive, negative, _, _ = trained([box])
    assigned = plain_numpy.match(
        ANCHORS, np.asarray(inside(jnp.asarray(ANCHORS), jnp.array(BUCKET))),
        np.array([box], np.float32), np.ones(1, bool), 0.7, 0.3, 0.3,
    )  # fmt: skip
    assert positive.sum() == min((assigned > 0).sum(), 128)
    assert not (positive & (assigned <= 0)).any()
    assert negative.sum() == 256 - positive.sum()
    assert not (negative & (assigned != 0)).any()


@pytest.mark.parametrize(
    ("size", "overlap"), [((64, 96), 0.17), ((40, 40), 0.64), ((20, 96), 0.14), ((25, 96), 0.42)]
)
def test_a_box_like_the_image_is_learnt_where_an_anchor_overlaps_it_by_three_tenths(size, overlap):
    """As with any box.  `overlap` is that of the best anchor inside the image."""
    assert bool(trained([[0, 0, size[1] - 1, size[0] - 1]], size)[0].any()) == (overlap >= 0.3)


def test_a_thousand_boxes_128_positives_and_128_negatives():
    low = np.random.default_rng(0).integers(0, (80, 48), (M, 2))
    positive, negative, _, box = trained(np.concatenate([low, low + 15], axis=1))
    assert positive.sum() == 128
    assert negative.sum() <= 128
    assert box > 0


def test_a_thousand_times_the_same_box_is_that_box():
    once, often = trained([[30, 30, 45, 45]]), trained([[30, 30, 45, 45]] * M)
    for a, b in zip(once, often, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("boxes", [[], [[0, 0, 4, 4]], [[0, 0, 4, 4]] * M])
def test_no_anchor_inside_the_image_no_loss_and_no_gradient(boxes):
    """In images of 5 x 5, whose smallest anchor has 6 x 11 pixels; N is 2 for each."""
    targets = targets_of(batch_of(boxes, (5, 5)))
    assert not targets.positive.any()
    assert not targets.negative.any()
    parts, gradient = loss_and_gradient(outputs_of(3.0, 2.0), targets)
    assert [float(x) for x in parts] == [0, 0]
    assert not any(x.any() for x in jax.tree.leaves(gradient))


def test_infinite_logits_cost_nothing_where_right_and_infinitely_much_where_wrong():
    logits = jnp.array([np.inf, -np.inf, np.inf, -np.inf], jnp.float32)
    target = jnp.array([True, False, False, True])
    cost = partial(binary_cross_entropy, target=target)
    np.testing.assert_array_equal(cost(logits), [0, 0, np.inf, np.inf])
    slope = jax.vmap(jax.grad(binary_cross_entropy))(logits, target)
    np.testing.assert_array_equal(slope, [0, 0, 1, -1])


@pytest.mark.parametrize("logit", [np.inf, -np.inf, 3e38, -3e38])
def test_extreme_logits_of_anchors_that_are_not_sampled_cost_nothing(logit):
    targets = targets_of(batch_of([[30, 30, 45, 45]]))
    sampled = (targets.positive | targets.negative)[0]
    flat = np.where(sampled, 0, np.float32(logit))
    parts = np.split(flat, np.cumsum([h * w * A for h, w in CELLS])[:-1])
    logits = [jnp.asarray(p.reshape(1, *c, A)) for p, c in zip(parts, CELLS, strict=True)]
    outputs = Outputs(logits, outputs_of().deltas)
    for a, b in zip(
        jax.tree.leaves(loss_and_gradient(outputs, targets)),
        jax.tree.leaves(loss_and_gradient(outputs_of(), targets)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@partial(jax.jit, static_argnames="threshold")
def proposals_of(outputs: Outputs, threshold: float = 0.7):
    config = ProposalConfig(nms_pre=500, nms_post=400, max_num=600, nms_threshold=threshold)
    size = jnp.array([[60, 90]])
    images = Images(jnp.zeros((1, *BUCKET, 3)), size, jnp.array([BUCKET]), jnp.ones((1, 2)))
    return propose(outputs, images, anchor_grid(MODEL), config)


def checked(outputs: Outputs, threshold: float = 0.7):
    """The valid proposals; all are numbers, in the image, in order."""
    found = jax.tree.map(lambda x: np.asarray(x[0]), proposals_of(outputs, threshold))
    count = int(found.valid.sum())
    assert found.valid[:count].all()
    assert (found.boxes[count:] == 0).all()
    assert (found.scores[count:] == 0).all()
    boxes, scores = found.boxes[:count], found.scores[:count]
    assert ((boxes >= 0) & (boxes <= [89, 59, 89, 59])).all()  # false for NaN
    # A box may be narrower than a pixel, as in the reference, but has some width.
    assert (boxes[:, 2:] - boxes[:, :2] + 1 > 0).all()
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (np.diff(scores) <= 0).all()
    return boxes, scores


EXTREMES = [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, 0.0, -0.0, 20.0, -200.0]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.001, 0.1, 0.5, 1.0]))
def test_any_outputs_give_boxes_in_the_image(seed, share):
    """With a share of extremes among ordinary numbers."""
    rng = np.random.default_rng(seed)

    def numbers(count):
        shape = (1, *count)
        extreme = rng.random(shape) < share
        return np.where(extreme, rng.choice(EXTREMES, shape), rng.normal(size=shape))

    logits, deltas = (
        [jnp.asarray(numbers((*cells, n * A)), jnp.float32) for cells in CELLS] for n in (1, 4)
    )
    checked(Outputs(logits, deltas))


@pytest.mark.parametrize("outputs", [outputs_of(np.nan), outputs_of(0.0, np.nan)])
def test_outputs_that_are_no_numbers_give_no_proposal(outputs):
    assert len(checked(outputs)[0]) == 0


def test_a_logit_that_is_no_number_costs_only_its_own_anchor():
    """Among the best of top-k, it would push others out."""
    outputs = outputs_of()
    some = [x.at[:, ::2].set(np.nan) for x in outputs.logits]
    without = [x.at[:, ::2].set(-np.inf) for x in outputs.logits]
    boxes, scores = checked(Outputs(some, outputs.deltas), 1.0)
    others, other_scores = checked(Outputs(without, outputs.deltas), 1.0)
    left = other_scores > 0
    np.testing.assert_array_equal(boxes, others[left])
    np.testing.assert_array_equal(scores, other_scores[left])


def test_infinite_deltas_put_every_box_into_a_corner_and_one_of_each_level_stays():
    boxes, scores = checked(outputs_of(0.0, np.inf))
    np.testing.assert_array_equal(boxes, [[89, 59, 89, 59]] * 3)
    assert (scores == 0.5).all()
    boxes, _ = checked(outputs_of(0.0, -np.inf))
    np.testing.assert_array_equal(boxes, [[0, 0, 0, 0]] * 3)


def test_identical_scores_and_nothing_suppressed_keep_as_many_as_asked_for():
    boxes, scores = checked(outputs_of(2.0), 1.0)
    assert len(boxes) == 600
    assert len(np.unique(scores)) == 1


def test_infinite_logits_everywhere_are_scores_of_one_and_zero():
    assert (checked(outputs_of(np.inf))[1] == 1).all()
    boxes, scores = checked(outputs_of(-np.inf))
    assert len(boxes) > 0
    assert (scores == 0).all()


def truth(boxes):
    xywh, no = to_xywh(np.asarray(boxes, np.float64)), np.zeros(len(boxes), bool)
    return annotated([(xywh, xywh[:, 2] * xywh[:, 3], no, no)])


def recall(boxes, proposals):
    """AR at 100, 300 and 1000 of proposals in order; both ways agree."""
    proposals = np.asarray(proposals, np.float32).reshape(-1, 4)
    scores = np.linspace(1, 0.5, len(proposals), dtype=np.float32)
    result = metrics.evaluate_proposals(truth(boxes), [Result(proposals, scores)])
    for limit in metrics.LIMITS:
        assert result[f"AR@{limit}"] == pytest.approx(result["fast"][f"AR@{limit}"])
    return [result[f"AR@{limit}"] for limit in metrics.LIMITS]


IMAGE, PIXEL = [0, 0, 639, 479], [639, 479, 639, 479]


@pytest.mark.parametrize("box", [IMAGE, PIXEL], ids=["the image", "a pixel"])
def test_recall_of_one_box(box):
    assert recall([box], [box]) == [1, 1, 1]
    assert recall([box], []) == [0, 0, 0]


def test_recall_goes_by_the_proposals_order():
    assert recall([IMAGE], [PIXEL] * 150 + [IMAGE]) == [0, 1, 1]
    assert recall([IMAGE], [PIXEL] * 299 + [IMAGE] * 2) == [0, 1, 1]


def test_recall_with_equal_scores_keeps_their_order_or_turns_it_round():
    """The COCO API keeps it, the reference's fast recall does not; of few, NumPy keeps it too."""
    boxes, proposals = np.float32([IMAGE]), np.float32([PIXEL, PIXEL, IMAGE])
    equal = np.full(3, 0.5, np.float32)
    for order, found in ((proposals, 1), (proposals[::-1], 0)):
        assert metrics.fast_recall([boxes], [Result(order, equal)], (1,)).mean() == found
    many = Result(np.float32([PIXEL] * 150 + [IMAGE]), np.full(151, 0.5, np.float32))
    recalls = metrics.coco_recall(truth([IMAGE]), [many]).recall
    assert recalls.mean(axis=1).tolist() == [0, 1, 1]


@pytest.mark.slow
def test_recall_of_a_thousand_boxes_in_one_image():
    grid = np.stack(np.meshgrid(np.arange(40), np.arange(25)), axis=-1).reshape(-1, 2) * 12
    thousand = np.concatenate([grid, grid + 9], axis=1)
    assert recall(thousand, thousand) == pytest.approx([0.1, 0.3, 1])


def test_recall_of_a_thousand_boxes_on_one_spot():
    boxes = np.tile(np.float32(IMAGE), (M, 1))
    found = metrics.fast_recall([boxes], [Result(boxes, np.ones(M, np.float32))])
    np.testing.assert_allclose(found.mean(axis=1), [0.1, 0.3, 1])
