"""Surgery: puts a Tucker-2 chain in the place of a convolution.

    x[c] -> 1×1 -> [S] -> the layer's kernel, strides, dilations and padding -> [R] -> 1×1, with the bias -> y[f]

Zero padding moves to the middle convolution because the first has no bias: it maps zeros to zeros. Where the input
channels are not factorised the first is left out. The last one keeps the name of the layer's output. Where the mean m
of the layer's input is known, its bias takes up the mean error (W − Ŵ) m.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lissom.emit import convolve, random_weights
from lissom.graph.layers import Layer
from lissom.graph.model import Model, Node
from lissom.lowrank.factors import Float32Array
from lissom.lowrank.pairs import Factor
from lissom.options import FloatArray, Parameters
from lissom.rewrite import Rewrite, put_in_place, take_up_mean
from lissom.tucker.factors import Through, Tucker, fitted, modes
from lissom.tucker.propose import chain_of, ranks_of


def apply(
    model: Model, layer: Layer, parameters: Parameters, moment: FloatArray | None, mean: FloatArray | None = None
) -> Rewrite:
    """Replaces `layer` by the chain that approximates its weight.

    Args:
        model: the model that holds `layer.node`.
        layer: the convolution to replace.
        parameters: anchors, multiple and rank.
        moment: second moment[columns, columns] of the layer's input, about `mean` where that is given: the chain is
            fitted under it.
        mean: mean[columns] of the layer's input: the bias is corrected for it, where that can be.
    """
    weights = _weights(layer, parameters, moment)
    dense = _recomposed(layer, weights)
    bias = take_up_mean(layer, dense, mean)
    return Rewrite(emit(model, layer, parameters, weights), dense, bias)


def approximate(layer: Layer, parameters: Parameters, moment: FloatArray | None) -> Float32Array:
    """The dense weight[f, c, *kernel] of the chain that `apply` would put in the layer's place."""
    return _recomposed(layer, _weights(layer, parameters, moment))


def emit_random(model: Model, layer: Layer, parameters: Parameters, rng: np.random.Generator) -> None:
    """Replaces `layer` by a chain with random weights of unit gain, for timing."""
    emit(model, layer, parameters, random_weights(_chain(layer, parameters), rng))


def emit(model: Model, layer: Layer, parameters: Parameters, weights: Sequence[Float32Array]) -> list[Node]:
    """Replaces `layer` in `model` by the chain with the given weights.

    Args:
        model: the model that holds `layer.node`.
        layer: the convolution to replace.
        parameters: anchors, multiple and rank.
        weights: of the two or three convolutions, in the order in which they run, in ONNX layout.

    Returns:
        The new nodes, in topological order.
    """
    nodes: list[Node] = []
    source = layer.source
    chain = _chain(layer, parameters)
    for number, (factor, weight) in enumerate(zip(chain, weights, strict=True)):
        bias = layer.bias if number == len(chain) - 1 else None
        source = convolve(layer, f"weight{number}", factor, weight, source, nodes, bias)
    put_in_place(model, layer, nodes)
    return nodes


def _chain(layer: Layer, parameters: Parameters) -> list[Factor]:
    """The convolutions, in the order in which they run."""
    return [Factor(geometry, 1) for geometry in chain_of(layer.geometry, *ranks_of(layer.geometry, parameters))]


def _weights(layer: Layer, parameters: Parameters, moment: FloatArray | None) -> list[Float32Array]:
    """The weights of the convolutions, in the order in which they run."""
    start = modes(layer.weight)
    through = None if moment is None else Through(start.kernel, moment)
    found = fitted(start, *ranks_of(layer.geometry, parameters), through)
    ones = (1,) * len(layer.geometry.kernel_shape)
    core = np.moveaxis(found.core, 0, -1).reshape(*found.core.shape[1:], *layer.geometry.kernel_shape)
    encoder = [] if found.inp is None else [found.inp.T.reshape(*found.inp.T.shape, *ones)]
    return [part.astype(np.float32) for part in (*encoder, core, found.out.reshape(*found.out.shape, *ones))]


def _recomposed(layer: Layer, weights: Sequence[Float32Array]) -> Float32Array:
    """The dense weight of a chain, from its weights as they are stored."""
    *encoder, core, out = (weight.reshape(*weight.shape[:2], -1).astype(np.float64) for weight in weights)
    inp = encoder[0][:, :, 0].T if encoder else None
    dense = Tucker(out[:, :, 0], np.moveaxis(core, -1, 0), inp, 0.0).dense()
    return dense.reshape(layer.weight.shape).astype(np.float32)
