"""Clusters of one size: exact assignment, planted subspaces found, never fewer squares captured, nothing random."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from graph.onnx_text import floats
from hypothesis import given, settings
from hypothesis import strategies as st
from lissom.clustered.clusters import balanced, bases, captured, embedded, order_of, refined, seeded


@st.composite
def clusterings(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Items[n, blocks, ambient, vectors], labels of clusters of one size, and how many."""
    clusters, size = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    shape = [draw(st.integers(1, most)) for most in (3, 6, 3)]
    items = floats(draw(st.integers(0, 99)), clusters * size, *shape).astype(np.float64)
    labels = np.random.default_rng(draw(st.integers(0, 99))).permutation(clusters * size) % clusters
    return items, labels, clusters


@settings(max_examples=40)
@given(seed=st.integers(0, 99))
def test_the_assignment_of_equal_clusters_is_the_best_of_all(seed: int) -> None:
    scores = np.random.default_rng(seed).random((6, 3))
    best = max(scores[np.arange(6), list(labels)].sum() for labels in permutations([0, 0, 1, 1, 2, 2]))
    labels = balanced(scores)
    assert sorted(labels) == [0, 0, 1, 1, 2, 2]
    assert scores[np.arange(6), labels].sum() == pytest.approx(best)


def test_clusters_that_do_not_divide_the_items_are_refused() -> None:
    with pytest.raises(ValueError, match="4 clusters do not divide 6 items"):
        balanced(np.ones((6, 4)))


@settings(max_examples=40)
@given(case=clusterings(), dim=st.integers(1, 4))
def test_bases_are_orthonormal_and_capture_what_the_singular_values_say(
    case: tuple[np.ndarray, np.ndarray, int], dim: int
) -> None:
    items, _, _ = case
    found = bases(items, dim)
    expected = 0.0
    for block, basis in enumerate(found):
        used = basis[:, np.abs(basis).sum(axis=0) > 0]
        np.testing.assert_allclose(used.T @ used, np.eye(used.shape[1]), atol=1e-8)
        wide = np.concatenate(list(items[:, block]), axis=1)
        expected += float((np.linalg.svd(wide, compute_uv=False)[:dim] ** 2).sum())
    assert captured(items, found[None]).sum() == pytest.approx(expected)


@settings(max_examples=40)
@given(case=clusterings(), dim=st.integers(1, 3))
def test_refined_clusters_are_of_one_size_and_capture_no_less(
    case: tuple[np.ndarray, np.ndarray, int], dim: int
) -> None:
    items, labels, clusters = case

    def total(given: np.ndarray) -> float:
        return sum(float(captured(items[given == n], bases(items[given == n], dim)[None]).sum()) for n in set(given))

    better, squares = refined(items, labels, clusters, dim)
    assert set(np.bincount(better)) == {len(items) // clusters}
    assert squares == pytest.approx(total(better))
    assert squares >= total(labels) * (1 - 1e-9)
    again, same = refined(items, labels, clusters, dim)
    np.testing.assert_array_equal(better, again)
    assert squares == same


@pytest.mark.parametrize("seed", range(5))
def test_planted_subspaces_are_found(seed: int) -> None:
    rng = np.random.default_rng(seed)
    wanted = rng.permutation(18) % 3
    spans = rng.standard_normal((3, 12, 2))
    items = np.stack([spans[n] @ rng.standard_normal((2, 4)) for n in wanted])[:, None]
    found, squares = refined(items, seeded(embedded(items, 3), 3), 3, 2)
    assert squares == pytest.approx((items**2).sum())
    assert len({(a, b) for a, b in zip(wanted, found, strict=True)}) == 3


def test_seeds_of_points_do_not_depend_on_their_sign_or_length() -> None:
    points = floats(0, 12, 3).astype(np.float64)
    labels = seeded(points, 4)
    flipped = points * np.where(np.arange(12) % 2, -1, 1)[:, None]
    np.testing.assert_array_equal(labels, seeded(flipped, 4))
    assert set(np.bincount(labels)) == {3}


def test_points_of_zeros_are_shared_out_evenly() -> None:
    assert list(np.bincount(seeded(np.zeros((6, 2)), 3))) == [2, 2, 2]


@settings(max_examples=40)
@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_the_order_of_clusters_is_a_permutation_that_moves_nothing_needlessly(labels: list[int]) -> None:
    given_labels = np.array(labels)
    order = order_of(given_labels)
    assert sorted(order) == list(range(len(labels)))
    placed = given_labels[order]
    assert (np.diff(placed) != 0).sum() == len(set(labels)) - 1, "a cluster is in one piece"
    np.testing.assert_array_equal(order_of(np.sort(given_labels)), np.arange(len(labels)))
