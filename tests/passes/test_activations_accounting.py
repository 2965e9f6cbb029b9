"""Multiply-accumulates left: the counted ones are those of a loop, the paper's are a product."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from graph.onnx_text import floats
from hypothesis import given, settings
from hypothesis import strategies as st
from lissom.activations.accounting import account, nonzero_columns
from lissom.activations.insert import Static, insert
from lissom.graph.geometry import Geometry
from lissom.observe import sample_columns
from lissom.rewrite import replace_weight
from passes.activation_cases import PLAIN, RESIDUAL, case, examine


def sparse(seed: int, *shape: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * (rng.random(shape) < 0.4)).astype(np.float32)


@settings(max_examples=50)
@given(
    st.integers(0, 99), st.sampled_from([(3, 3), (1, 1), (2, 3)]), st.integers(1, 3), st.integers(1, 2),
    st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER"]), st.integers(0, 2),
)  # fmt: skip
def test_columns_are_counted_as_if_they_were_unfolded(
    seed: int, kernel: tuple[int, int], stride: int, dilation: int, auto_pad: str, pad: int
) -> None:
    pads = (pad, 0, 1, pad) if auto_pad == "NOTSET" else (0, 0, 0, 0)
    geometry = Geometry(4, 3, kernel, (stride, 1), (dilation, 1), pads, auto_pad)
    values = sparse(seed, 2, 3, 7, 6)
    rows = sample_columns(values, geometry, 10**6, np.random.default_rng(0))
    counts, positions = nonzero_columns(values, geometry)
    np.testing.assert_array_equal(counts, np.count_nonzero(rows, axis=0))
    assert positions == len(rows)


def test_rows_of_a_linear_layer_are_counted() -> None:
    values = sparse(0, 2, 5, 7)
    counts, positions = nonzero_columns(values, Geometry(3, 7))
    np.testing.assert_array_equal(counts, np.count_nonzero(values.reshape(10, 7), axis=0))
    assert positions == 10


@pytest.mark.ort
def test_counted_multiplications_are_those_of_a_loop() -> None:
    known = case(PLAIN)
    for layer in known.layers:
        replace_weight(layer, sparse(1, *layer.weight.shape))
    masks = {name: Static(np.array([0.7], np.float32)) for name in ("a1", "a2")}
    insert(known.model, known.sites.sites, masks, known.shapes)
    again = examine(known.model, known.feeds)
    left = account(again.model, again.layers, again.sites, [again.feeds])
    x, weight = np.pad(known.feeds["x"], [(0, 0), (0, 0), (1, 1), (1, 1)]), again.layers[0].weight
    done = sum(
        np.count_nonzero(x[n, :, i : i + 3, j : j + 3] * weight[o] != 0)
        for n, o, i, j in product(range(3), range(4), range(8), range(8))
    )
    assert left.layers[0].counted == done / (3 * 8 * 8 * weight.size)
    assert left.layers[0].macs == 3 * 8 * 8 * weight.size


@pytest.mark.ort
def test_the_papers_figure_is_weights_times_the_activations_before() -> None:
    known = case(PLAIN)
    for layer in known.layers:
        replace_weight(layer, sparse(2, *layer.weight.shape))
    again = examine(known.model, known.feeds)
    left = account(again.model, again.layers, again.sites, [again.feeds])
    first, second, last = left.layers
    assert (first.read, last.given) == (1.0, 1.0)
    assert (second.read, last.read) == (first.given, second.given)
    for layer in left.layers:
        assert layer.paper == layer.weights * layer.read
        assert 0 < layer.counted <= layer.weights
    total = sum(layer.macs for layer in left.layers)
    assert left.paper == pytest.approx(sum(layer.paper * layer.macs for layer in left.layers) / total)
    assert left.to_json()["counted"] == left.counted


@pytest.mark.ort
def test_dense_weights_and_activations_leave_everything() -> None:
    text = "net (float[N, 7] x) => (float[N, 5] y) { h = MatMul (x, m) a = Sigmoid (h) y = MatMul (a, n) }"
    known = case(text, {"x": floats(0, 4, 7)}, m=floats(1, 7, 6), n=floats(2, 6, 5))
    left = account(known.model, known.layers, known.sites, [known.feeds, known.feeds])
    assert (left.weights, left.activations, left.paper, left.counted) == (1.0, 1.0, 1.0, 1.0)


@pytest.mark.ort
def test_batches_do_not_matter() -> None:
    known = case(RESIDUAL)
    x = floats(5, 6, 3, 8, 8)
    whole = account(known.model, known.layers, known.sites, [{"x": x}])
    parts = account(known.model, known.layers, known.sites, [{"x": x[:1]}, {"x": x[1:]}])
    assert whole == parts
