"""Masks choose channels, come and go with hysteresis, and what they mask can be removed without a difference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graph.onnx_text import floats, parse, run
from lissom.graph.load import from_proto
from lissom_runtime.errors import UsageError

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'lissom[recover]')")

from lissom.train import loop
from lissom.train.layering import layered
from lissom.train.masks import ABOVE, LIMIT, START, THRESHOLD, MaskSites, NodeMasks, find_mask_sites
from lissom.train.schedule import Schedule
from lissom.train.selecting import Selected, Stage, select_nodes
from lissom.train.torch_graph import TorchGraph
from lissom.train.tuning import Tuning, tune
from train.networks import plain, residual
from train.runs import Killed, killed_after, separable

pytestmark = pytest.mark.ort

FEEDS = {"x": floats(5, 4, 2, 6, 6)}
DATA = separable(120, (2, 6, 6), 3)
TUNING = Tuning(Schedule(2, 0.05), batch=16, held=6)


def sites_of(proto: onnx.ModelProto) -> MaskSites:
    return find_mask_sites(layered(proto, {"x": FEEDS["x"][:1]}))


def beta(masks: NodeMasks, name: str) -> Any:
    return masks.state()[f"beta {name}"]


def alpha(masks: NodeMasks, name: str) -> list[float]:
    found: list[float] = masks.state()[f"alpha {name}"].tolist()
    return found


@pytest.mark.parametrize(
    ("made", "groups"),
    [
        (plain, {"c": ("conv", 4, {"p"}), "d": ("conv", 5, {"f"}), "g": ("fc", 8, {"t"})}),
        (residual, {"c": ("conv", 6, {"r", "f"}), "d": ("conv", 5, {"e"})}),
    ],
)
def test_masks_are_on_what_layers_read_behind_activation_and_pooling_and_not_on_the_output(
    made: Callable[[], onnx.ModelProto], groups: dict[str, tuple[str, int, set[str]]]
) -> None:
    proto = made()
    for node in proto.graph.node:
        node.name = node.output[0]
    found = {site.group.name: (site.target, len(site.group), set(site.tensors)) for site in sites_of(proto).masked}
    assert found == groups


@pytest.mark.parametrize("made", [plain, residual])
def test_a_network_without_the_masked_channels_computes_what_the_masked_one_does(
    made: Callable[[], onnx.ModelProto],
) -> None:
    sites = sites_of(made())
    proto = sites.layered.model.to_proto()
    rng = np.random.default_rng(0)
    masks, graph = NodeMasks(sites.masked), TorchGraph(proto).eval()
    masks.attach(graph)
    for name, tensor in masks.state().items():
        if name.startswith("alpha"):
            gone = rng.permutation(len(tensor))[: len(tensor) // 2]
            tensor[torch.from_numpy(gone)] = 0
    with torch.no_grad():
        wanted = graph({"x": torch.from_numpy(FEEDS["x"])})["y"].numpy()
    narrow = from_proto(proto)
    sites.removed(narrow, masks.kept)
    cut = narrow.to_proto()
    np.testing.assert_allclose(run(cut, FEEDS)[0], wanted, rtol=1e-5, atol=1e-6)
    assert np.abs(run(proto, FEEDS)[0] - wanted).max() > 1e-3
    before, after = (sum(np.prod(t.dims) for t in model.graph.initializer) for model in (proto, cut))
    assert after < 0.6 * before


def test_a_mask_changes_beyond_both_thresholds_and_stays_between_them() -> None:
    masks = NodeMasks(sites_of(plain()).masked)
    (name,) = {site.group.name for site in sites_of(plain()).masked if len(site.group) == 4}
    between = (THRESHOLD + ABOVE) / 2
    for values, wanted in (
        ([START, START, THRESHOLD - 1e-4, between], [1, 1, 0, 1]),
        ([between, between, between, 0.1], [1, 1, 0, 0]),
        ([ABOVE + 1e-4, 0.1, ABOVE + 1e-4, 2.0], [1, 0, 1, 1]),
    ):
        with torch.no_grad():
            beta(masks, name).copy_(torch.tensor(values))
        masks.settle()
        assert alpha(masks, name) == wanted
    assert float(beta(masks, name).detach().max()) == pytest.approx(LIMIT)


def test_one_channel_of_every_group_stays() -> None:
    masks = NodeMasks(sites_of(plain()).masked)
    for name, tensor in masks.state().items():
        if name.startswith("beta"):
            with torch.no_grad():
                tensor.copy_(torch.linspace(0.1, 0.5, len(tensor)))
    masks.settle()
    assert [kept.tolist() for kept in masks.kept.values()] == [[3], [4], [7]]


@pytest.mark.parametrize("made", [plain, residual])
def test_the_gradient_of_a_mask_is_that_of_what_its_layers_get_times_what_they_read(
    made: Callable[[], onnx.ModelProto],
) -> None:
    sites = sites_of(made())
    masks, graph, got = NodeMasks(sites.masked), TorchGraph(sites.layered.model), {}

    def seen(layer: str) -> Callable[[Any], Any]:
        def change(x: Any) -> Any:
            got[layer] = x
            x.retain_grad()
            return x

        return change

    masks.attach(graph)
    for site in sites.masked:
        for layer in site.reads:
            graph.put_before(layer, 0, seen(layer))  # behind the mask
    graph({"x": torch.from_numpy(FEEDS["x"])})["y"].square().sum().backward()
    for site in sites.masked:
        expected = torch.zeros(len(site.group) + 1)
        for layer, read in site.reads.items():
            whole = (got[layer].grad * got[layer]).movedim(read.axis, -1).flatten(0, -2).sum(dim=0)
            expected.index_add_(0, torch.from_numpy(read.index), whole)  # α = 1: what is masked is what is read
        torch.testing.assert_close(beta(masks, site.group.name).grad, expected[:-1])


def test_masks_fall_by_strength_times_rate_and_only_those_of_the_target() -> None:
    sites = sites_of(plain())
    masks = NodeMasks(sites.masked)
    masks.strength, masks.target = 0.01, "conv"
    masks.attach(TorchGraph(sites.layered.model))
    masks.after(0, 0.5)
    for site in sites.masked:
        fallen = START - 0.005 if site.target == "conv" else START
        assert beta(masks, site.group.name).tolist() == pytest.approx([fallen] * len(site.group), abs=1e-6)
    assert len(masks.parameters()) == 2


@pytest.fixture(scope="module")
def learned() -> onnx.ModelProto:
    return tune(plain(), DATA, Tuning(Schedule(6, 0.05), batch=16, held=6)).proto


def selected(proto: onnx.ModelProto, **options: Any) -> Selected:
    stages = [Stage(0.002, TUNING, "conv"), Stage(0.004, TUNING)]
    return select_nodes(proto, **({"data": DATA, "stages": stages, "last": TUNING, "dropout": 0.2} | options))


def test_stages_remove_channels_and_the_last_training_keeps_what_was_learned(learned: onnx.ModelProto) -> None:
    found = selected(learned)
    kept = {name: len(indices) for name, indices in found.kept.items()}
    assert all(1 <= kept[name] <= width for name, width in found.widths.items())
    assert sum(kept.values()) < sum(found.widths.values())
    assert found.before.accuracy > 0.8
    assert found.after.accuracy >= found.before.accuracy - 0.1
    shapes = {tensor.name: list(tensor.dims) for tensor in found.proto.graph.initializer}
    assert [shapes["w1"][0], shapes["w2"][0], shapes["w3"][0]] == list(kept.values())


@pytest.mark.parametrize("steps", [3, 17, 30])
def test_a_killed_selection_that_is_resumed_ends_as_an_unbroken_one(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learned: onnx.ModelProto
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    with pytest.raises(Killed):
        selected(learned, folder=tmp_path, progress=killed_after(steps))
    resumed, unbroken = selected(learned, folder=tmp_path, resume=True), selected(learned)
    assert resumed.proto == unbroken.proto
    assert {name: kept.tolist() for name, kept in resumed.kept.items()} == {
        name: kept.tolist() for name, kept in unbroken.kept.items()
    }


def test_what_cannot_be_masked_is_refused() -> None:
    proto = parse("net (float[N, 4] x) => (float[N, 3] y) { y = MatMul(x, w) }", w=floats(0, 4, 3))
    with pytest.raises(UsageError, match="expected channels that can be masked"):
        select_nodes(proto, separable(40, (4,), 3), [Stage(0.1, TUNING)], TUNING)
    with pytest.raises(UsageError, match="at least one stage"):
        selected(plain(), stages=[])
    with pytest.raises(UsageError, match="sgd as the optimizer of masks, but got adamw"):
        Stage(0.1, Tuning(Schedule(1, 0.1), optimizer="adamw"))
    with pytest.raises(UsageError, match="keep the last values of a stage"):
        Stage(0.1, Tuning(Schedule(1, 0.1), keeps="best"))
    with pytest.raises(UsageError, match="strength of 0 or more"):
        Stage(-0.1, TUNING)
