"""Parity of every architecture's features, scores and deltas with the reference's."""

import dataclasses

import jax
import numpy as np
import pytest
from zoo_cases import CASES, SMALL, config_of, detector_of, forward_batch, params_of, shapes_of

from jaxdet.detectors.rpn import build_network
from jaxdet.models.params import merge_params, split_params

# Convolutions sum up to 4608 float32 products in another order than PyTorch, over a hundred
# layers: seen are 1e-5 of a level's standard deviation; the bound is ten times that.
TOLERANCE = 1e-4


@pytest.mark.slow  # the proposals that come of it are a default test
@pytest.mark.parametrize("case", CASES)
def test_forward_matches_reference(case, golden):
    expected = golden(f"forward_{case}")
    model = build_network(config_of(case).model)
    images = forward_batch(expected).images

    @jax.jit
    def run(params, images):
        def apply(method, *args):
            return model.apply({"params": params}, *args, method=method)

        return apply("normalize", *images[:2]), apply("features", images), apply(None, images)

    normalized, (stages, levels), outputs = run(params_of(case), images)
    got = np.asarray(normalized[0]).ravel()[expected["input_idx"]]
    np.testing.assert_array_equal(got, expected["input_val"])  # bit for bit
    if model.neck is None:
        stages = stages[-1:]
    for name, arrays in [
        ("backbone", stages),
        ("neck", levels),
        ("cls", outputs.logits),
        ("reg", outputs.deltas),
    ]:
        for i, array in enumerate(arrays):
            assert array.shape[1:] == tuple(expected[f"{name}{i}_shape"])
            values = np.asarray(array[0]).ravel()[expected[f"{name}{i}_idx"]]
            error = np.abs(values - expected[f"{name}{i}_val"]).max() / expected[f"{name}{i}_std"]
            assert error < TOLERANCE, f"{name}{i}"


def test_split_and_merge_are_inverse():
    config = dataclasses.replace(SMALL, frozen_stages=1)
    params = shapes_of(config)
    trainable, frozen = split_params(params, detector_of(config).trainable)
    assert "conv1" not in trainable["backbone"]
    assert "layer1_0" not in trainable["backbone"]
    merged = merge_params(trainable, frozen)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b, merged, params))
