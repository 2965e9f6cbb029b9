"""Small classifiers as ONNX text."""

from __future__ import annotations

import numpy as np
import onnx
from graph.onnx_text import floats, parse

PLAIN = """net (float[N, 2, 6, 6] x) => (float[N, 3] y) {
    c = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    r = Relu(c)
    p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
    d = Conv <pads = [1, 1, 1, 1]> (p, w2, b2)
    s = Relu(d)
    f = Flatten(s)
    g = Gemm <transB = 1> (f, w3, b3)
    t = Relu(g)
    y = Gemm (t, w4, b4)
}"""
PLAIN_SHAPES = {"w1": (4, 2, 3, 3), "w2": (5, 4, 3, 3), "w3": (8, 45), "w4": (8, 3)}

RESIDUAL = """net (float[N, 2, 6, 6] x) => (float[N, 3] y) {
    c = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    r = Relu(c)
    d = Conv <pads = [1, 1, 1, 1]> (r, w2, b2)
    n = BatchNormalization(d, gamma, delta, mean, variance)
    e = Relu(n)
    h = Conv <pads = [1, 1, 1, 1]> (e, w3, b3)
    sum = Add(h, r)
    s = Relu(sum)
    p = GlobalAveragePool(s)
    f = Flatten(p)
    y = MatMul(f, w4)
}"""
RESIDUAL_SHAPES = {"w1": (6, 2, 3, 3), "w2": (5, 6, 3, 3), "w3": (6, 5, 3, 3), "w4": (6, 3)}


def plain() -> onnx.ModelProto:
    """Two convolutions, a pooling, two linear layers."""
    return _made(PLAIN, PLAIN_SHAPES, {"b1": 4, "b2": 5, "b3": 8, "b4": 3})


def residual() -> onnx.ModelProto:
    """A block with a normalisation whose sum is read by what is behind it."""
    proto = _made(RESIDUAL, RESIDUAL_SHAPES, {"b1": 6, "b2": 5, "b3": 6, "gamma": 5, "delta": 5, "mean": 5})
    variance = np.abs(floats(99, 5)) + 0.5
    proto.graph.initializer.append(onnx.numpy_helper.from_array(variance, "variance"))
    return proto


def _made(text: str, shapes: dict[str, tuple[int, ...]], vectors: dict[str, int]) -> onnx.ModelProto:
    """Weights of unit gain, and small vectors."""
    weights = {
        name: floats(seed, *shape) / np.float32(np.sqrt(np.prod(shape[1:]) if len(shape) > 2 else max(shape)))
        for seed, (name, shape) in enumerate(shapes.items())
    }
    others = {name: np.float32(0.1) * floats(20 + seed, size) for seed, (name, size) in enumerate(vectors.items())}
    if "gamma" in others:
        others["gamma"] += 1
    return parse(text, **weights, **others)
