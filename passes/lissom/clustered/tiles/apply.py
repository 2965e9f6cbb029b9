"""Surgery: puts the two grouped convolutions of a tiling in the place of one.

    x[c] -> (gather) -> κ1×κ2 conv in G groups -> (gather) -> 1×1 conv in H groups, with the bias -> (gather) -> y[f]

The first and the last gather stand where channels are clustered and their order is another than before, the middle one
where G and H are both above 1. Strides, dilations and padding are those of the layer and go to the first convolution.
Where the mean m of the layer's input is known, the bias takes up the mean error (W − Ŵ) m.
"""

from __future__ import annotations

import numpy as np

from lissom.clustered.tiles.factors import Order, Tiles, Tiling, tiles
from lissom.emit import convolve, random_weights, reorder, reordered_bias
from lissom.graph.layers import Layer
from lissom.graph.model import Model, Node
from lissom.lowrank.factors import Float32Array
from lissom.options import FloatArray, Parameters
from lissom.rewrite import Rewrite, put_in_place, take_up_mean


def apply(
    model: Model, layer: Layer, parameters: Parameters, moment: FloatArray | None, mean: FloatArray | None = None
) -> Rewrite:
    """Replaces `layer` by the tiles that approximate its weight.

    Args:
        model: the model that holds `layer.node`.
        layer: the convolution to replace.
        parameters: inputs, outputs, order and rank.
        moment: second moment[columns, columns] of the layer's input, about `mean` where that is given: the factors
            are fitted under it.
        mean: mean[columns] of the layer's input: the bias is corrected for it, where that can be.
    """
    found = _tiles(layer, parameters, moment)
    dense = found.dense(Tiling.of(parameters))
    bias = take_up_mean(layer, dense, mean)
    return Rewrite(emit(model, layer, parameters, found), dense, bias)


def approximate(layer: Layer, parameters: Parameters, moment: FloatArray | None) -> Float32Array:
    """The dense weight[f, c, *kernel] of the tiles that `apply` would put in the layer's place."""
    return _tiles(layer, parameters, moment).dense(Tiling.of(parameters))


def emit_random(model: Model, layer: Layer, parameters: Parameters, rng: np.random.Generator) -> None:
    """Replaces `layer` by tiles with random weights, for timing; clustered channels in any order."""
    tiling = Tiling.of(parameters)
    encoder, decoder = random_weights(tiling.convolutions(layer.geometry, int(parameters["rank"])), rng)
    shuffle = rng.permutation if tiling.order == "clustered" else np.arange
    order = Order(shuffle(layer.geometry.in_channels), shuffle(layer.geometry.out_channels))
    emit(model, layer, parameters, Tiles(encoder, decoder, order))


def emit(model: Model, layer: Layer, parameters: Parameters, found: Tiles) -> list[Node]:
    """Replaces `layer` in `model` by the given tiles.

    Args:
        model: the model that holds `layer.node`.
        layer: the convolution to replace.
        parameters: inputs, outputs, order and rank.
        found: the factors.

    Returns:
        The new nodes, in topological order.
    """
    tiling, rank = Tiling.of(parameters), int(parameters["rank"])
    encoder, decoder = tiling.convolutions(layer.geometry, rank)
    nodes: list[Node] = []
    source = reorder(layer, "inputs", layer.source, found.order.inputs, 1, nodes)
    source = convolve(layer, "encoder", encoder, found.encoder, source, nodes)
    source = reorder(layer, "between", source, tiling.between(rank), 1, nodes)
    bias = reordered_bias(layer, found.order.outputs, nodes)
    source = convolve(layer, "decoder", decoder, found.decoder, source, nodes, bias)
    reorder(layer, "outputs", source, np.argsort(found.order.outputs), 1, nodes)
    put_in_place(model, layer, nodes)
    return nodes


def _tiles(layer: Layer, parameters: Parameters, moment: FloatArray | None) -> Tiles:
    return tiles(layer.weight, Tiling.of(parameters), int(parameters["rank"]), moment)
