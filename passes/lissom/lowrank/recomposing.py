"""The inverse of the surgery: pairs become the layers again that they were made of.

An encoder and a decoder that `apply` put in the place of a layer are multiplied back into one dense layer of its name:
what it computes is what the pair does, whatever weights training gave them. So a network that was decomposed and
trained can be decomposed anew, and a pair is never decomposed itself.

Pairs are known by the provenance of their nodes: the first one says how it was cut, and all bear the layer's name with
a number behind. On every axis of a kernel one factor has extent 1, stride 1 and no padding, so that strides multiply,
pads add up, and the larger dilation is the layer's.

Declined, with a `Refusal`, are nodes

1. of which something else reads what is between them;
2. that are not those that `apply` makes, or whose weights do not fit one another.

Source: Liebenwein et al., ALDS (2021), appendix on iterative compression, and the authors' program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lissom.graph.model import Model, Node, constant, is_constant, make_node
from lissom.lowrank.factors import Float32Array
from lissom.lowrank.factors import recompose as multiplied
from lissom.lowrank.foldings import Scheme
from lissom.lowrank.propose import KIND
from lissom.options import Refusal
from lissom.version import __version__


@dataclass
class Recomposed:
    """What was done to a model.

    Attributes:
        layers: names of the layers that are dense again.
        refusals: what was declined.
    """

    layers: list[str] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)


def recompose(model: Model) -> Recomposed:
    """Makes every low-rank pair of a model one dense layer again, in place."""
    done = Recomposed()
    for name, nodes in _pairs(model).items():
        reason = _obstacle(model, nodes)
        dense = None if reason is not None else _dense(name, nodes, Scheme.of(model.provenance(nodes[0])["parameters"]))
        if dense is None:
            done.refusals.append(Refusal(name, KIND, reason or "its nodes are not those of a pair"))
            continue
        position = next(i for i, node in enumerate(model.graph.nodes) if node is nodes[0])
        gone = {id(node) for node in nodes}
        dense.outputs = [nodes[-1].outputs[0]]
        for node in nodes:
            node.inputs.clear()
            node.outputs.clear()
        model.graph.nodes[position] = dense
        model.graph.nodes = [node for node in model.graph.nodes if id(node) not in gone]
        model.set_provenance(dense, {"kind": "recomposed", "from": name, "lissom": __version__})
        done.layers.append(name)
    return done


def _pairs(model: Model) -> dict[str, list[Node]]:
    """The nodes of each pair, by the name of the layer that it was."""
    nodes = {node.name: node for node in model.graph.nodes}
    found: dict[str, list[Node]] = {}
    for node in model.graph.nodes:
        told = model.provenance(node)
        name = told.get("from")
        if told.get("kind") == KIND and node.name == f"{name}/lissom_0":
            number, chain = 0, found.setdefault(str(name), [])
            while f"{name}/lissom_{number}" in nodes:
                chain.append(nodes[f"{name}/lissom_{number}"])
                number += 1
    return found


def _obstacle(model: Model, nodes: Sequence[Node]) -> str | None:
    """Why some nodes cannot be one, or None."""
    read = {id(tensor) for node in nodes for tensor in node.inputs}
    for node in nodes[:-1]:
        output = node.outputs[0]
        if model.consumers(output) != 1 or id(output) not in read:
            return f"something else than its own nodes reads what {node.name} gives"
    return None


def _dense(name: str, nodes: Sequence[Node], scheme: Scheme) -> Node | None:
    """The layer, not yet in the graph and without an output, or None where the nodes are no pair."""
    if [node.op for node in nodes] == ["Conv", "Conv"]:
        encoder, decoder = nodes
        if len(encoder.inputs) > 2 or not (is_constant(encoder.inputs[1]) and is_constant(decoder.inputs[1])):
            return None
        weight = _multiplied(encoder.inputs[1].values, decoder.inputs[1].values, scheme)
        if weight is None:
            return None
        inputs = [encoder.inputs[0], constant(f"{name}/lissom_weight", weight), *decoder.inputs[2:]]
        return make_node("Conv", name, inputs, [], _joined(encoder.attrs, decoder.attrs, weight.shape[2:]))
    return _linear(name, list(nodes), scheme)


def _joined(encoder: Mapping[str, Any], decoder: Mapping[str, Any], kernel: Sequence[int]) -> dict[str, Any]:
    """The attributes of a Conv whose axes are owned by the one or the other of two."""
    axes = len(kernel)

    def both(name: str, default: int, extents: int) -> list[tuple[int, int]]:
        return list(zip(*(attrs.get(name, [default] * extents) for attrs in (encoder, decoder)), strict=True))

    attributes: dict[str, Any] = {
        "kernel_shape": list(kernel),
        "strides": [one * other for one, other in both("strides", 1, axes)],
        "dilations": [max(found) for found in both("dilations", 1, axes)],
        "group": 1,
    }
    auto_pad = encoder.get("auto_pad", "NOTSET")
    if auto_pad not in ("NOTSET", "VALID"):
        return attributes | {"auto_pad": auto_pad}
    return attributes | {"pads": [sum(found) for found in both("pads", 0, 2 * axes)]}


def _linear(name: str, nodes: list[Node], scheme: Scheme) -> Node | None:
    """A Gemm or MatMul in the place of two products, each one node or a batched one, and what adds the bias."""
    source = nodes[0].inputs[0]
    encoder = _factor(nodes)
    last = nodes[0] if nodes else None
    decoder = _factor(nodes)
    if encoder is None or decoder is None:
        return None
    weight = _multiplied(encoder, decoder, scheme)
    if weight is None:
        return None
    if last is not None and last.op == "Gemm" and not nodes:
        bias, beta = last.inputs[2:], last.attrs.get("beta", 1.0)
    elif [node.op for node in nodes] in (["Add"], ["Mul", "Add"]):
        bias, beta = [nodes[-1].inputs[1]], 1.0
        if nodes[0].op == "Mul":
            bias, beta = [nodes[0].inputs[0]], float(nodes[0].inputs[1].values)
    elif nodes:
        return None
    else:
        return make_node("MatMul", name, [source, constant(f"{name}/lissom_weight", weight.T)], [])
    inputs = [source, constant(f"{name}/lissom_weight", weight), *bias]
    return make_node("Gemm", name, inputs, [], {"transB": 1, "beta": beta} if bias else {"transB": 1})


def _factor(nodes: list[Node]) -> Float32Array | None:
    """The weight[out, in / groups] of the product at the head of some nodes, which are taken off."""
    grouped = [node.op for node in nodes[:5]] == ["Reshape", "Transpose", "MatMul", "Transpose", "Reshape"]
    product = nodes[2] if grouped else nodes[0] if nodes else None
    if product is None or product.op not in ("Gemm", "MatMul") or not is_constant(product.inputs[1]):
        return None
    del nodes[: 5 if grouped else 1]
    values: Float32Array = product.inputs[1].values
    if grouped:
        matrices = values.reshape(values.shape[0], *values.shape[-2:]).swapaxes(1, 2)
        return matrices.reshape(-1, values.shape[-2])
    return values if product.op == "Gemm" and product.attrs.get("transB", 0) else values.T


def _multiplied(encoder: Float32Array, decoder: Float32Array, scheme: Scheme) -> Float32Array | None:
    """The dense weight of two factors, or None where they do not fit."""
    try:
        return np.ascontiguousarray(multiplied(encoder, decoder, scheme.side, scheme.groups))
    except ValueError:
        return None
