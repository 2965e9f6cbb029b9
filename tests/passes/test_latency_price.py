"""The latency table: measured once, monotone, and only what may be faster is offered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from graph.onnx_text import floats, model
from lissom import pipeline
from lissom.canonical import canonicalise
from lissom.graph.layers import Layer, geometry_of
from lissom.kinds import menu as make_menu
from lissom.lowrank import propose
from lissom.lowrank.apply import emit_random
from lissom.options import Menu
from lissom.price import latency as price
from lissom.price.cache import Cache
from lissom.price.chain import chain
from lissom.price.latency import LatencyTable
from lissom.sparse import apply as sparse_surgery
from lissom.sparse import propose as sparse_options
from lissom_runtime.latency import Samples
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.session import open_session

pytestmark = pytest.mark.ort

EMIT = {propose.KIND: emit_random}

TEXT = (
    "net (float[1, 16, 12, 12] x) => (float[1, 32, H, W] y) { y = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w) }"
)


@pytest.fixture(scope="module")
def layer() -> Layer:
    canonical = canonicalise(model(TEXT, w=floats(0, 32, 16, 3, 3)), {"x": floats(1, 1, 16, 12, 12)})
    return canonical.layers[0]


@pytest.fixture
def menu(layer: Layer) -> Menu:
    ladders = propose.ladders(layer.name, layer.weight, layer.geometry, "frobenius", (0, 1, 2, 3), ("input", "output"))
    return make_menu(layer.name, layer.weight, layer.geometry, "frobenius", ladders)


class Clock:
    """Stands for the measurement: latency by multiply-accumulates, with a fixed wobble."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, wobble: float = 0.0) -> None:
        self.networks = 0
        self._rng = np.random.default_rng(0)
        self._wobble = wobble
        monkeypatch.setattr(price, "compare_many", self)
        monkeypatch.setattr(price, "open_session", lambda content, _: len(content))

    def __call__(self, runs: Sequence[tuple[Any, Any]], schedule: object) -> list[Samples]:
        self.networks += len(runs)
        times = [100.0 + size * 0.01 * (1 + self._wobble * self._rng.random()) for size, _ in runs]
        return [Samples(np.array([us, us]), 1, 1.0) for us in times]


def table(tmp_path: Path, block: int = 8) -> LatencyTable:
    return LatencyTable(ProviderRequest(), {"cpu": "a test"}, block, EMIT, Cache(tmp_path))


def test_only_block_multiples_that_do_less_work_are_priced(
    tmp_path: Path, layer: Layer, menu: Menu, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch)
    priced = table(tmp_path).price(layer, menu)
    assert priced.ladders
    for ladder in priced.ladders:
        assert (ladder.steps % 8 == 0).all()
        assert (ladder.macs < layer.geometry.macs).all()
        sliced = 16 if ladder.parameters["side"] == "input" else 32
        assert ladder.parameters["groups"] == 1 or sliced // int(ladder.parameters["groups"]) % 8 == 0


def test_latency_never_falls_along_a_ladder_and_stays_below_dense(
    tmp_path: Path, layer: Layer, menu: Menu, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch, wobble=0.5)
    priced = table(tmp_path).price(layer, menu)
    dense = priced.dense.cost.get("latency_us")
    assert priced.ladders
    for ladder in priced.ladders:
        curve = ladder.cost("latency_us")
        assert (np.diff(curve) >= 0).all()
        assert (curve < dense).all()


def test_a_second_table_on_the_same_cache_measures_nothing(
    tmp_path: Path, layer: Layer, menu: Menu, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, wobble=0.5)
    first = table(tmp_path).price(layer, menu)
    measured = clock.networks
    second = table(tmp_path).price(layer, menu)
    assert measured > 0
    assert clock.networks == measured
    assert [list(a.cost("latency_us")) for a in first.ladders] == [list(b.cost("latency_us")) for b in second.ladders]


