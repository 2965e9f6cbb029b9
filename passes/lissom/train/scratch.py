"""A network with the structure of another and random weights: what its structure alone is worth.

Weights of layers are normal with variance 2 / (numbers that enter one output), biases are zero, normalisations scale
by one and shift by nothing; their statistics are those that training finds.

Source: He, Zhang, Ren and Sun, Delving Deep into Rectifiers (2015), section 2.2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from lissom.graph.load import from_proto
from lissom.graph.model import constant, is_constant, is_standard
from lissom.graph.steps import apply_steps
from lissom.train.layering import STEPS

Array = npt.NDArray[Any]

LAYERS = ("Conv", "Gemm", "MatMul")
"""Operators whose weights are drawn."""


def randomised(proto: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """A copy of a network with other numbers in its layers and batch normalisations.

    Args:
        proto: the network; a constant that several layers read is one for each of them.
        seed: of the weights.
    """
    model = from_proto(proto)
    apply_steps(model, STEPS)
    rng = np.random.default_rng(seed)
    for node in model.graph.nodes:
        if is_standard(node, "BatchNormalization"):
            given = (1.0, 0.0, 0.0, 1.0)
            for place, value in enumerate(given, start=1):
                node.inputs[place] = constant(node.inputs[place].name, np.full_like(node.inputs[place].values, value))
        if not any(is_standard(node, op) for op in LAYERS) or not is_constant(node.inputs[1]):
            continue
        weight = node.inputs[1].values
        fan_in = weight[0].size if node.op == "Conv" or node.attrs.get("transB", 0) else weight.shape[-2]
        drawn = rng.standard_normal(weight.shape) * np.sqrt(2 / fan_in)
        node.inputs[1] = constant(node.inputs[1].name, drawn.astype(weight.dtype))
        for place in range(2, len(node.inputs)):
            if is_constant(node.inputs[place]):
                node.inputs[place] = constant(node.inputs[place].name, np.zeros_like(node.inputs[place].values))
    return model.to_proto()
