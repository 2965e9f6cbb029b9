"""Surgery: puts an encoder/decoder pair in the place of a layer.

A convolution becomes two convolutions. A linear layer becomes two products; ONNX has no
grouped Gemm, so a grouped factor is a batched MatMul over the groups:

    x[..., c] -> [..., k, c/k] -> [k, ..., c/k] @ [k, c/k, j] -> [..., k, j] -> [..., k j]

The bias moves to the decoder, which keeps the name of the layer's output. Where the mean m of
the layer's input is known, the bias takes up the mean error (W − Ŵ) m of the pair, so that what
is left to the factors is the error about the mean. Nothing is done here but what an `Option`
says; whether it is a good idea was decided before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lissom.graph.layers import Layer
from lissom.graph.model import Model, Node, Tensor, constant, make_node, variable
from lissom.lowrank.factors import Float32Array, factors, recompose
from lissom.lowrank.foldings import Scheme
from lissom.lowrank.pairs import Factor, Pair, pair
from lissom.options import FloatArray, Parameters
from lissom.rewrite import Rewrite, conv_attributes, put_in_place, take_up_mean


def apply(
    model: Model, layer: Layer, parameters: Parameters, moment: FloatArray | None, mean: FloatArray | None = None
) -> Rewrite:
    """Replaces `layer` by the pair that approximates its weight best.

    Args:
        model: the model that holds `layer.node`.
        layer: the layer to replace.
        parameters: folding, side, groups and rank.
        moment: second moment[columns, columns] of the layer's input, about `mean` where that is given: factors
            fitted under it.
        mean: mean[columns] of the layer's input: the bias is corrected for it, where that can be.
    """
    weights = _factors(layer, parameters, moment)
    dense = _recomposed(parameters, weights)
    bias = take_up_mean(layer, dense, mean)
    return Rewrite(emit(model, layer, parameters, weights), dense, bias)


def approximate(layer: Layer, parameters: Parameters, moment: FloatArray | None) -> Float32Array:
    """The dense weight[f, c, *kernel] of the pair that `apply` would put in the layer's place."""
    return _recomposed(parameters, _factors(layer, parameters, moment))


def _factors(layer: Layer, parameters: Parameters, moment: FloatArray | None) -> tuple[Float32Array, Float32Array]:
    """Encoder and decoder, fitted under the moment where the scheme has that."""
    return factors(layer.weight, Scheme.of(parameters), int(parameters["rank"]), moment)


def _recomposed(parameters: Parameters, weights: tuple[Float32Array, Float32Array]) -> Float32Array:
    scheme = Scheme.of(parameters)
    return recompose(*weights, scheme.side, scheme.groups)


def emit_random(model: Model, layer: Layer, parameters: Parameters, rng: np.random.Generator) -> None:
    """Replaces `layer` by a pair with random weights, for timing."""
    emit(model, layer, parameters, _random_weights(layer, parameters, rng))


def emit(model: Model, layer: Layer, parameters: Parameters, weights: tuple[Float32Array, Float32Array]) -> list[Node]:
    """Replaces `layer` in `model` by the pair with the given weights.

    Args:
        model: the model that holds `layer.node`.
        layer: the layer to replace.
        parameters: folding, side, groups and rank.
        weights: encoder and decoder in the layout of `factors`.

    Returns:
        The new nodes, in topological order.
    """
    scheme, rank = Scheme.of(parameters), int(parameters["rank"])
    shape = pair(layer.geometry, scheme, rank)
    nodes = _convolutions(layer, shape, weights) if layer.op == "Conv" else _products(layer, shape, weights)
    put_in_place(model, layer, nodes)
    return nodes


