"""The networks that are timed hold the layer with all that goes with it, dense and lowered, and compute the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graph.onnx_text import floats, model, run
from lissom.graph.model import Model
from lissom.graph.naming import name_nodes
from lissom.graph.shapes import infer_shapes
from lissom.lowering import price
from lissom.lowering.apply import apply_chain, apply_each
from lissom.lowering.chains import Link, find_chain
from lissom.lowering.fuse import Shapes, tail
from lissom.lowering.price import lowered, native, native_obstacle, network
from lissom.lowering.propose import Proposal, propose, sources
from lissom.observe import observe_shapes
from lissom_runtime import library
from lissom_runtime.contract import DOMAIN, signatures
from lissom_runtime.latency import Samples
from lissom_runtime.providers import ProviderRequest

pytestmark = pytest.mark.ort

CASES: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "convolution": (
        "float[N, 8, 6, 5] x",
        "c = Conv<pads = [1, 1, 1, 1]>(x, w, b) y = Relu(c)",
        {"w": floats(0, 8, 8, 3, 3), "b": floats(1, 8)},
        "SparseConv_bitmap_relu",
    ),
    "stem with stride": (
        "float[N, 3, 6, 5] x",
        "y = Conv<strides = [2, 2]>(x, w)",
        {"w": floats(0, 8, 3, 3, 3)},
        "SparseConv_bitmap",
    ),
    "residual": (
        "float[N, 8, 6, 5] x",
        "c = Conv(x, w, b) n = Neg(x) s = Add(n, c) g = Sigmoid(s) y = Mul(s, g)",
        {"w": floats(0, 8, 8, 1, 1), "b": floats(1, 8)},
        "SparseConv_bitmap_add_silu",
    ),
    "gemm": ("float[N, 6] x", "y = Gemm(x, w, b)", {"w": floats(0, 6, 4), "b": floats(1, 4)}, "SparseGemm_bitmap"),
    "product": (
        "float[N, 3, 6] x",
        "p = MatMul(x, w) s = Add(p, b) y = Relu(s)",
        {"w": floats(0, 6, 4), "b": floats(1, 4)},
        "SparseGemm_bitmap_relu",
    ),
}


@pytest.mark.parametrize(("inputs", "body", "constants", "operator"), CASES.values(), ids=CASES.keys())
def test_dense_and_lowered_copies_compute_the_same(
    inputs: str, body: str, constants: dict[str, Any], operator: str
) -> None:
    axes = ", ".join("ABCD"[: inputs.count(",") + 1])
    loaded = model(f"net ({inputs}) => (float[{axes}] y) {{ {body} }}", **constants)
    found, shapes = proposal(loaded, [2 if word == "N" else int(word) for word in inputs[6:-3].split(", ")])
    (site,) = found.sites
    link = Link(site, tail(loaded, site.node, len(site.weight), shapes), site.packed())
    dense = network(loaded, [link], 3)
    sparse = lowered(dense, [link], 3, apply_each)
    assert sum(node.op_type == operator for node in sparse.graph.node) == 3
    assert sum(node.op_type == site.node.op for node in dense.graph.node if node.name != "pre") == 4
    require_same(dense, sparse)


@pytest.mark.parametrize("residual", ["x", "n"])
def test_dense_and_lowered_copies_of_a_chain_compute_the_same(residual: str) -> None:
    """Whether the residual is what the chain reads, or another tensor."""
    text = (
        "net (float[N, 16, 6, 5] x) => (float[N, 16, 6, 5] y) { n = Neg(x) e = Conv(x, w, b) r = Relu(e) "
        "d = Conv<pads = [1, 1, 1, 1], group = 16>(r, v, ) c = Clip(d, , high) p = Conv(c, u) "
        f"y = Add(p, {residual}) }}"
    )
    constants = {
        "w": floats(0, 16, 16, 1, 1),
        "b": floats(1, 16),
        "v": floats(2, 16, 1, 3, 3),
        "u": floats(3, 16, 16, 1, 1),
    }
    loaded = model(text, **constants, high=np.array(6, np.float32))
    found, shapes = proposal(loaded, [2, 16, 6, 5])
    members = {id(site.node): site for site in (*found.sites, *found.depthwise)}
    chain = find_chain(loaded, found.sites[0], members, shapes)
    assert chain is not None
    dense = network(loaded, chain.links, 3)
    singly = lowered(dense, chain.links, 3, apply_each)
    whole = lowered(dense, chain.links, 3, lambda copy, links: apply_chain(copy, replace(chain, links=links)))
    for sparse, count in ((singly, 6), (whole, 3)):
        assert sum(node.domain == DOMAIN for node in sparse.graph.node) == count
        require_same(dense, sparse)
    bare = network(loaded, chain.links, 0).graph.node
    assert [node.op_type for node in bare if node.name != "pre"] == ["Conv", "Relu", "Conv", "Clip", "Conv"]


def proposal(loaded: Model, shape: list[int]) -> tuple[Proposal, Shapes]:
    """All layers of a model, whatever their density, and the shapes seen."""
    name_nodes(loaded)
    infer_shapes(loaded)
    shapes = observe_shapes(loaded, sources(loaded), {"x": floats(2, *shape)})
    return propose(loaded, shapes, max_density=1.0), shapes


def require_same(dense: onnx.ModelProto, sparse: onnx.ModelProto) -> None:
    extents = [dim.dim_value for dim in dense.graph.input[0].type.tensor_type.shape.dim]
    feeds = {"input": floats(3, *extents)}
    wanted = run(dense, feeds)[0]
    scale = float(np.abs(wanted).max())
    np.testing.assert_allclose(run(sparse, feeds)[0], wanted, rtol=1e-4, atol=1e-5 * scale)


def test_ratios_are_of_what_is_above_the_bare_segment_and_the_verdict_of_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Base 100 µs, dense 100 + 4 × 50, the two ways 100 + 4 × 25 and 100 + 4 × 75."""
    loaded = model("net (float[N, 4] x) => (float[N, 4] y) { y = Gemm(x, w) }", w=floats(0, 4, 4))
    found, shapes = proposal(loaded, [1, 4])
    (site,) = found.sites
    link = Link(site, tail(loaded, site.node, 4, shapes), site.packed())
    medians = (100.0, 300.0, 200.0, 400.0)
    samples = [Samples(us * (1 + np.linspace(-0.005, 0.005, 40)), 1, 1.0) for us in medians]
    monkeypatch.setattr(price, "compare_many", lambda *_, **__: samples)
    monkeypatch.setattr(price, "_copies", lambda *_: 4)
    speeds = price.measure(loaded, [link], [apply_each, apply_each], ProviderRequest())
    assert [(speed.dense_us, speed.ratio, speed.verdict) for speed in speeds] == [
        (pytest.approx(50), pytest.approx(0.5), "faster"),
        (pytest.approx(50), pytest.approx(1.5), "slower"),
    ]


