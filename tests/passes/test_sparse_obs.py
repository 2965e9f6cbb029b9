"""Second-order pruning: exact costs, the best weights on what is kept, never worse than keeping the largest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lissom.graph.geometry import Geometry
from lissom.refitting.equations import inverse_of
from lissom.sparse import choice as choices
from lissom.sparse.blocks import Blocks
from lissom.sparse.choice import Choice
from lissom.sparse.importance import own_importance, ranked
from lissom.sparse.obs import CHUNK, compensated, trace
from lissom.sparse.sweep import SPAN, prepare, sweep

DAMPING = 0.01


def weight_of(seed: int, f: int, columns: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((f, columns))


def moment_of(seed: int, columns: int, rows: int | None = None) -> np.ndarray:
    """A moment of inputs that differ in size and hang together."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows or 3 * columns, columns)) * np.exp(rng.standard_normal(columns))
    x[:, 1:] += x[:, :-1]
    return x.T @ x / len(x)


def damped(moment: np.ndarray) -> np.ndarray:
    return moment + DAMPING * np.trace(moment) / len(moment) * np.eye(len(moment))


def loss(error: np.ndarray, moment: np.ndarray) -> float:
    return float(np.trace(error @ moment @ error.T))


def best_on(weight: np.ndarray, mask: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """Least squares of each row on its support, by a solver that knows nothing of H⁻¹."""
    root = np.linalg.cholesky(moment).T
    found = np.zeros_like(weight)
    for row, support in enumerate(mask):
        found[row, support] = np.linalg.lstsq(root[:, support], root @ weight[row], rcond=None)[0]
    return found


PATTERNS = [("columns", 1), ("columns", 2), ("columns", 4), ("rows", 2), ("rows", 4), ("2:4", 1), ("1:3", 1)]


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, Blocks, np.ndarray]:
    pattern, width = draw(st.sampled_from(PATTERNS))
    f, columns = draw(st.sampled_from([1, 2, 4, 6, 8])), draw(st.integers(8, 14))
    seed = draw(st.integers(0, 99))
    blocks = Blocks.of(Geometry(f, columns), pattern, width)
    return weight_of(seed, f, columns), blocks, moment_of(seed, columns, draw(st.sampled_from([5, 40])))


@given(case=cases())
@settings(max_examples=40)
def test_the_costs_of_a_trace_are_those_of_the_best_weights_on_what_is_kept(
    case: tuple[np.ndarray, Blocks, np.ndarray],
) -> None:
    weight, blocks, moment = case
    found, h = trace(weight, blocks, moment, DAMPING), damped(moment)
    for count in range(blocks.least, blocks.count + 1):
        mask = blocks.spread(found.ranking < count)
        best = compensated(weight, mask, moment, DAMPING)
        np.testing.assert_allclose(best, best_on(weight, mask, h), atol=1e-8)
        assert loss(weight - best, h) == pytest.approx(found.losses[count], abs=1e-9 * loss(weight, h))
    assert np.isnan(found.losses[: blocks.least - 1]).all() or blocks.few is None


@given(case=cases())
@settings(max_examples=40)
def test_the_block_of_least_cost_goes_first(case: tuple[np.ndarray, Blocks, np.ndarray]) -> None:
    weight, blocks, moment = case
    found, h = trace(weight, blocks, moment, DAMPING), damped(moment)
    every = []
    for block in range(blocks.count):
        mask = blocks.spread(np.arange(blocks.count).reshape(blocks.rows, blocks.groups) != block)
        every.append(loss(weight - best_on(weight, mask, h), h))
    assert found.losses[blocks.count - 1] == pytest.approx(min(every))
    assert found.losses[blocks.count] == 0


