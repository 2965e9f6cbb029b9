"""A pair of full rank computes what the layer computed, for every layer, folding, side and group."""

from __future__ import annotations

import numpy as np
import pytest
from graph.onnx_text import floats, model, run
from lissom import applying
from lissom.canonical import Canonical, canonicalise
from lissom.graph.model import Model
from lissom.lowrank import apply as lowrank_apply
from lissom.lowrank.foldings import SIDES, Scheme, divisors, foldings_of
from lissom.lowrank.pairs import max_rank, sliced_channels
from lissom.lowrank.propose import KIND
from lissom.options import Cost, Option, Plan
from lissom.pipeline import Study
from lissom.recipe import read_recipe
from lissom_runtime.errors import VerificationError

pytestmark = pytest.mark.ort

CONV = "net (float[N, 4, 9, 7] x) => (float[N, 6, H, W] y) {{ y = Conv <{attributes}> (x, w, b) }}"
CONVOLUTIONS = {
    "plain": "pads = [1, 1, 1, 1]",
    "strided": "strides = [2, 3], pads = [1, 0, 1, 2]",
    "dilated": "dilations = [2, 1], pads = [2, 1, 2, 1]",
    "same upper": 'auto_pad = "SAME_UPPER", strides = [2, 1]',
    "same lower": 'auto_pad = "SAME_LOWER", strides = [2, 2]',
    "valid": 'auto_pad = "VALID"',
}


def study_of(loaded: Model, shape: tuple[int, ...]) -> Study:
    canonical: Canonical = canonicalise(loaded, {"x": floats(9, *shape)})
    return Study(canonical, read_recipe("minimax"), (), (), {})


def full_rank(study: Study, scheme: Scheme) -> Plan:
    layer = study.canonical.layers[0]
    rank = max_rank(layer.geometry, scheme)
    parameters = {"folding": scheme.folding, "side": scheme.side, "groups": scheme.groups, "rank": rank}
    return Plan({layer.name: Option(layer.name, KIND, parameters, Cost(0, 0, 0), 0.0, "code")}, 0.0)


def schemes(study: Study) -> list[Scheme]:
    geometry = study.canonical.layers[0].geometry
    return [
        Scheme(folding, side, groups)
        for folding in foldings_of(geometry.kernel_shape)
        for side in SIDES
        for groups in divisors(sliced_channels(geometry, side))
    ]


def require_equal(loaded: Model, shape: tuple[int, ...], expected_ops: set[str]) -> None:
    study = study_of(loaded, shape)
    feeds = {"x": floats(8, *shape)}
    for scheme in schemes(study):
        candidate = applying.apply(study, full_rank(study, scheme))
        assert {node.op for node in candidate.model.graph.nodes} <= expected_ops
        for got, wanted in zip(run(candidate.model, feeds), run(loaded, feeds), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-4, err_msg=str(scheme))


@pytest.mark.parametrize("attributes", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_a_convolution_is_replaced_exactly(attributes: str) -> None:
    loaded = model(CONV.format(attributes=attributes), w=floats(0, 6, 4, 3, 3), b=floats(1, 6))
    require_equal(loaded, (2, 4, 9, 7), {"Conv"})


@pytest.mark.parametrize("kernel", [(3,), (2, 1), (1, 1), (3, 2, 3)])
def test_kernels_of_other_ranks_are_replaced_exactly(kernel: tuple[int, ...]) -> None:
    spatial = (5,) * len(kernel)
    dims = ", ".join(["5"] * len(kernel))
    out = ", ".join("HWD"[: len(kernel)])
    text = f"net (float[N, 4, {dims}] x) => (float[N, 6, {out}] y) {{ y = Conv (x, w) }}"
    require_equal(model(text, w=floats(0, 6, 4, *kernel)), (2, 4, *spatial), {"Conv"})


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 2.0)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_gemm_is_replaced_exactly(trans_b: int, alpha: float, beta: float, bias: bool) -> None:
    operands = "x, w, b" if bias else "x, w"
    text = (
        f"net (float[N, 6] x) => (float[N, 4] y) "
        f"{{ y = Gemm <transB = {trans_b}, alpha = {alpha}, beta = {beta}> ({operands}) }}"
    )
    weight = floats(0, 6, 4)
    constants = {"w": weight.T.copy() if trans_b else weight, **({"b": floats(1, 4)} if bias else {})}
    require_equal(model(text, **constants), (3, 6), {"Gemm", "Reshape", "Transpose", "MatMul", "Add", "Mul"})


@pytest.mark.parametrize("shape", [(3, 6), (2, 3, 6), (2, 1, 3, 6)])
def test_a_product_with_leading_axes_is_replaced_exactly(shape: tuple[int, ...]) -> None:
    lead = ", ".join("NBTC"[: len(shape) - 1])
    text = f"net (float[{lead}, 6] x) => (float[{lead}, 4] y) {{ y = MatMul(x, w) }}"
    require_equal(model(text, w=floats(0, 6, 4)), shape, {"MatMul", "Reshape", "Transpose"})


def test_new_nodes_are_named_after_the_old_one_and_bear_its_provenance() -> None:
    loaded = model(CONV.format(attributes="pads = [1, 1, 1, 1]"), ir=10, w=floats(0, 6, 4, 3, 3), b=floats(1, 6))
    study = study_of(loaded, (1, 4, 9, 7))
    proto = applying.apply(study, full_rank(study, Scheme())).model.to_proto()
    assert [node.name for node in proto.graph.node] == ["Conv_y/lissom_0", "Conv_y/lissom_1"]
    assert all('"from": "Conv_y"' in node.metadata_props[0].value for node in proto.graph.node)
    assert [value.name for value in proto.graph.output] == ["y"]


def test_a_plan_that_changes_nothing_leaves_the_model_as_it_is() -> None:
    loaded = model(CONV.format(attributes="pads = [1, 1, 1, 1]"), w=floats(0, 6, 4, 3, 3), b=floats(1, 6))
    study = study_of(loaded, (1, 4, 9, 7))
    layer = study.canonical.layers[0]
    dense = Option(layer.name, "dense", {}, Cost(1, 1, 1), 0.0, "code")
    candidate = applying.apply(study, Plan({layer.name: dense}, 0.0))
    assert candidate.model.to_proto() == study.canonical.model.to_proto()
    assert candidate.max_difference == 0.0


def test_a_pair_with_other_weights_than_planned_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = model(CONV.format(attributes="pads = [1, 1, 1, 1]"), w=floats(0, 6, 4, 3, 3), b=floats(1, 6))
    study = study_of(loaded, (1, 4, 9, 7))
    monkeypatch.setattr(lowrank_apply, "recompose", lambda *_: study.canonical.layers[0].weight * 2)
    with pytest.raises(VerificationError, match="to compute what was planned"):
        applying.apply(study, full_rank(study, Scheme()))
