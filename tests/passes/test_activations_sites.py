"""Which activations can be pruned, what reads them, and what is declined."""

from __future__ import annotations

import pytest
from graph.onnx_text import floats
from lissom.activations.sites import by_stage, is_residual
from passes.activation_cases import PLAIN, RESIDUAL, case

pytestmark = pytest.mark.ort


def test_what_layers_read_is_found_through_pooling_and_flattening() -> None:
    found = case(PLAIN).sites
    assert [(site.tensor, site.activation, site.axis) for site in found.sites] == [
        ("a1", "Relu", 1),
        ("a2", "LeakyRelu", 1),
    ]
    assert list(found.read.values()) == ["x", "a1", "a2"]


def test_the_input_of_the_network_is_declined_and_what_the_last_layer_gives_is_no_site() -> None:
    known = case(PLAIN)
    found = known.sites
    assert [(refusal.site, refusal.reason) for refusal in found.refusals] == [
        ("x", "an input of the network is not pruned")
    ]
    first, second, last = (layer.name for layer in known.layers)
    assert found.given == {first: "a1", second: "a2"}
    assert last not in found.given


def test_an_activation_that_is_an_output_too_is_declined() -> None:
    text = PLAIN.replace("(float[N, 5] y)", "(float[N, 5] y, float[N, 4, 8, 8] a1)")
    found = case(text).sites
    assert [site.tensor for site in found.sites] == ["a2"]
    assert ("a1", "it is an output of the network") in [(r.site, r.reason) for r in found.refusals]


def test_a_tensor_with_several_readers_is_one_site() -> None:
    known = case(RESIDUAL)
    assert [site.tensor for site in known.sites.sites] == ["a1", "a2", "a3", "a4", "g5"]
    assert known.sites.sites[-1].activation == "GlobalAveragePool"
    names = [layer.name for layer in known.layers]
    assert known.sites.given == dict(zip(names[:5], ["a1", "a2", "a3", "a4", "g5"], strict=True))


def test_a_layer_without_an_activation_function_is_a_site_of_its_own() -> None:
    text = "net (float[N, 3, 8, 8] x) => (float[N, H, W, C] y) { c1 = Conv (x, w1, b1) y = Conv (c1, w2, b2) }"
    found = case(text).sites
    assert [(site.tensor, site.activation) for site in found.sites] == [("c1", "Conv")]
    assert list(found.given.values()) == ["c1"]


@pytest.mark.parametrize(
    "between",
    [
        "h = MatMul (x, m) a = Relu (h) y = MatMul (a, n)",
        "h = MatMul (x, m) a = Relu (h) t = Transpose <perm = [1, 0, 2]> (a) y = MatMul (t, n)",
        "h = MatMul (x, m) b = Add (h, h) a = Relu (b) t = Identity (a) y = MatMul (t, n)",
    ],
)
def test_channels_of_a_matrix_product_are_the_last_axis(between: str) -> None:
    text = f"net (float[N, 3, 8] x) => (float[N, 3, 5] y) {{ {between} }}"
    found = case(text, {"x": floats(0, 2, 3, 8)}, m=floats(1, 8, 7), n=floats(2, 7, 5)).sites
    assert [site.axis for site in found.sites] == [-1]


def test_sites_of_one_extent_are_one_stage_of_a_residual_network_only() -> None:
    known = case(RESIDUAL)
    groups = by_stage(known.model, known.sites.sites, known.shapes)
    assert [[site.tensor for site in group] for group in groups] == [["a1", "a2", "a3"], ["a4"], ["g5"]]
    plain = case(PLAIN)
    assert is_residual(known.model) and not is_residual(plain.model)
    assert [len(group) for group in by_stage(plain.model, plain.sites.sites, plain.shapes)] == [1, 1]


def test_an_input_that_the_graph_prepares_is_declined() -> None:
    text = PLAIN.replace("{", "{ x0 = Mul(x, x)", 1).replace("Conv (x,", "Conv (x0,", 1).replace("(x, w1", "(x0, w1", 1)
    found = case(text).sites
    assert ("x0", "no layer gives it: it is an input of the network, prepared") in [
        (refusal.site, refusal.reason) for refusal in found.refusals
    ]
    assert "x0" not in {site.tensor for site in found.sites}