def test_operators_run_natively_on_the_cpu_only() -> None:
    request = ProviderRequest(("OpenVINOExecutionProvider",))
    assert native(request) is None
    assert "not of OpenVINOExecutionProvider" in str(native_obstacle(request))


def test_without_the_library_nothing_is_native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "available", lambda: False)
    assert native(ProviderRequest()) is None


@pytest.mark.native
@pytest.mark.skipif(not library.available(), reason=library.describe())
def test_the_library_tells_which_operators_it_has() -> None:
    assert price.operators() >= {signature.name for signature in signatures()}


def test_the_library_comes_with_models_that_use_its_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, with_library = ProviderRequest(), ProviderRequest(custom_op_libraries=(Path("library"),))
    monkeypatch.setattr(price, "native", lambda *_: with_library)
    plain = onnx.helper.make_model(onnx.GraphProto(), opset_imports=[onnx.helper.make_opsetid("", 17)])
    lowered = onnx.helper.make_model(onnx.GraphProto(), opset_imports=[onnx.helper.make_opsetid(DOMAIN, 1)])
    assert price.provider_of((plain, plain), asked) is asked
    assert price.provider_of((plain, lowered), asked) is with_library
    monkeypatch.setattr(price, "native", lambda *_: None)
    assert price.provider_of((plain, lowered), asked) is asked