def test_another_processor_or_provider_is_measured_again(
    tmp_path: Path, layer: Layer, menu: Menu, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    table(tmp_path).price(layer, menu)
    measured = clock.networks
    other = LatencyTable(ProviderRequest(threads=2), {"cpu": "a test"}, 8, EMIT, Cache(tmp_path))
    other.price(layer, menu)
    assert clock.networks == 2 * measured


def all_alike_but_the_dense_layer(monkeypatch: pytest.MonkeyPatch, slower_us: float) -> None:
    """All networks take 100 microseconds and noise; the one with the dense layer, the second, so much more."""
    monkeypatch.setattr(price, "open_session", lambda content, _: len(content))
    noise = np.random.default_rng(0)

    def compare(runs: Sequence[object], **_: object) -> list[Samples]:
        return [Samples(100 + slower_us * (place == 1) + noise.random(40), 1, 1.0) for place, _ in enumerate(runs)]

    monkeypatch.setattr(price, "compare_many", compare)


def test_what_noise_may_explain_is_not_offered_and_not_cached(
    tmp_path: Path, layer: Layer, menu: Menu, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_alike_but_the_dense_layer(monkeypatch, 0)
    assert table(tmp_path).price(layer, menu).ladders == ()
    assert not list(tmp_path.rglob("*.json"))


def test_a_candidate_too_fast_to_tell_from_nothing_counts_as_slow_as_noise_allows(
    tmp_path: Path, layer: Layer, menu: Menu, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_alike_but_the_dense_layer(monkeypatch, 200)
    priced = table(tmp_path).price(layer, menu)
    assert priced.ladders
    dense_us = priced.dense.cost.get("latency_us")
    assert all(0 < us < 0.02 * dense_us for lad in priced.ladders for us in lad.cost("latency_us"))
    assert len(list(tmp_path.rglob("*.json"))) == 1  # the dense layer's


@pytest.mark.parametrize("content", ["", "no JSON", "[]", '{"value": "fast"}', '{"value": -1}'])
def test_a_broken_cache_file_is_as_good_as_none(tmp_path: Path, content: str) -> None:
    cache = Cache(tmp_path)
    cache.put({"key": 1}, 2.5)
    assert cache.get({"key": 1}) == 2.5
    (file,) = tmp_path.rglob("*.json")
    file.write_text(content)
    assert cache.get({"key": 1}) is None


def test_a_cache_that_cannot_be_written_is_not_missed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file")
    cache.put({"key": 1}, 2.5)
    assert cache.get({"key": 1}) is None


@pytest.mark.parametrize("copies", [1, 3])
def test_a_chain_runs_and_holds_one_dense_copy_and_the_candidates(layer: Layer, copies: int) -> None:
    parameters = {"folding": 0, "side": "input", "groups": 1, "rank": 8}
    content, feeds = chain(layer, copies, lambda *where: emit_random(*where[:2], parameters, where[2]))
    session = open_session(content)
    assert session.run(None, dict(feeds))[0].shape == (1, 32, 6, 6)
    dense, _ = chain(layer, copies, None)
    assert (len(content) < len(dense)) == (copies > 1)


def test_sites_never_take_longer_than_the_whole_network(
    tmp_path: Path, layer: Layer, menu: Menu, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch)
    priced = table(tmp_path).price(layer, menu)
    dense = priced.dense.cost.get("latency_us")
    study: Any = pipeline.Study(SimpleNamespace(), SimpleNamespace(), [priced, priced], [], {})
    fitted = pipeline.fit_latency(study, dense)
    assert sum(offered.dense.cost.get("latency_us") for offered in fitted.menus) == pytest.approx(dense)
    for before, after in zip(priced.ladders, fitted.menus[0].ladders, strict=True):
        np.testing.assert_allclose(after.cost("latency_us"), before.cost("latency_us") / 2)
    assert pipeline.fit_latency(study, 2 * dense) is study


def test_a_real_measurement_gives_positive_latencies(tmp_path: Path, layer: Layer, menu: Menu) -> None:
    priced = table(tmp_path).price(layer, menu)
    assert priced.dense.cost.get("latency_us") > 0


def test_a_depthwise_layer_is_timed_in_its_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """net (float[1, 16, 12, 12] x) => (float[1, 16, 12, 12] y) {
        y = Conv <pads = [1, 1, 1, 1], group = 16> (x, w) }"""
    (node,) = model(text, w=floats(0, 16, 1, 3, 3)).graph.nodes
    weight, extents = node.inputs[1].values, (1, 16, 12, 12)
    depthwise = Layer(node.name, "Conv", node, weight, geometry_of(node, weight, extents, extents), 4)
    assert depthwise.geometry.macs == 16 * 9 * 144
    content, feeds = chain(depthwise, 2, None)
    assert open_session(content).run(None, dict(feeds))[0].shape == extents
    kept = onnx.load_from_string(content).graph.initializer
    assert [list(tensor.dims) for tensor in kept if tensor.name == "copy_1_w"] == [[16, 1, 3, 3]]
    Clock(monkeypatch)
    assert table(tmp_path).dense(depthwise) > 0
    (file,) = tmp_path.rglob("*.json")
    assert '"group": 16' in file.read_text()


def test_steps_that_count_no_channels_need_no_alignment(
    tmp_path: Path, layer: Layer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packed networks are smaller, and the clock goes by their size."""
    Clock(monkeypatch)
    (ladder,) = sparse_options.ladders(
        layer.name, layer.weight, layer.geometry, "columns", (4,), "rms", "frobenius", densities=(0.1, 0.35, 0.6)
    )
    offered = make_menu(layer.name, layer.weight, layer.geometry, "frobenius", [ladder])
    emit = {sparse_options.KIND: sparse_surgery.emit_random}
    priced = LatencyTable(ProviderRequest(), {"cpu": "a test"}, 16, emit, Cache(tmp_path)).price(layer, offered)
    assert priced.ladders[0].steps.tolist() == ladder.steps.tolist()
    assert (np.diff(priced.ladders[0].cost("latency_us")) > 0).all()


def test_no_step_is_interpolated_where_none_is_in_the_channel_block(
    tmp_path: Path, layer: Layer, menu: Menu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every fourth rank has a fast path here, and the others are slower than the layer."""

    def timed(runs: Sequence[tuple[onnx.ModelProto, Any]], schedule: object) -> list[Samples]:
        times = [100.0 + sum(work(tensor.dims) for tensor in net.graph.initializer) for net, _ in runs]
        return [Samples(np.array([us, us]), 1, 1.0) for us in times]

    def work(dims: Sequence[int]) -> float:
        return 0.01 * float(np.prod(dims)) * (1 if dims[0] % 4 == 0 else 10)

    monkeypatch.setattr(price, "compare_many", timed)
    monkeypatch.setattr(price, "open_session", lambda content, _: onnx.load_from_string(content))
    (whole,) = [
        ladder for ladder in menu.ladders if ladder.parameters["folding"] == 0 and ladder.parameters["groups"] == 1
    ]
    for steps, fast in (([1, 2, 4, 7, 9, 12, 15, 20, 23], [1, 2, 4, 12, 20]), ([7, 9, 12, 15, 20, 23], [12, 20])):
        few = whole.select(np.isin(whole.steps, steps))
        offered = make_menu(layer.name, layer.weight, layer.geometry, "frobenius", [few])
        priced = table(tmp_path).price(layer, offered)
        assert priced.ladders[0].steps.tolist() == fast
