"""Chains of every kind, and models in which `lissom` has emitted one."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
from graph.onnx_text import parse
from lissom.graph.load import from_proto
from lissom.lowering.emit import Convolution, DepthwiseStage, SparseStage, emit_chain
from lissom_runtime.contract import ChainShape, ChainSignature, chain_signatures
from runtime.chain_models import Chain

SIGNATURES = list(chain_signatures())

CHANNELS: Mapping[ChainShape, tuple[int, ...]] = {
    "inverted_residual": (4, 8, 8, 12),
    "expanded_depthwise": (4, 8, 8),
    "depthwise_separable": (8, 8, 12),
    "bottleneck": (12, 4, 8, 12),
}
LIMITS = ((-math.inf, math.inf), (0.0, math.inf), (-20.0, 60.0))
"""None, those of Relu, and others."""
GEOMETRIES = (
    {},
    {"strides": (2, 2)},
    {"kernel": (5, 3), "pads": (2, 1, 1, 0), "strides": (2, 1)},
    {"kernel": (3, 2), "pads": (1, 0, 2, 1), "dilations": (2, 1)},
    {"kernel": (1, 1), "pads": (0, 0, 0, 0)},
)


def chain_case(signature: ChainSignature, turn: int, scale: int = 1) -> Chain:
    """A chain whose weights, limits and geometry depend on `turn`; every fifth turn all sparse weights are zero.

    Args:
        signature: the chain.
        turn: any number.
        scale: how many times as many channels as usual.
    """
    geometry = GEOMETRIES[turn % len(GEOMETRIES)]
    if signature.shape == "bottleneck":
        geometry = {name: value for name, value in geometry.items() if name != "strides"}
    return Chain(
        signature,
        tuple(scale * channels for channels in CHANNELS[signature.shape]),
        block=(1, 2, 4)[turn % 3],
        density=0.0 if turn % 5 == 4 else 0.4,
        limits={stage: LIMITS[(turn + place) % 3] for place, stage in enumerate(signature.stages)},
        seed=turn,
        **geometry,
    )


def emitted(chain: Chain, opset: int = 17, name: str = "layer/lissom_0") -> onnx.ModelProto:
    """A model of one node that `emit_chain` made."""
    residual = ", float[N, O, P, Q] residual" if chain.signature.residual else ""
    text = f"net (float[N, {chain.channels[0]}, H, W] x{residual}) => (float[N, {chain.channels[-1]}, P, Q] y)"
    model = from_proto(parse(f"{text} {{ y = Relu(x) }}", opset))
    inputs = {tensor.name: tensor for tensor in model.graph.inputs}
    stages = [
        DepthwiseStage(weight, chain.biases[stage], chain.limits_of(stage))
        if stage == "depthwise"
        else SparseStage(chain.packed(stage), chain.biases[stage], chain.limits_of(stage))
        for stage, weight in chain.weights.items()
    ]
    geometry = Convolution(chain.strides, chain.pads, chain.dilations, chain.group)
    node = emit_chain(model, name, inputs["x"], chain.signature, stages, geometry, inputs.get("residual"))
    (placeholder,) = model.graph.nodes
    node.outputs = [placeholder.outputs[0]]
    placeholder.inputs.clear()
    placeholder.outputs.clear()
    model.graph.nodes = [node]
    return model.to_proto()


def tolerance(signature: ChainSignature) -> float:
    """Of outputs relative to the largest: 0 where all arithmetic is of whole numbers."""
    return 0 if signature.inner == "clip" else 1e-6


def require_same(signature: ChainSignature, got: np.ndarray, wanted: np.ndarray) -> None:
    """Demands outputs within `tolerance`."""
    bound = tolerance(signature) * float(np.abs(wanted).max())
    np.testing.assert_allclose(got, wanted, rtol=0, atol=bound, err_msg=signature.name)
