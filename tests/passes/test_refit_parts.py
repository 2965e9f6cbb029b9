"""The parts of a refit: the bound for clipping activations, tails, and the stepwise run of a network."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from graph.onnx_text import floats, model, run
from hypothesis import given
from hypothesis import strategies as st
from lissom.canonical import canonicalise
from lissom.refitting.fit import RIDGES, Dense, Rows, error, fit
from lissom.refitting.tails import Tail, find_tails
from lissom.stream import Stream

Array = npt.NDArray[Any]

PLAIN = Tail("y", (), {})


LIMITS = [(0.0, np.inf), (0.0, 6.0), (-1.0, 1.0), (-np.inf, 2.0), (-np.inf, np.inf)]


@pytest.mark.parametrize(("low", "high"), LIMITS)
@given(st.lists(st.tuples(*[st.floats(-9, 9)] * 3), min_size=1))
def test_the_goal_bounds_the_error_behind_a_clip_and_meets_it_at_what_is_given(
    low: float, high: float, triples: list[tuple[float, float, float]]
) -> None:
    wanted, given_now, other = np.array(triples).T
    tail = Tail("y", (), {}, low, high)
    goal = tail.goal(wanted, given_now)
    for p in (other, given_now):
        assert ((tail.clip(wanted) - tail.clip(p)) ** 2 <= (goal - p) ** 2 + 1e-9).all()
    inside = (given_now >= low) & (given_now <= high)
    beyond = ((wanted <= low) & (given_now <= low)) | ((wanted >= high) & (given_now >= high))
    tight = inside | beyond
    seen = (tail.clip(wanted) - tail.clip(given_now)) ** 2
    np.testing.assert_allclose(((goal - given_now) ** 2)[tight], seen[tight], atol=1e-9)


def rows_of(seed: int, count: int, truth: Array, noise: float) -> Rows:
    x = 2 + floats(seed, count, truth.shape[1])
    wanted = x @ truth.T + 3 + noise * floats(seed + 1, count, len(truth))
    return Rows(x, wanted.astype(np.float32), np.zeros_like(wanted))


def test_the_bias_takes_up_the_mean_error_of_any_approximation() -> None:
    truth = floats(0, 4, 6)
    rows, held = rows_of(1, 200, truth, 0.1), rows_of(5, 50, truth, 0.1)
    found = fit(Dense(truth, np.zeros(4)), truth, PLAIN, rows, held, lambda weight, _: weight * 0.5, 0, 0.01)
    assert found.result.bias is not None
    given_now = rows.x @ found.result.weight.T + found.result.bias
    np.testing.assert_allclose((rows.wanted - given_now).mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(found.after, error(PLAIN, held, found.result))


def test_a_ridge_chosen_on_held_out_rows_is_as_good_as_any_of_those_tried() -> None:
    chosen = {}
    for noise in (0.0, 6.0):  # with fewer rows than columns, noise wants a strong pull and no noise a weak one
        truth, start = floats(0, 4, 60), floats(0, 4, 60) + np.float32(0.2) * floats(8, 4, 60)
        rows, held = rows_of(1, 50, truth, noise), rows_of(5, 400, truth, noise)
        known = Dense(start, np.zeros(4))
        errors = {ridge: fit(known, start, PLAIN, rows, held, None, 0, ridge).after for ridge in RIDGES}
        best = fit(known, start, PLAIN, rows, held, None, 0, "held-out").after
        assert best <= min(errors.values()) / 0.99
        chosen[noise] = min(errors, key=errors.__getitem__)
    assert chosen[0.0] < chosen[6.0]


# ---- tails

SUMS = """net (float[N, 2, 4, 4] x) => (float[N, 2, 4, 4] y) {
    a = Conv (x, wa)
    p = Conv (a, wp)
    b = Conv (a, wb)
    t = Add(p, b)
    r = Relu(t)
    c = Conv (r, wc)
    d = Add(shift, c)
    e = Clip(d, zero, six)
    f = Conv (e, wf)
    g = Add(f, r)
    h = Relu(g)
    i = Tanh(g)
    y = Add(h, i)
}"""


def tails_of(text: str, shape: tuple[int, ...] = (1, 2, 4, 4), **constants: Array) -> dict[str, Tail]:
    canonical = canonicalise(model(text, **constants), {"x": floats(9, *shape)})
    return find_tails(canonical.model, canonical.layers, canonical.feeds)


@pytest.mark.ort
def test_a_tail_ends_behind_the_sum_that_no_later_layer_has_a_part_in() -> None:
    weights = {name: floats(i, 2, 2, 1, 1) for i, name in enumerate(["wa", "wp", "wb", "wc", "wf"])}
    limits = {"zero": np.float32(0), "six": np.float32(6), "shift": floats(8, 2, 4, 4)}
    tails = tails_of(SUMS, **weights, **{name: np.asarray(value) for name, value in limits.items()})
    assert tails["Conv_a"] == Tail("a", (), {})  # two read it
    assert tails["Conv_p"] == Tail("p", (), {})  # b is decided later
    assert tails["Conv_b"] == Tail("t", ("p",), {}, 0.0)
    assert (tails["Conv_c"].target, tails["Conv_c"].low, tails["Conv_c"].high) == ("d", 0.0, 6.0)
    assert tails["Conv_c"].computed == []
    np.testing.assert_array_equal(tails["Conv_c"].constants["shift"], limits["shift"])
    assert tails["Conv_f"] == Tail("g", ("r",), {})  # Relu is not its only reader


@pytest.mark.ort
def test_a_sum_that_repeats_the_output_or_gives_it_out_is_no_tail() -> None:
    text = """net (float[N, 2] x) => (float[N, 3, 2] y, float[N, 2] b) {
        a = MatMul(x, w) y = Add(a, many) b = MatMul(x, v) c = Add(b, b) d = Relu(c) }"""
    tails = tails_of(text, (3, 2), w=floats(0, 2, 2), v=floats(1, 2, 2), many=floats(2, 4, 3, 2))
    assert tails == {"MatMul_a": Tail("a", (), {}), "MatMul_b": Tail("b", (), {})}


# ---- streams


@pytest.mark.ort
def test_a_network_run_in_steps_gives_what_it_gives_at_once_and_forgets_what_nobody_reads() -> None:
    weights = {name: floats(i, 2, 2, 1, 1) for i, name in enumerate(["wa", "wp", "wb", "wc", "wf"])}
    loaded = model(
        SUMS, **weights, zero=np.asarray(np.float32(0)), six=np.asarray(np.float32(6)), shift=floats(8, 2, 4, 4)
    )
    feeds = [{"x": floats(3, 2, 2, 4, 4)}, {"x": floats(4, 5, 2, 4, 4)}]
    stream = Stream(loaded.to_proto(), feeds)
    stream.advance(["t"], ["a"])
    assert set(stream.batches[0]) == {"t", "a"}
    stream.advance(["e"])
    assert set(stream.batches[1]) == {"e", "r"}
    stream.advance(["y"])
    for batch, fed in zip(stream.batches, feeds, strict=True):
        assert set(batch) == {"y"}
        np.testing.assert_allclose(batch["y"], run(loaded, fed)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.ort
def test_a_fork_goes_on_with_other_weights_and_leaves_the_original_where_it_is() -> None:
    text = "net (float[N, 3] x) => (float[N, 3] y) { a = MatMul(x, v) y = MatMul(a, w) }"
    original = model(text, v=floats(0, 3, 3), w=floats(1, 3, 3))
    changed = model(text, v=floats(5, 3, 3), w=floats(2, 3, 3))
    feeds = {"x": floats(3, 4, 3)}
    stream = Stream(original.to_proto(), [feeds])
    stream.advance(["a"])
    fork = stream.fork(changed.to_proto())
    fork.advance(["y"])
    np.testing.assert_allclose(fork.batches[0]["y"], feeds["x"] @ floats(0, 3, 3) @ floats(2, 3, 3), rtol=1e-4)
    assert set(stream.batches[0]) == {"a"}
