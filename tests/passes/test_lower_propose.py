"""Sparse layers are found; each that is declined is declined by name, with the reason."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from graph.onnx_text import floats, model, parse, run
from lissom.graph.load import from_proto
from lissom.graph.model import Model
from lissom.graph.shapes import infer_shapes
from lissom.lowering.apply import apply
from lissom.lowering.fuse import tail
from lissom.lowering.propose import Proposal, propose, sources
from lissom.observe import observe_shapes

pytestmark = pytest.mark.ort

CONV = "net (float[N, {c}, {h}, 9] x) => (float[N, 8, H, W] y) {{ y = Conv <{attributes}> (x, w, b) }}"


def sparse(*shape: int) -> npt.NDArray[np.float32]:
    weight = floats(0, *shape)
    weight[np.random.default_rng(0).random(shape) < 0.8] = 0
    return weight


def proposal(loaded: Model, feeds: dict[str, Any], **settings: Any) -> Proposal:
    infer_shapes(loaded)
    return propose(loaded, observe_shapes(loaded, sources(loaded), feeds), **settings)


def conv(attributes: str = "group = 1", group: int = 1, height: str = "7", weight: Any = None) -> Model:
    weight = sparse(8, 4 // group, 3, 3) if weight is None else weight
    return model(CONV.format(c=weight.shape[1] * group, h=height, attributes=attributes), w=weight, b=floats(1, 8))


def negative_extents() -> Model:
    """A convolution whose pads depend on extents that the file gives as -1, which ONNX Runtime takes for free ones."""
    proto = parse(
        CONV.format(c=4, h=7, attributes='auto_pad = "SAME_UPPER", strides = [2, 2]'),
        w=sparse(8, 4, 3, 3),
        b=floats(1, 8),
    )
    for dimension in proto.graph.input[0].type.tensor_type.shape.dim[2:]:
        dimension.dim_value = -1
    return from_proto(proto)


def require_exact(loaded: Model, shape: tuple[int, ...]) -> None:
    """All layers of a copy are lowered; it computes the same, at another batch too."""
    edited = loaded.copy()
    infer_shapes(edited)
    shapes = observe_shapes(edited, sources(edited), {"x": floats(2, *shape)})
    sites = propose(edited, shapes, max_density=1.0).sites
    assert len(sites) == 1
    apply(edited, sites[0], sites[0].packed(), tail(edited, sites[0].node, len(sites[0].weight), shapes))
    proto = edited.to_proto()
    onnx.checker.check_model(proto, full_check=True)
    feeds = {"x": floats(3, shape[0] + 1, *shape[1:])}
    np.testing.assert_allclose(run(proto, feeds)[0], run(loaded, feeds)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "attributes",
    [
        "pads = [1, 1, 1, 1]",
        "strides = [2, 3], pads = [1, 0, 1, 2]",
        "dilations = [2, 1]",
        'auto_pad = "SAME_UPPER", strides = [2, 2]',
        'auto_pad = "SAME_LOWER", strides = [2, 1]',
        'auto_pad = "VALID"',
    ],
)
def test_a_convolution_is_lowered_exactly(attributes: str) -> None:
    require_exact(conv(attributes), (1, 4, 7, 9))


def test_a_grouped_convolution_is_lowered_exactly() -> None:
    require_exact(conv("group = 2", group=2), (1, 4, 7, 9))


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("bias", [(6,), (1, 6), (), None])
def test_a_gemm_is_lowered_exactly(trans_b: int, bias: tuple[int, ...] | None) -> None:
    operands = "x, w" if bias is None else "x, w, b"
    gemm = f"Gemm<transB = {trans_b}, alpha = 0.5, beta = 2.0>({operands})"
    text = f"net (float[N, 5] x) => (float[N, 6] y) {{ y = {gemm} }}"
    constants = {"w": floats(0, 6, 5) if trans_b else floats(0, 5, 6)}
    require_exact(model(text, **constants, **({} if bias is None else {"b": floats(1, *bias)})), (2, 5))


def test_pads_that_do_not_depend_on_a_free_size_are_resolved() -> None:
    require_exact(conv('auto_pad = "SAME_UPPER"', height="H"), (1, 4, 7, 9))


@pytest.mark.parametrize(
    ("loaded", "shape", "reason"),
    [
        (conv('auto_pad = "SAME_UPPER", strides = [2, 2]', height="H"), (1, 4, 7, 9), "which is not fixed"),
        (conv("group = 8", 8, weight=sparse(8, 1, 3, 3)), (1, 8, 7, 9), "depthwise"),
        (conv(weight=floats(0, 8, 4, 3, 3)), (1, 4, 7, 9), r"1\.00 dense in blocks of 8; expected 0\.47 at most"),
        (
            model("net (float[N, 4, 9] x) => (float[N, 8, L] y) { y = Conv(x, w) }", w=sparse(8, 4, 3)),
            (1, 4, 9),
            "1 spatial axes; expected 2",
        ),
        (
            model("net (float[5] x) => (float[6] y) { y = MatMul(x, w) }", w=sparse(5, 6)),
            (5,),
            "rank 1; expected at least 2",
        ),
        (
            model("net (float[3, 5] x) => (float[3, 6] y) { y = Gemm(x, w, b) }", w=sparse(5, 6), b=floats(0, 3, 1)),
            (3, 5),
            r"the bias has shape \[3, 1\]; expected \[6\]",
        ),
        (
            model("net (float[6, 5] x) => (float[6, 6] y) { y = MatMul(w, x) }", w=sparse(6, 6)),
            (6, 5),
            "must be its second operand",
        ),
        (
            model(
                "net (float[N, 4] x) => (float[1, 8, 5, 7] y, float[N, 4] z) { y = Conv(k, w) z = Relu(x) }",
                w=sparse(8, 4, 3, 3),
                k=floats(1, 1, 4, 7, 9),
            ),
            (1, 4),
            "its input is a constant",
        ),
        (negative_extents(), (1, 4, 7, 9), "which is not fixed"),
        (
            conv("dilations = [13000, 1], pads = [13000, 0, 13000, 0]", height="1", weight=sparse(8, 512, 3, 3)),
            (1, 512, 1, 9),
            r"takes 1,118,\d{3},\d{3} bytes of scratch; expected 1,073,741,824 at most",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_lowered_is_refused_with_the_reason(loaded: Model, shape: tuple[int, ...], reason: str) -> None:
    found = proposal(loaded, {"x": floats(2, *shape)})
    assert not found.sites
    assert [refusal.site for refusal in found.refusals] == [loaded.graph.nodes[0].name]
    assert re.search(reason, found.refusals[0].reason)


def test_pads_do_not_go_by_what_the_file_says_of_an_inner_tensor() -> None:
    text = """net (float[N, 4, H, W] x) => (float[N, 8, A, B] y) <float[1, 4, 9, 9] t>
        { t = Relu(x) y = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (t, w) }"""
    loaded = model(text, w=sparse(8, 4, 3, 3))
    found = proposal(loaded, {"x": floats(2, 1, 4, 9, 9)})
    assert not found.sites
    assert "which is not fixed" in found.refusals[0].reason


def test_new_nodes_and_constants_have_names_of_their_own() -> None:
    text = """net (float[N, 4, 7, 9] x) => (float[N, 8, 5, 7] y)
        { s = Relu(x) t = Conv(s, w) y = Relu(t) }"""
    for name, taken in (("node", "c/lissom_0"), ("tensor", "c/lissom_0_values")):
        loaded = model(text, w=sparse(8, 4, 3, 3))
        relu, layer = loaded.graph.nodes[0], loaded.graph.nodes[1]
        layer.name = "c"
        setattr(*((relu, "name") if name == "node" else (relu.outputs[0], "name")), taken)
        require_exact(loaded, (1, 4, 7, 9))


def test_a_density_limit_stands_in_for_the_table() -> None:
    feeds = {"x": floats(2, 1, 4, 7, 9)}
    assert len(proposal(conv(), feeds).sites) == 1
    assert not proposal(conv(), feeds, max_density=0.1).sites


def test_layers_are_chosen_by_name() -> None:
    loaded, feeds = conv(), {"x": floats(2, 1, 4, 7, 9)}
    loaded.graph.nodes[0].name = "stem"
    assert [site.name for site in proposal(loaded, feeds, include="st.m").sites] == ["stem"]
    assert "does not find" in proposal(loaded, feeds, include="head").refusals[0].reason
    assert "finds its name" in proposal(loaded, feeds, exclude="stem").refusals[0].reason


def test_functions_are_written_for_the_operators_in_use_and_raise_the_ir_version() -> None:
    proto = parse(CONV.format(c=4, h=7, attributes="group = 1"), 11, 6, w=sparse(8, 4, 3, 3), b=floats(1, 8))
    loaded = from_proto(proto)
    before = loaded.to_proto()
    edited = loaded.copy()
    infer_shapes(edited)
    shapes = observe_shapes(edited, sources(edited), {"x": floats(2, 1, 4, 7, 9)})
    (site,) = propose(edited, shapes).sites
    apply(edited, site, site.packed(), tail(edited, site.node, 8, shapes))
    after = edited.to_proto()
    assert loaded.to_proto() == before
    assert [(body.domain, body.name) for body in after.functions] == [("ai.lissom", "SparseConv_bitmap")]
    assert (before.ir_version, after.ir_version) == (6, 8)
    assert [(entry.domain, entry.version) for entry in after.opset_import] == [("", 11), ("ai.lissom", 1)]
    assert "IR version raised from 6 to 8" in edited.remarks[0]
    edited.graph.nodes[0].op, edited.graph.nodes[0].domain = "Identity", None
    assert not edited.to_proto().functions
