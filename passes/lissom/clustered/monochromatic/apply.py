"""Surgery: puts a monochromatic stem in the place of a convolution.

    x[c] -> 1×1 conv -> [C′] -> the layer's kernel in C′ groups, with the bias -> (gather) -> y[f]

Strides, dilations and padding are those of the layer and go to the second convolution: the first has no bias and maps
zeros to zeros. The gather stands where the filters of a cluster were not consecutive. Where the mean m of the layer's
input is known, the bias takes up the mean error (W − Ŵ) m.
"""

from __future__ import annotations

import numpy as np

from lissom.clustered.monochromatic.factors import Stem, convolutions, stem
from lissom.emit import convolve, random_weights, reorder, reordered_bias
from lissom.graph.layers import Layer
from lissom.graph.model import Model, Node
from lissom.lowrank.factors import Float32Array
from lissom.options import FloatArray, Parameters
from lissom.rewrite import Rewrite, put_in_place, take_up_mean


def apply(
    model: Model, layer: Layer, parameters: Parameters, moment: FloatArray | None, mean: FloatArray | None = None
) -> Rewrite:
    """Replaces `layer` by the stem that approximates its weight.

    Args:
        model: the model that holds `layer.node`.
        layer: the convolution to replace.
        parameters: colours.
        moment: second moment[columns, columns] of the layer's input, about `mean` where that is given: the kernels
            are fitted under it.
        mean: mean[columns] of the layer's input: the bias is corrected for it, where that can be.
    """
    found = _stem(layer, parameters, moment)
    dense = found.dense()
    bias = take_up_mean(layer, dense, mean)
    return Rewrite(emit(model, layer, found), dense, bias)


def approximate(layer: Layer, parameters: Parameters, moment: FloatArray | None) -> Float32Array:
    """The dense weight[f, c, *kernel] of the stem that `apply` would put in the layer's place."""
    return _stem(layer, parameters, moment).dense()


def emit_random(model: Model, layer: Layer, parameters: Parameters, rng: np.random.Generator) -> None:
    """Replaces `layer` by a stem with random weights, its filters in any order, for timing."""
    encoder, decoder = random_weights(convolutions(layer.geometry, int(parameters["colours"])), rng)
    emit(model, layer, Stem(encoder, decoder, rng.permutation(layer.geometry.out_channels)))


def emit(model: Model, layer: Layer, found: Stem) -> list[Node]:
    """Replaces `layer` in `model` by the given stem.

    Returns:
        The new nodes, in topological order.
    """
    encoder, decoder = convolutions(layer.geometry, len(found.encoder))
    nodes: list[Node] = []
    source = convolve(layer, "encoder", encoder, found.encoder, layer.source, nodes)
    bias = reordered_bias(layer, found.order, nodes)
    source = convolve(layer, "decoder", decoder, found.decoder, source, nodes, bias)
    reorder(layer, "outputs", source, np.argsort(found.order), 1, nodes)
    put_in_place(model, layer, nodes)
    return nodes


def _stem(layer: Layer, parameters: Parameters, moment: FloatArray | None) -> Stem:
    return stem(layer.weight, int(parameters["colours"]), moment)
