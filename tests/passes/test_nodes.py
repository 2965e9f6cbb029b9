"""Node pruning: scores of channel groups, refit of what reads them, and the cut."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from graph.channel_networks import Net, Value, analysed
from graph.cutting import deafen
from graph.onnx_text import floats, run
from hypothesis import given
from hypothesis import strategies as st
from lissom.graph.channels.coupling import Coupling
from lissom.graph.layers import activations, find_layers
from lissom.graph.model import Model
from lissom.nodes.apply import cut, refit, removed, survivors
from lissom.nodes.groups import ChannelGroup, find_groups
from lissom.nodes.readers import Reader, find_readers
from lissom.nodes.scores import RIDGE, Method, rank
from lissom.observe import Moment, observe_moments, observe_shapes
from lissom.verify import require_same
from lissom_runtime.errors import UsageError

METHODS: tuple[Method, ...] = ("second-order", "l1", "l2", "wanda")


@dataclass(frozen=True)
class Site:
    """A network with all that node pruning wants to know of it."""

    model: Model
    coupling: Coupling
    groups: dict[str, ChannelGroup]
    readers: dict[str, Reader]
    moments: dict[str, Moment]
    feeds: dict[str, Any]


def site(net: Net, x: Value, how: str = "Flatten", trans_b: int = 1) -> Site:
    feeds = {"image": floats(3, 16, 3, net.side, net.side)}
    model, coupling = analysed(net.classified(x, how, trans_b), feeds)
    layers = find_layers(model, observe_shapes(model, activations(model), feeds)).layers
    readers = find_readers(model, coupling, layers)
    moments = observe_moments(model, [reader.layer for reader in readers.values()], [feeds])
    groups = {group.name: group for group in find_groups(coupling).groups}
    return Site(model, coupling, groups, readers, moments, feeds)


def chain(seed: int = 0) -> Site:
    """Two convolutions and a classifier."""
    net = Net(seed, side=4)
    return site(net, net.conv(net.conv(net.image(), 6, act="relu"), 8, act="relu"))


def loss(weight: np.ndarray[Any, Any], gone: list[int], moment: np.ndarray[Any, Any]) -> float:
    """The error of the refitted survivors with the ridge's pull on them, by the normal equations."""
    left = [column for column in range(len(moment)) if column not in gone]
    pull = RIDGE * np.trace(moment) / len(moment)
    shifted = moment[np.ix_(left, left)] + pull * np.eye(len(left))
    change = weight[:, gone] @ moment[np.ix_(gone, left)] @ np.linalg.inv(shifted)
    together = np.zeros_like(weight)
    together[:, gone], together[:, left] = weight[:, gone], -change
    return float(np.trace(together @ moment @ together.T) + pull * (change**2).sum())


