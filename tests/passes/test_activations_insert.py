"""Every form of mask gives what its definition says, at its place, or is declined."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from graph.onnx_text import floats, model, run
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from lissom.activations.insert import Dynamic, Mask, Static, insert, whole_name
from lissom.activations.sites import ActivationSite
from lissom.graph.load import from_proto
from lissom.graph.model import Model
from lissom.graph.naming import name_nodes
from lissom.graph.spec import require_legal
from lissom_runtime.errors import UsageError
from passes.activation_cases import PLAIN, RESIDUAL, case, examine
from runtime.mask_models import masked

pytestmark = pytest.mark.ort

Array = np.ndarray
OPSETS = (11, 13, 17, onnx.defs.onnx_opset_version())
SHAPE = (2, 3, 4, 5)
CHANNELS = np.array([0.5, 0.0, 2.0], np.float32)


def theta(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def one(op: str, mask: Mask, shape: tuple[int, ...] = SHAPE, axis: int = 1, opset: int = 17) -> Model:
    """y = Identity(masked op(x))."""
    dims = ", ".join(["N", *map(str, shape[1:])])
    made = model(f"net (float[{dims}] x) => (float[{dims}] y) {{ a = {op} (x) y = Identity (a) }}", opset)
    name_nodes(made)
    site = ActivationSite("a", op, 1 if axis == 1 else -1, ())
    assert insert(made, [site], {"a": mask}, {"a": shape}) == []
    require_legal(made, "insert")
    onnx.checker.check_model(made.to_proto(), full_check=True)
    return made


def reference(op: str, x: Array, thresholds: Array) -> Array:
    """The activation, zero where it is less than a threshold in magnitude; NaN stay."""
    given = np.where(x < 0, 0, x) if op == "Relu" else x
    return np.where(np.abs(given) < thresholds, np.float32(0), given)


VALUES = arrays.arrays(
    np.float32, SHAPE, elements=st.floats(-4, 4, width=32) | st.sampled_from([0.5, -0.5, 2.0, -2.0, 0.0])
)
FORMS: Mapping[str, tuple[str, Static, list[str]]] = {
    "in place of a Relu": ("Relu", Static(theta(0.5)), ["ThresholdedRelu", "Identity"]),
    "behind what has a sign": ("Identity", Static(theta(0.5)), ["Identity", "Shrink", "Identity"]),
    "per channel": ("Relu", Static(CHANNELS), ["Relu", "Abs", "Less", "Where", "Identity"]),
    "for NaN": ("Relu", Static(theta(0.5), keeps_nan=True), ["Relu", "Abs", "Less", "Where", "Identity"]),
}
MODELS = {name: one(op, mask) for name, (op, mask, _) in FORMS.items()}


@pytest.mark.parametrize("form", FORMS)
@given(VALUES)
@settings(max_examples=25)
def test_every_static_form_keeps_what_is_at_least_the_threshold(form: str, x: Array) -> None:
    op, mask, _ = FORMS[form]
    thresholds = mask.thresholds.reshape(-1, 1, 1)
    np.testing.assert_array_equal(run(MODELS[form], {"x": x})[0], reference(op, x, thresholds))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("opset", OPSETS)
def test_every_static_form_is_legal_in_every_opset_and_bears_its_provenance(form: str, opset: int) -> None:
    op, mask, expected = FORMS[form]
    made = one(op, mask, opset=opset)
    assert [node.op for node in made.graph.nodes] == expected
    assert '"kind": "winners"' in made.metadata["lissom.provenance"]
    x = floats(opset, *SHAPE)
    np.testing.assert_array_equal(run(made, {"x": x})[0], reference(op, x, mask.thresholds.reshape(-1, 1, 1)))


def test_nan_passes_where_it_is_asked_for_and_else_becomes_zero() -> None:
    x = np.full(SHAPE, np.nan, np.float32)
    for form in ("per channel", "for NaN"):
        assert np.isnan(run(MODELS[form], {"x": x})[0]).all()
    for form in ("in place of a Relu", "behind what has a sign"):
        assert not run(MODELS[form], {"x": x})[0].any()


@pytest.mark.parametrize(
    "mask", [Static(theta(0.5)), Static(CHANNELS[:2]), Dynamic(0.5, 1.0)], ids=["static", "channel", "dynamic"]
)
def test_both_tensors_that_one_node_gives_can_be_masked(mask: Mask) -> None:
    text = """net (float[N, 4, 5] x) => (float[N, 2, 5] y, float[N, 2, 5] z)
        { a, b = Split <axis = 1> (x, sizes) y = Identity(a) z = Identity(b) }"""
    made = model(text, sizes=np.array([2, 2]))
    name_nodes(made)
    sites = [ActivationSite(name, "Split", 1, ()) for name in "ab"]
    assert insert(made, sites, dict.fromkeys("ab", mask), dict.fromkeys("ab", (1, 2, 5))) == []
    require_legal(made, "insert")
    onnx.checker.check_model(made.to_proto(), full_check=True)
    assert len({node.name for node in made.graph.nodes}) == len(made.graph.nodes)


def test_thresholds_of_the_last_axis_are_those_of_its_channels() -> None:
    made = one("Identity", Static(CHANNELS), (2, 4, 3), axis=-1)
    x = floats(3, 2, 4, 3)
    np.testing.assert_array_equal(run(made, {"x": x})[0], reference("Identity", x, CHANNELS))


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(("rate", "alpha", "stride"), [(0.3, 1.0, 1), (0.3, 0.1, 10)])
def test_a_dynamic_mask_is_an_operator_of_the_runtime(opset: int, rate: float, alpha: float, stride: int) -> None:
    made = one("Relu", Dynamic(rate, alpha), opset=opset)
    assert [node.op for node in made.graph.nodes] == ["Relu", "WinnerMask", "Identity"]
    x = floats(opset, *SHAPE)
    assert run(made, {"x": x})[0].tobytes() == masked(np.maximum(x, 0), rate, stride).tobytes()


def test_all_that_read_an_activation_read_the_masked_one() -> None:
    known = case(RESIDUAL)
    before = known.model.copy()
    assert insert(known.model, known.sites.sites, {"a1": Dynamic(0.2, 1.0)}, known.shapes) == []
    require_legal(known.model, "insert")
    readers = {node.op for node in known.model.graph.tensors()[whole_name("a1")].outputs}
    assert readers == {"WinnerMask"}
    assert len(known.model.graph.tensors()["a1"].outputs) == 2
    assert [node.op for node in before.graph.nodes].count("WinnerMask") == 0
    assert not np.allclose(run(known.model, known.feeds)[0], run(before, known.feeds)[0])


def test_a_threshold_below_everything_changes_nothing() -> None:
    known = case(PLAIN)
    expected = run(known.model, known.feeds)[0]
    masks = {site.tensor: Static(theta(1e-30)) for site in known.sites.sites}
    assert insert(known.model, known.sites.sites, masks, known.shapes) == []
    np.testing.assert_allclose(run(known.model, known.feeds)[0], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (Static(theta(0.0)), "a threshold of 0 keeps everything"),
        (Static(theta(0, 0, 0, 0)), "a threshold of 0 keeps everything"),
        (Dynamic(1.0), "a winner rate of 1 keeps everything"),
        (Dynamic(0.01), "expected at least 100 sampled activations for a winner rate of 0.01, got 26 of 256"),
    ],
    ids=["zero", "zeros", "everything", "sample"],
)
def test_a_mask_that_prunes_nothing_or_has_too_small_a_sample_is_declined(mask: Mask, reason: str) -> None:
    known = case(PLAIN)
    before = [node.op for node in known.model.graph.nodes]
    (refusal,) = insert(known.model, known.sites.sites, {"a1": mask}, known.shapes)
    assert (refusal.site, refusal.kind, refusal.reason) == ("a1", "winners", reason)
    assert [node.op for node in known.model.graph.nodes] == before


def test_a_dynamic_mask_needs_a_batch_axis() -> None:
    known = case(PLAIN)
    (refusal,) = insert(known.model, known.sites.sites, {"a1": Dynamic(0.5)}, {"a1": (7,)})
    assert refusal.reason == "the activation has 1 axes; expected a batch and more"


def test_what_is_no_mask_of_a_site_is_an_error() -> None:
    known = case(PLAIN)

    def attempt(tensor: str, mask: Static) -> None:
        insert(known.model, known.sites.sites, {tensor: mask}, known.shapes)

    with pytest.raises(UsageError, match="expected the name of an activation that can be pruned, but got 'x'"):
        attempt("x", Static(theta(1.0)))
    with pytest.raises(UsageError, match=r"expected thresholds of at least 0 for 'a1', but got -1\.0"):
        attempt("a1", Static(theta(-1.0)))
    with pytest.raises(UsageError, match="expected thresholds of at least 0 for 'a1', but got nan"):
        attempt("a1", Static(theta(np.nan)))
    with pytest.raises(UsageError, match=r"expected 1 threshold or 4 \(one a channel\) for 'a1', but got 3"):
        attempt("a1", Static(CHANNELS))


@pytest.mark.parametrize(("rate", "alpha"), [(0.0, 0.1), (1.1, 0.1), (-1.0, 0.1), (0.5, 0.0), (0.5, 2.0)])
def test_shares_beyond_the_whole_are_no_dynamic_mask(rate: float, alpha: float) -> None:
    with pytest.raises(UsageError, match="above 0 and up to 1, got"):
        Dynamic(rate, alpha)


def test_masks_are_found_again_when_the_model_is_examined() -> None:
    known = case(PLAIN)
    insert(known.model, known.sites.sites, {"a1": Static(theta(0.5)), "a2": Dynamic(0.5)}, known.shapes)
    again = examine(known.model, known.feeds).sites
    assert [(site.tensor, site.activation) for site in again.sites] == [
        ("a1", "ThresholdedRelu"),
        ("a2", "WinnerMask"),
    ]
    assert list(again.given.values()) == ["a1", "a2"]


def test_a_masked_model_can_be_read_again() -> None:
    known = case(PLAIN)
    insert(known.model, known.sites.sites, {"a1": Static(theta(0.5)), "a2": Dynamic(0.5, 1.0)}, known.shapes)
    again = from_proto(known.model.to_proto())
    np.testing.assert_array_equal(run(again, known.feeds)[0], run(known.model, known.feeds)[0])
