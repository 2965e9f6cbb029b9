"""Sparse operators beside OpenVINO's plugin provider: with the library they run here, without it in the plugin."""

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnxruntime
import pytest
from lissom_runtime import library, register
from lissom_runtime.providers import ProviderRequest, configure
from runtime.ops_models import Node, integers, session, sparse_model, sparse_weight

pytestmark = [
    pytest.mark.native,
    pytest.mark.ort,
    pytest.mark.plugin_ep,
    pytest.mark.skipif(not library.available(), reason=library.describe()),
]


IN_FLOAT32 = 'load_config={"CPU": {"INFERENCE_PRECISION_HINT": "f32"}}'
"""OpenVINO takes bfloat16 for itself on processors that multiply matrices in it."""


def between_dense_convolutions() -> onnx.ModelProto:
    """x -> Conv -> SparseConv -> Conv -> y, of fixed extents at both ends."""
    node = Node(sparse_weight(0, 16, 8, 3, 3, block=4), 4, activation="relu", pads=(1, 1, 1, 1), x_shape=(1, 8, 9, 11))
    model = sparse_model(node)
    (sparse,) = model.graph.node
    sparse.input[0], sparse.output[0] = "before", "after"
    first = onnx.helper.make_node("Conv", ["x", "w_first"], ["before"], "first", pads=[1, 1, 1, 1])
    last = onnx.helper.make_node("Conv", ["after", "w_last"], ["y"], "last", pads=[1, 1, 1, 1])
    model.graph.node.insert(0, first)
    model.graph.node.append(last)
    weights = {"w_first": integers(3, 8, 8, 3, 3), "w_last": integers(4, 6, 16, 3, 3)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in weights.items())
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (1, 6, 9, 11)))
    return model


@pytest.mark.usefixtures("openvino")
@pytest.mark.parametrize("native", [False, True])
def test_the_plugin_takes_the_body_or_leaves_the_node_to_the_kernels(native: bool) -> None:
    model = between_dense_convolutions()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if native:
        register(options)
    configure(options, ProviderRequest.parse(["openvino"], [IN_FLOAT32]))
    opened = onnxruntime.InferenceSession(model.SerializeToString(), options)
    here = {
        node.op_type
        for part in opened.get_provider_graph_assignment_info()
        if part.ep_name == "CPUExecutionProvider"
        for node in part.get_nodes()
    }
    assert here == ({"SparseConv_bitmap_relu"} if native else set())
    x = integers(1, 1, 8, 9, 11)
    np.testing.assert_allclose(opened.run(None, {"x": x})[0], session(model).run(None, {"x": x})[0], rtol=1e-5)
