"""What onnx and ONNX Runtime say of a model ends as one sentence, and not as our fault when it is theirs."""

from __future__ import annotations

import numpy as np
import pytest
from graph.onnx_text import floats, model, parse, run
from lissom.graph.load import from_proto
from lissom.graph.spec import require_valid
from lissom.observe import observe_shapes
from lissom.verify import require_same
from lissom_runtime.errors import LoadError, VerificationError

NORMALISE = "net (float[2, 3, 4, 4] x) => (float[2, 3, 4, 4] y) { y = MeanVarianceNormalization(x) }"
RESHAPE = "net (float[N] x) => (float[A, B] y) { y = Reshape(x, shape) }"
MISMATCHED = "net (float[2] x) => (float[3] y) { y = Relu(x) }"


@pytest.mark.ort
def test_an_old_model_whose_conversion_adds_constants_is_legal() -> None:
    text = "net (float[1, 1, 2, 2] x) => (float[1, 1, 4, 2] y) { y = Pad <pads = [0, 0, 1, 0, 0, 0, 1, 0]> (x) }"
    loaded = from_proto(parse(text, opset=9, ir=3), convert_opset=13)
    assert [value.name for value in loaded.inputs] == ["x"]
    x = floats(0, 1, 1, 2, 2)
    np.testing.assert_array_equal(run(loaded, {"x": x})[0], np.pad(x, [(0, 0), (0, 0), (1, 1), (0, 0)]))


def test_a_complaint_of_the_checker_that_the_original_shares_is_no_breach() -> None:
    proto = parse(MISMATCHED)
    require_valid(proto, proto)


def test_a_complaint_of_the_checker_that_is_new_is_a_breach() -> None:
    with pytest.raises(VerificationError, match="expected a model that onnx"):
        require_valid(parse(MISMATCHED), parse(MISMATCHED.replace("3", "2")))


def test_a_malformed_model_is_a_breach_even_if_the_original_has_complaints() -> None:
    broken = parse(MISMATCHED)
    broken.graph.node[0].input[0] = "nothing"
    with pytest.raises(VerificationError, match="expected a model that onnx"):
        require_valid(broken, parse(MISMATCHED))


@pytest.mark.ort
def test_an_operator_on_which_shape_inference_fails_is_verified_all_the_same() -> None:
    loaded = model(NORMALISE, opset=13)
    assert require_same(loaded, loaded.copy(), {"x": floats(0, 2, 3, 4, 4)}, "the copy") == 0.0


@pytest.mark.ort
def test_a_run_that_fails_is_a_load_error() -> None:
    loaded = model(RESHAPE, shape=np.array([2, 3]))
    with pytest.raises(LoadError, match="expected the model to run in onnxruntime"):
        observe_shapes(loaded, ["y"], {"x": np.zeros(5, np.float32)})


@pytest.mark.ort
def test_a_result_that_does_not_run_where_the_original_does_is_a_breach() -> None:
    right, wrong = (model(RESHAPE, shape=np.array(shape)) for shape in ([2, 3], [2, 4]))
    with pytest.raises(VerificationError, match="expected the copy to run like what it was made from"):
        require_same(right, wrong, {"x": np.zeros(6, np.float32)}, "the copy")


def test_shapes_of_inputs_need_no_run() -> None:
    loaded = model("net (float[N] x) => (float[N] y) { y = Relu(x) }")
    loaded.graph.nodes[0].op = "Unknown"  # ONNX Runtime would refuse it
    assert observe_shapes(loaded, ["x"], {"x": np.zeros(5, np.float32)}) == {"x": (5,)}