@given(case=cases(), rival=st.sampled_from(["rms", "magnitude"]))
@settings(max_examples=60)
def test_keeping_as_many_by_obs_costs_no_more_than_by_size(
    case: tuple[np.ndarray, Blocks, np.ndarray], rival: str
) -> None:
    weight, blocks, moment = case
    h = damped(moment)
    ours, theirs = (Choice(weight, blocks, name, moment, DAMPING) for name in ("obs", rival))
    for count in {blocks.least, blocks.count // 2, blocks.count - 1} - set(range(blocks.least)):
        by_obs, by_size = (loss(weight - one.weight(count), h) for one in (ours, theirs))
        assert by_obs <= 1.02 * by_size + 1e-9  # one after another is not always the best set of them


@given(case=cases())
@settings(max_examples=40)
def test_what_obs_keeps_is_better_than_the_largest_with_least_squares_on_both(
    case: tuple[np.ndarray, Blocks, np.ndarray],
) -> None:
    weight, blocks, moment = case
    h = damped(moment)
    found, size = trace(weight, blocks, moment, DAMPING), ranked(own_importance(weight, blocks, "rms"))
    counts = range(blocks.least, blocks.count)
    largest = [loss(weight - compensated(weight, blocks.spread(size < n), moment, DAMPING), h) for n in counts]
    assert sum(found.losses[n] for n in counts) <= 1.001 * sum(largest)


@given(case=cases())
@settings(max_examples=30)
def test_the_losses_never_rise_with_what_is_kept(case: tuple[np.ndarray, Blocks, np.ndarray]) -> None:
    losses = trace(case[0], case[1], case[2], DAMPING).losses
    assert (np.diff(losses[~np.isnan(losses)]) <= 1e-12).all()


def test_more_columns_than_a_chunk_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = 2 * CHUNK + 7
    weight, moment = weight_of(0, 8, columns), moment_of(0, columns)
    for pattern, width in [("columns", 4), ("rows", 4), ("2:4", 1)]:
        blocks = Blocks.of(Geometry(8, columns), pattern, width)
        usual = trace(weight, blocks, moment, DAMPING)
        with monkeypatch.context() as context:
            context.setattr("lissom.sparse.obs.CHUNK", 10 * columns)
            context.setattr("lissom.sparse.obs.SLAB_BYTES", 1)
            other = trace(weight, blocks, moment, DAMPING)
        np.testing.assert_array_equal(usual.ranking, other.ranking)
        np.testing.assert_allclose(usual.losses, other.losses, rtol=1e-8, atol=1e-12)


def test_a_moment_of_zeros_prunes_by_size() -> None:
    weight = weight_of(0, 4, 12)
    blocks = Blocks.of(Geometry(4, 12), "columns", 4)
    found = trace(weight, blocks, np.zeros((12, 12)), DAMPING)
    order = np.argsort(np.argsort(-(weight**2).sum(axis=0)))
    np.testing.assert_array_equal(found.ranking[0], order)


def test_inputs_that_are_never_seen_cost_nothing() -> None:
    """Dead columns go first, and nothing is divided by their variance."""
    weight, moment = weight_of(0, 4, 12), moment_of(1, 12)
    moment[[3, 7]] = moment[:, [3, 7]] = 0
    found = trace(weight, Blocks.of(Geometry(4, 12), "columns", 4), moment, 1e-8)
    assert set(np.argsort(-found.ranking[0])[:2]) == {3, 7}


@given(
    seed=st.integers(0, 99),
    pattern=st.sampled_from([("columns", 4), ("columns", 1), ("rows", 2), ("2:4", 1)]),
    share=st.floats(0.05, 0.95),
)
@settings(max_examples=30)
def test_a_sweep_keeps_as_many_blocks_as_asked(seed: int, pattern: tuple[str, int], share: float) -> None:
    f, columns = 8, SPAN + 30
    blocks = Blocks.of(Geometry(f, columns), *pattern)
    weight, moment = weight_of(seed, f, columns), moment_of(seed, columns)
    count = blocks.least if blocks.few else max(1, int(share * blocks.count))
    found, kept = sweep(weight, blocks, prepare(weight, blocks, inverse_of(moment, DAMPING)), count)
    assert kept.sum() == count
    assert (found[~blocks.spread(kept)] == 0).all()
    assert np.count_nonzero(found) == blocks.weights(np.array([count]))[0]


def test_a_sweep_that_keeps_all_changes_nothing() -> None:
    blocks = Blocks.of(Geometry(8, 40), "columns", 4)
    weight = weight_of(0, 8, 40)
    found, kept = sweep(weight, blocks, prepare(weight, blocks, inverse_of(moment_of(0, 40), DAMPING)), blocks.count)
    np.testing.assert_array_equal(found, weight)
    assert kept.all()


@pytest.mark.parametrize("pattern", [("columns", 4), ("columns", 1), ("rows", 4)])
@pytest.mark.parametrize("density", [0.3, 0.6])
def test_a_sweep_costs_more_than_elimination_and_less_than_no_compensation(
    pattern: tuple[str, int], density: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the form for large layers loses: up to twice the error, where keeping the largest has up to eight times."""
    f, columns = 16, 2 * SPAN
    blocks = Blocks.of(Geometry(f, columns), *pattern)
    weight, moment = weight_of(3, f, columns), moment_of(3, columns)
    count = int(density * blocks.count)
    exact = loss(weight - Choice(weight, blocks, "obs", moment, DAMPING).weight(count), moment)
    by_size = loss(weight - Choice(weight, blocks, "rms", moment, DAMPING).weight(count), moment)
    monkeypatch.setattr(choices, "EXACT_MACS", 0.0)
    large = Choice(weight, blocks, "obs", moment, DAMPING)
    swept = loss(weight - large.weight(count), moment)
    assert exact < swept < 4.5 * exact
    assert swept < by_size / 2
    assert large.kept(count)[1] == pytest.approx(swept)


def test_obs_needs_a_moment_of_the_right_size() -> None:
    blocks = Blocks.of(Geometry(4, 8), "columns", 4)
    with pytest.raises(ValueError, match="'obs' needs the second moment"):
        Choice(weight_of(0, 4, 8), blocks, "obs", None, DAMPING)
    with pytest.raises(ValueError, match="expected a moment of shape"):
        Choice(weight_of(0, 4, 8), blocks, "obs", np.eye(7), DAMPING)


def test_equal_problems_are_solved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []

    def counted(*arguments: object) -> object:
        runs.append(1)
        return trace(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(choices, "trace", counted)
    weight, moment = weight_of(77, 4, 9), moment_of(77, 9)
    blocks = Blocks.of(Geometry(4, 9), "columns", 4)
    for problem in (weight, weight.copy(), weight + 1):
        for count in (2, 3):
            Choice(problem, blocks, "obs", moment, DAMPING).weight(count)
    Choice(weight, replace(blocks, height=2, rows=2), "obs", moment, DAMPING).kept(2)
    Choice(weight, blocks, "obs", moment, 2 * DAMPING).kept(2)
    assert len(runs) == 4
