"""Surgery: puts a CP chain in the place of a convolution.

    x[c] -> 1×1 -> [R] -> depthwise, the layer's kernel -> [R] -> 1×1, with the bias -> y[f]

Strides, dilations and zero padding go to the middle convolution: the first has no bias and maps zeros to zeros. Where
the mean m of the layer's input is known, the bias takes up the mean error (W − Ŵ) m.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lissom.cp.factors import Terms, cp
from lissom.cp.propose import convolutions
from lissom.emit import convolve, random_weights
from lissom.graph.layers import Layer
from lissom.graph.model import Model, Node
from lissom.lowrank.factors import Float32Array
from lissom.options import FloatArray, Parameters
from lissom.rewrite import Rewrite, put_in_place, take_up_mean


def apply(
    model: Model, layer: Layer, parameters: Parameters, moment: FloatArray | None, mean: FloatArray | None = None
) -> Rewrite:
    """Replaces `layer` by the chain that approximates its weight.

    Args:
        model: the model that holds `layer.node`.
        layer: the convolution to replace.
        parameters: rank.
        moment: second moment[columns, columns] of the layer's input, about `mean` where that is given: the chain is
            fitted under it.
        mean: mean[columns] of the layer's input: the bias is corrected for it, where that can be.
    """
    found = _terms(layer, parameters, moment)
    dense = _dense(layer, found)
    bias = take_up_mean(layer, dense, mean)
    return Rewrite(emit(model, layer, _weights(layer, found)), dense, bias)


def approximate(layer: Layer, parameters: Parameters, moment: FloatArray | None) -> Float32Array:
    """The dense weight[f, c, *kernel] of the chain that `apply` would put in the layer's place."""
    return _dense(layer, _terms(layer, parameters, moment))


def emit_random(model: Model, layer: Layer, parameters: Parameters, rng: np.random.Generator) -> None:
    """Replaces `layer` by a chain with random weights of unit gain, for timing."""
    emit(model, layer, random_weights(convolutions(layer.geometry, int(parameters["rank"])), rng))


def emit(model: Model, layer: Layer, weights: Sequence[Float32Array]) -> list[Node]:
    """Replaces `layer` in `model` by the chain with the given weights.

    Args:
        model: the model that holds `layer.node`.
        layer: the convolution to replace.
        weights: of the three convolutions, in the order in which they run, in ONNX layout.

    Returns:
        The new nodes, in topological order.
    """
    first, middle, last = convolutions(layer.geometry, len(weights[0]))
    nodes: list[Node] = []
    source = convolve(layer, "inputs", first, weights[0], layer.source, nodes)
    source = convolve(layer, "taps", middle, weights[1], source, nodes)
    convolve(layer, "outputs", last, weights[2], source, nodes, layer.bias)
    put_in_place(model, layer, nodes)
    return nodes


def _terms(layer: Layer, parameters: Parameters, moment: FloatArray | None) -> Terms:
    """The terms, rounded to what is stored."""
    found = cp(layer.weight, int(parameters["rank"]), moment)
    return Terms(*(factor.astype(np.float32).astype(np.float64) for factor in found))


def _weights(layer: Layer, found: Terms) -> list[Float32Array]:
    """The weights of the three convolutions in ONNX layout."""
    kernel = layer.geometry.kernel_shape
    ones = (1,) * len(kernel)
    shaped = (
        found.inp.T.reshape(*found.inp.T.shape, *ones),
        found.taps.T.reshape(-1, 1, *kernel),
        found.out.reshape(*found.out.shape, *ones),
    )
    return [part.astype(np.float32) for part in shaped]


def _dense(layer: Layer, found: Terms) -> Float32Array:
    return found.dense().reshape(layer.weight.shape).astype(np.float32)
