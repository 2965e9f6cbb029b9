"""Small models as ONNX text, serialized."""

from __future__ import annotations

import numpy as np
import onnx.numpy_helper
import onnx.parser

TEXT = """
<ir_version: 8, opset_import: ["": 17]>
network (float[N, 3, 8, 8] x) => (float[N, 4] y) {
    convolved = Conv<pads = [1, 1, 1, 1]>(x, kernel)
    active = Relu(convolved)
    flat = Flatten(active)
    y = MatMul(flat, matrix)
}
"""


def network(seed: int = 0) -> bytes:
    """A convolution, a ReLU and a matrix product: x[N, 3, 8, 8] -> y[N, 4]."""
    generator = np.random.default_rng(seed)
    model = onnx.parser.parse_model(TEXT)
    for name, shape in (("kernel", (5, 3, 3, 3)), ("matrix", (320, 4))):
        values = generator.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    for index, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{index}"
    return model.SerializeToString()


def batch(size: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    """Random feeds of `network`."""
    return {"x": np.random.default_rng(seed).standard_normal((size, 3, 8, 8)).astype(np.float32)}