@pytest.mark.ort
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rounds", [64, 2])
def test_errors_are_those_of_refitted_survivors(method: Method, rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lissom.nodes.scores.ROUNDS", rounds)
    monkeypatch.setattr("lissom.nodes.scores.LAZY", 3)
    made = chain()
    group, reader = next(iter(made.groups.values())), list(made.readers.values())[1]
    ranking = rank(group, made.readers, made.moments, method)
    moment, (weight,) = made.moments[reader.name].centred(), reader.parts()
    energy = np.trace(weight @ moment @ weight.T)
    for count, error in enumerate(ranking.errors):
        gone = [9 * int(index) + tap for index in ranking.order[:count] for tap in range(9)]
        assert error == pytest.approx(loss(weight, gone, moment) / energy, rel=1e-6, abs=1e-9)
    assert sorted(ranking.order) == list(range(len(group)))


@pytest.mark.ort
@given(seed=st.integers(0, 20))
def test_the_second_order_takes_the_best_single_index_first(seed: int) -> None:
    made = chain(seed)
    for group in made.groups.values():
        greedy = rank(group, made.readers, made.moments)
        assert (np.diff(greedy.errors) >= 0).all() and greedy.errors[0] == 0
        for method in METHODS[1:]:
            assert greedy.errors[1] <= rank(group, made.readers, made.moments, method).errors[1] + 1e-12


@pytest.mark.ort
def test_a_channel_that_another_one_repeats_is_removed_for_nothing() -> None:
    made = chain()
    first, second = (node for node in made.model.graph.nodes if node.op == "Conv")
    for position in (1, 2):
        values = first.inputs[position].values.copy()
        values[4] = values[1]
        first.inputs[position].values = values
    layers = [reader.layer for reader in made.readers.values()]
    moments = observe_moments(made.model, layers, [made.feeds])
    group = made.groups[first.name]
    ranking = rank(group, made.readers, moments)
    assert ranking.order[0] in (1, 4)
    assert ranking.errors[1] < 1e-2 * rank(group, made.readers, moments, "l2").errors[-1]
    model = made.model.copy()
    kept = {group.name: np.setdiff1d(np.arange(len(group)), ranking.order[:1])}
    assert cut(model, made.coupling, list(made.groups.values()), kept, made.readers, moments) == []
    wanted = run(made.model, made.feeds)[0]
    np.testing.assert_allclose(run(model, made.feeds)[0], wanted, atol=2e-2 * np.abs(wanted).max())
    assert second.inputs[1].values.shape[1] == 6


@given(st.integers(0, 99), st.integers(1, 6))
def test_survivors_leave_the_least_error_of_all_weights_without_the_columns(seed: int, count: int) -> None:
    rows = floats(seed, 40, 8).astype(np.float64)
    moment, weight = rows.T @ rows / 40, floats(seed + 1, 3, 8).astype(np.float64)
    gone = np.random.default_rng(seed).choice(8, count, replace=False)
    found = survivors(weight, gone, moment)
    assert (found[:, gone] == 0).all()
    error = float(np.trace((weight - found) @ moment @ (weight - found).T))
    plain = weight.copy()
    plain[:, gone] = 0
    assert error <= np.trace((weight - plain) @ moment @ (weight - plain).T) + 1e-9
    left = np.setdiff1d(np.arange(8), gone)
    best = weight @ moment[:, left] @ np.linalg.inv(moment[np.ix_(left, left)])
    np.testing.assert_allclose(found[:, left], best, rtol=0.05, atol=0.05)


@pytest.mark.ort
@pytest.mark.parametrize("how", ["Flatten", "Reshape"])
@pytest.mark.parametrize("trans_b", [0, 1])
def test_a_refit_network_computes_the_same_before_and_after_its_channels_are_removed(how: str, trans_b: int) -> None:
    net = Net(side=4)
    x = net.conv(net.image(), 8)
    x = net.conv(net.squeeze_excite(net.identity_block(x), 6), 8, group=2)
    x = net.channels_last(net.enlarge(net.depthwise(x), 6))
    made = site(net, x, how, trans_b)
    groups = list(made.groups.values())
    kept = {group.name: np.arange(len(group) // 2, len(group)) for group in groups}
    gone, refusals = removed(groups, kept)
    assert refusals == [] and len(gone) == len(groups)
    fitted, compressed = made.model.copy(), made.model.copy()
    assert refit(fitted, groups, gone, made.readers, made.moments) == []
    cut(compressed, made.coupling, groups, kept, made.readers, made.moments)
    assert require_same(fitted, compressed, made.feeds, "the cut model") < 1e-5
    assert {reader.layer.op for reader in made.readers.values()} == {"Conv", "ConvTranspose", "MatMul", "Gemm"}


@pytest.mark.ort
def test_the_refit_of_every_kind_of_reader_lowers_the_error_of_the_network() -> None:
    def error(made: Site, refitted: bool) -> float:
        groups, model = list(made.groups.values()), made.model.copy()
        kept = {g.name: np.sort(rank(g, made.readers, made.moments).order[len(g) // 3 :]) for g in groups}
        cut(model, made.coupling, groups, kept, *((made.readers, made.moments) if refitted else ()))
        wanted = run(made.model, made.feeds)[0]
        return float(((run(model, made.feeds)[0] - wanted) ** 2).sum() / (wanted**2).sum())

    def networks() -> list[Site]:
        grouped, enlarged, last = Net(1, 4), Net(2, 4), Net(3, 4)
        return [
            chain(),
            site(grouped, grouped.conv(grouped.conv(grouped.image(), 12), 12, group=2)),
            site(enlarged, enlarged.enlarge(enlarged.conv(enlarged.image(), 12), 6)),
            site(last, last.channels_last(last.conv(last.image(), 12))),
        ]

    for made in networks():
        assert error(made, refitted=True) < error(made, refitted=False)


@pytest.mark.ort
def test_a_mean_that_goes_is_taken_up_by_the_bias() -> None:
    made = chain()
    reader = list(made.readers.values())[1]
    group = next(iter(made.groups.values()))
    flat = replace(made.moments[reader.name], scatter=np.zeros((54, 54)))
    model = made.model.copy()
    refit(model, [group], {group.name: np.arange(3)}, made.readers, {reader.name: flat})
    node = next(node for node in model.graph.nodes if node.name == reader.name)
    (weight,) = reader.parts()
    np.testing.assert_allclose(node.inputs[2].values, reader.bias() + weight[:, :27] @ flat.mean[:27], rtol=1e-5)


@pytest.mark.ort
def test_without_moments_the_survivors_stay_as_they_are() -> None:
    made = chain()
    group = next(iter(made.groups.values()))
    model, expected = made.model.copy(), made.model.copy()
    deafen(expected, made.coupling, group.roots[:2])
    assert cut(model, made.coupling, [group], {group.name: np.arange(2, 6)}) == []
    np.testing.assert_array_equal(run(model, made.feeds)[0], run(expected, made.feeds)[0])


@pytest.mark.ort
def test_norms_need_no_data_and_other_methods_say_that_they_do() -> None:
    made = chain()
    group = next(iter(made.groups.values()))
    ranking = rank(group, made.readers, {}, "l1")
    weight = next(iter(made.readers.values())).layer.weight
    assert ranking.order.tolist() == np.argsort(np.abs(weight).sum(axis=(1, 2, 3)), kind="stable").tolist()
    for method in ("second-order", "wanda"):
        with pytest.raises(UsageError, match="expected a moment of the input of every layer"):
            rank(group, made.readers, {}, method)


@pytest.mark.ort
def test_a_layer_without_a_moment_is_cut_and_said_not_to_be_refitted() -> None:
    made = chain()
    group = next(iter(made.groups.values()))
    (refusal,) = cut(made.model, made.coupling, [group], {group.name: np.arange(4)}, made.readers, {})
    assert refusal.site == list(made.readers)[1] and "no moment of its input" in refusal.reason
    assert run(made.model, made.feeds)[0].shape == (16, 5)


@pytest.mark.ort
def test_a_group_whose_channels_would_all_go_is_declined_and_stays() -> None:
    made = chain()
    group = next(iter(made.groups.values()))
    before = made.model.to_proto().SerializeToString()
    (refusal,) = cut(made.model, made.coupling, [group], {group.name: np.zeros(0, np.int64)})
    assert refusal.reason == "all its 6 channels would go; expected at least 1 to stay"
    assert made.model.to_proto().SerializeToString() == before


@pytest.mark.parametrize(
    ("kept", "sentence"), [([0, 0], "distinct indices"), ([6], "distinct indices"), ([-1], "of the 6")]
)
@pytest.mark.ort
def test_indices_that_are_not_there_are_an_error(kept: list[int], sentence: str) -> None:
    made = chain()
    group = next(iter(made.groups.values()))
    with pytest.raises(UsageError, match=sentence):
        cut(made.model, made.coupling, [group], {group.name: np.array(kept)})
    with pytest.raises(UsageError, match="expected the name of a channel group, but got 'conv99'"):
        cut(made.model, made.coupling, [group], {"conv99": np.arange(2)})


@pytest.mark.ort
def test_every_choice_of_indices_can_be_cut_and_loses_what_the_scores_say_least_for_the_best() -> None:
    made = chain(4)
    group, reader = next(iter(made.groups.values())), list(made.readers.values())[1]
    moment, (weight,) = made.moments[reader.name].centred(), reader.parts()
    ranking = rank(group, made.readers, made.moments)
    energy = np.trace(weight @ moment @ weight.T)
    every = {
        pair: loss(weight, [9 * index + tap for index in pair for tap in range(9)], moment) / energy
        for pair in combinations(range(6), 2)
    }
    assert ranking.errors[2] <= 1.3 * min(every.values())  # greedy, but not far from the best pair
