"""Nodes that several kinds emit: a convolution from its factor, and a gather where channels change their order."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from lissom.graph.layers import Layer
from lissom.graph.model import Node, Tensor, constant, is_constant, make_node, variable
from lissom.lowrank.factors import Float32Array
from lissom.lowrank.pairs import Factor
from lissom.options import IntArray
from lissom.rewrite import conv_attributes

INDEX_BYTES = 8
"""Of one index of a gather."""


def convolve(
    layer: Layer,
    role: str,
    factor: Factor,
    weight: Float32Array,
    source: Tensor,
    nodes: list[Node],
    bias: Tensor | None = None,
) -> Tensor:
    """Appends one convolution of those in a layer's place; returns what it gives out."""
    result = variable(f"{layer.name}/lissom_{role}_out", like=layer.source)
    inputs = [source, constant(f"{layer.name}/lissom_{role}", weight), *([] if bias is None else [bias])]
    nodes.append(make_node("Conv", "", inputs, [result], conv_attributes(factor.geometry, factor.groups)))
    return result


def reorder(layer: Layer, role: str, source: Tensor, places: IntArray, axis: int, nodes: list[Node]) -> Tensor:
    """The tensor whose channel n is channel places[n] of `source`.

    It is `source` itself where nothing moves, a constant where that is one, and else what an appended Gather gives.
    """
    if (places == np.arange(len(places))).all():
        return source
    if is_constant(source):
        return constant(f"{layer.name}/lissom_{role}", np.take(source.values, places, axis))
    result = variable(f"{layer.name}/lissom_{role}_out", like=layer.source)
    stored = constant(f"{layer.name}/lissom_{role}", places.astype(np.int64))
    nodes.append(make_node("Gather", "", [source, stored], [result], {"axis": axis}))
    return result


def reordered_bias(layer: Layer, outputs: IntArray, nodes: list[Node]) -> Tensor | None:
    """The layer's bias, its channel n being channel outputs[n] of the layer; None where there is none."""
    return None if layer.bias is None else reorder(layer, "bias", layer.bias, outputs, 0, nodes)


def random_weights(factors: Iterable[Factor], rng: np.random.Generator) -> list[Float32Array]:
    """Weights of the right shapes and of unit gain, for timing."""
    shapes = [factor.weight_shape for factor in factors]
    return [(rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32) for shape in shapes]