def _random_weights(
    layer: Layer, parameters: Parameters, rng: np.random.Generator
) -> tuple[Float32Array, Float32Array]:
    """Weights of the right shapes and of unit gain, for timing a pair that was not factorised."""
    shape = pair(layer.geometry, Scheme.of(parameters), int(parameters["rank"]))

    def draw(factor: Factor) -> Float32Array:
        fan_in = max(factor.params // factor.weight_shape[0], 1)
        weight: Float32Array = (rng.standard_normal(factor.weight_shape) / np.sqrt(fan_in)).astype(np.float32)
        return weight

    return draw(shape.encoder), draw(shape.decoder)


def _convolutions(layer: Layer, shape: Pair, weights: tuple[Float32Array, Float32Array]) -> list[Node]:
    middle = variable(f"{layer.name}/lissom_middle", like=layer.source)
    encoder = make_node(
        "Conv",
        "",
        [layer.source, constant(f"{layer.name}/lissom_encoder", weights[0])],
        [middle],
        conv_attributes(shape.encoder.geometry, shape.encoder.groups),
    )
    bias = [] if layer.bias is None else [layer.bias]
    decoder = make_node(
        "Conv",
        "",
        [middle, constant(f"{layer.name}/lissom_decoder", weights[1]), *bias],
        [],
        conv_attributes(shape.decoder.geometry, shape.decoder.groups),
    )
    return [encoder, decoder]


def _products(layer: Layer, shape: Pair, weights: tuple[Float32Array, Float32Array]) -> list[Node]:
    nodes: list[Node] = []
    middle = _product(layer, "encoder", shape.encoder, weights[0], layer.source, nodes)
    _product(layer, "decoder", shape.decoder, weights[1], middle, nodes)
    if layer.op == "Gemm":
        _add_bias(layer, nodes)
    return nodes


def _product(
    layer: Layer, role: str, factor: Factor, weight: Float32Array, source: Tensor, nodes: list[Node]
) -> Tensor:
    """Appends the nodes of one factor; returns the tensor they produce."""
    stem = f"{layer.name}/lissom_{role}"

    def step(op: str, inputs: Sequence[Tensor], attrs: Mapping[str, Any] | None = None) -> Tensor:
        result = variable(f"{stem}_out{len(nodes)}", like=layer.source)
        nodes.append(make_node(op, "", inputs, [result], attrs))
        return result

    groups, lead = factor.groups, layer.source_rank - 1  # `lead` leading axes before the channels
    if groups == 1:
        if layer.op == "Gemm":
            return step("Gemm", [source, constant(stem, weight)], {"transB": 1})
        return step("MatMul", [source, constant(stem, weight.T)])
    width_in, width_out = weight.shape[1], weight.shape[0] // groups
    split = constant(f"{stem}_split", np.array([0] * lead + [groups, width_in], np.int64))
    join = constant(f"{stem}_join", np.array([0] * lead + [groups * width_out], np.int64))
    matrices = weight.reshape(groups, width_out, width_in).swapaxes(1, 2)
    matrices = matrices.reshape(groups, *[1] * (lead - 1), width_in, width_out)
    parts = step("Reshape", [source, split])
    parts = step("Transpose", [parts], {"perm": [lead, *range(lead), lead + 1]})
    parts = step("MatMul", [parts, constant(stem, matrices)])
    parts = step("Transpose", [parts], {"perm": [*range(1, lead + 1), 0, lead + 1]})
    return step("Reshape", [parts, join])


def _add_bias(layer: Layer, nodes: list[Node]) -> None:
    """Lets the last product of a Gemm add the layer's bias, scaled by its beta."""
    if layer.bias is None:
        return
    beta = layer.node.attrs.get("beta", 1.0)
    if nodes[-1].op == "Gemm":
        nodes[-1].inputs.append(layer.bias)
        nodes[-1].attrs["beta"] = beta
        return
    bias = layer.bias
    if beta != 1.0:
        scaled = variable(f"{layer.name}/lissom_bias", like=layer.source)
        factor = constant(f"{layer.name}/lissom_beta", np.array(beta, np.float32))
        nodes.append(make_node("Mul", "", [bias, factor], [scaled]))
        bias = scaled
    product = nodes[-1 if beta == 1.0 else -2].outputs[0]
    nodes.append(make_node("Add", "", [product, bias], [variable(f"{layer.name}/lissom_sum", like=layer.source)]))
