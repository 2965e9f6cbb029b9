"""The networks that are timed hold the layer with all that goes with it, dense and lowered, and compute the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graph.onnx_text import floats, model, run
from lissom.graph.naming import name_nodes
from lissom.graph.shapes import infer_shapes
from lissom.lowering import price
from lissom.lowering.fuse import tail
from lissom.lowering.price import _lowered, chain, native, native_obstacle
from lissom.lowering.propose import propose, sources
from lissom.observe import observe_shapes
from lissom_runtime import library
from lissom_runtime.contract import DOMAIN
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
def test_dense_and_lowered_chain_compute_the_same(
    inputs: str, body: str, constants: dict[str, Any], operator: str
) -> None:
    axes = ", ".join("ABCD"[: inputs.count(",") + 1])
    loaded = model(f"net ({inputs}) => (float[{axes}] y) {{ {body} }}", **constants)
    name_nodes(loaded)
    infer_shapes(loaded)
    shape = [2 if word == "N" else int(word) for word in inputs[6:-3].split(", ")]
    shapes = observe_shapes(loaded, sources(loaded), {"x": floats(2, *shape)})
    (site,) = propose(loaded, shapes, max_density=1.0).sites
    behind = tail(loaded, site.node, len(site.weight), shapes)
    dense = chain(loaded, site, behind, 3)
    lowered = _lowered(dense, site, site.packed(), behind, 3)
    assert sum(node.op_type == operator for node in lowered.graph.node) == 3
    assert sum(node.op_type == site.node.op for node in dense.graph.node if node.name != "pre") == 4
    extents = [dim.dim_value for dim in dense.graph.input[0].type.tensor_type.shape.dim]
    feeds = {"input": floats(3, *extents)}
    np.testing.assert_allclose(run(lowered, feeds)[0], run(dense, feeds)[0], rtol=1e-4, atol=1e-4)


def test_operators_run_natively_on_the_cpu_only() -> None:
    request = ProviderRequest(("OpenVINOExecutionProvider",))
    assert native(request) is None
    assert "not of OpenVINOExecutionProvider" in str(native_obstacle(request))


def test_without_the_library_nothing_is_native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "available", lambda: False)
    assert native(ProviderRequest()) is None


def test_the_library_comes_with_models_that_use_its_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, with_library = ProviderRequest(), ProviderRequest(custom_op_libraries=(Path("library"),))
    monkeypatch.setattr(price, "native", lambda *_: with_library)
    plain = onnx.helper.make_model(onnx.GraphProto(), opset_imports=[onnx.helper.make_opsetid("", 17)])
    lowered = onnx.helper.make_model(onnx.GraphProto(), opset_imports=[onnx.helper.make_opsetid(DOMAIN, 1)])
    assert price.provider_of((plain, plain), asked) is asked
    assert price.provider_of((plain, lowered), asked) is with_library
    monkeypatch.setattr(price, "native", lambda *_: None)
    assert price.provider_of((plain, lowered), asked) is asked
