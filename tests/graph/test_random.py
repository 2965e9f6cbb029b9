"""Random outputs are known as such: nothing can be proven of them, and all of the others."""

from __future__ import annotations

import numpy as np
import pytest
from graph.onnx_text import model
from lissom.canonical import canonicalise
from lissom.graph.random import random_outputs
from lissom_runtime.errors import UsageError

DRAW = "r = RandomNormal <shape = [2]> ()"
BRANCHES = (
    "{before} y = If (yes) <then_branch = g () => (float[2] a) {{ {inside} a = Add(x, r) }},"
    " else_branch = h () => (float[2] b) {{ b = Relu(x) }}> z = Relu(x)"
)


@pytest.mark.parametrize(
    ("body", "random"),
    [
        (f"{DRAW} y = Add(x, r) z = Relu(x)", {"y"}),
        (f"{DRAW} t = Add(x, r) y = Relu(t) z = Neg(t)", {"y", "z"}),
        ("r = RandomNormal <shape = [2], seed = 1.0> () y = Add(x, r) z = Relu(x)", set()),
        ("p = Sigmoid(x) y = Bernoulli(p) z = Relu(x)", {"y"}),
        ("y = Dropout(x) z = Relu(x)", set()),
        ("y = Dropout(x, half, no) z = Relu(x)", set()),
        ("y = Dropout(x, half, yes) z = Relu(x)", {"y"}),
        ("y = Dropout <seed = 1> (x, half, yes) z = Relu(x)", set()),
        ("s = ReduceSum(x) b = Cast <to = 9> (s) y = Dropout(x, half, b) z = Relu(x)", {"y"}),
        (BRANCHES.format(before=DRAW, inside=""), {"y"}),
        (BRANCHES.format(before="", inside=DRAW), {"y"}),
    ],
)
def test_an_output_is_random_exactly_if_unseeded_draws_reach_it(body: str, random: set[str]) -> None:
    constants = {"half": np.array(0.5, np.float32), "yes": np.array(True), "no": np.array(False)}
    loaded = model(f"net (float[2] x) => (float[2] y, float[2] z) {{ {body} }}", **constants)
    assert set(random_outputs(loaded)) == random


@pytest.mark.ort
def test_a_model_whose_rewrite_draws_other_numbers_is_declined_by_the_node_that_draws() -> None:
    # ONNX Runtime seeds a generator by its place in the graph, which folding the node before it moves.
    body = f"c = Neg(k) {DRAW} t = Add(c, r) y = Add(x, t)"
    text = f"net (float[2] x) => (float[2] y) {{ {body} }}"
    with pytest.raises(UsageError, match=r"'y' depends on the random numbers of node 'r'"):
        canonicalise(model(text, k=np.ones(2, np.float32)), {"x": np.zeros(2, np.float32)})


@pytest.mark.ort
def test_a_random_node_that_no_output_reads_does_no_harm() -> None:
    loaded = model(f"net (float[2] x) => (float[2] y) {{ {DRAW} y = Relu(x) }}")
    assert canonicalise(loaded, {"x": np.zeros(2, np.float32)}).totals.params == 0
