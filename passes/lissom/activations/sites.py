"""The activations that can be pruned: the tensors that layers read.

From the input of a layer the graph is followed back through operators that only move elements about or choose among
them (`FOLLOWED`), to the tensor that something computes: that is the *site*, usually what an activation function gives.
All that reads it reads the pruned tensor, a residual sum too: the mask is on the output of the activation function.
Declined, with a `Refusal`, is a site

1. that is an input of the network, or a constant: the first layer reads all of its input;
2. that no layer gives: an input of the network that the graph itself normalises;
3. that is an output of the network too.

What no layer reads, such as what the output layer gives, is no site. In a residual network the sites of one stage are
taken together (`by_stage`), because what a stage adds up passes through all its blocks.

Source: Integral Pruning on Activations and Weights for Efficient Neural Networks (ICLR 2019 submission): the output
layer and the network's input are exempt, winner rates of a ResNet are set per unit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lissom.graph.layers import Layer
from lissom.graph.model import Model, Tensor, is_constant, is_standard, is_variable
from lissom.options import Refusal

KIND = "winners"
"""Name of the kind of options, and of its refusals."""

FOLLOWED = ("MaxPool", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Dropout", "Identity")
"""Operators that may stand between a site and a layer that reads it."""


@dataclass(frozen=True)
class ActivationSite:
    """A tensor that can be pruned.

    Attributes:
        tensor: its name.
        activation: operator that computes it ("Relu", "Add").
        axis: where its channels are: -1 where a MatMul gives it or reads it as it is, else 1.
        readers: layers that read it.
    """

    tensor: str
    activation: str
    axis: Literal[1, -1]
    readers: Sequence[str]


@dataclass(frozen=True)
class Sites:
    """The sites of a model, in topological order of their first readers, and what was declined.

    Attributes:
        sites: the sites.
        read: layer -> the tensor that it reads in the end, a site or not.
        given: layer -> the site that its output reaches first; the output layer reaches none.
        refusals: what was declined.
    """

    sites: Sequence[ActivationSite]
    read: Mapping[str, str]
    given: Mapping[str, str]
    refusals: Sequence[Refusal]


def find_sites(model: Model, layers: Sequence[Layer]) -> Sites:
    """Finds the activations that can be pruned.

    Args:
        model: a canonical model.
        layers: its layers.
    """
    roots = {layer.name: _root(layer.source) for layer in layers}
    readers: dict[str, list[Layer]] = defaultdict(list)
    for layer in layers:
        readers[roots[layer.name].name].append(layer)
    inputs, outputs = ({tensor.name for tensor in tensors} for tensors in (model.graph.inputs, model.graph.outputs))
    given = _given(roots, layers)
    computed = _behind(layers)
    of_products = {given.get(layer.name) for layer in layers if layer.op == "MatMul"}
    sites, refusals = [], []
    for name, found in readers.items():
        root = roots[found[0].name]
        if name in inputs:
            reason = "an input of the network is not pruned"
        elif not is_variable(root):
            reason = "a constant is not pruned"
        elif name in outputs:
            reason = "it is an output of the network"
        elif id(root) not in computed:
            reason = "no layer gives it: it is an input of the network, prepared"
        else:
            last = name in of_products or any(layer.op == "MatMul" and layer.source is root for layer in found)
            names = tuple(layer.name for layer in found)
            sites.append(ActivationSite(name, root.inputs[0].op, -1 if last else 1, names))
            continue
        refusals.append(Refusal(name, KIND, reason))
    return Sites(sites, {layer: root.name for layer, root in roots.items()}, given, refusals)


def by_stage(
    model: Model, sites: Sequence[ActivationSite], shapes: Mapping[str, tuple[int, ...]]
) -> list[list[ActivationSite]]:
    """The sites whose winner rate is one: in a residual network those of the same spatial extent, else each alone.

    Args:
        model: the model.
        sites: its sites.
        shapes: shape of each site's tensor.
    """
    groups: dict[object, list[ActivationSite]] = defaultdict(list)
    residual = is_residual(model)
    for site in sites:
        spatial = shapes[site.tensor][2:] if site.axis == 1 else ()
        groups[spatial if residual and spatial else site.tensor].append(site)
    return list(groups.values())


def is_residual(model: Model) -> bool:
    """Whether computed tensors are added up somewhere."""
    return any(
        (is_standard(node, "Add") or is_standard(node, "Sum"))
        and sum(not is_constant(tensor) for tensor in node.inputs) > 1
        for node in model.graph.nodes
    )


def _root(tensor: Tensor) -> Tensor:
    """The tensor that is computed, from one that a layer reads."""
    while tensor.inputs and any(is_standard(tensor.inputs[0], op) for op in FOLLOWED):
        tensor = tensor.inputs[0].inputs[0]
    return tensor


def _behind(layers: Sequence[Layer]) -> set[int]:
    """Identities of the tensors that depend on what a layer gives."""
    waiting, seen = [tensor for layer in layers for tensor in layer.node.outputs], set[int]()
    while waiting:
        tensor = waiting.pop()
        if id(tensor) not in seen:
            seen.add(id(tensor))
            waiting.extend(given for reader in tensor.outputs for given in reader.outputs)
    return seen


def _given(roots: Mapping[str, Tensor], layers: Sequence[Layer]) -> dict[str, str]:
    """Layer -> the tensor among `roots` that its output reaches without passing another one or a layer."""
    names = {id(layer.node): layer.name for layer in layers}
    ends = {root.name: root for root in roots.values()}
    given: dict[str, str] = {}
    for name, root in ends.items():
        waiting, seen = list(root.inputs), set()
        while waiting:
            node = waiting.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            if id(node) in names:
                given.setdefault(names[id(node)], name)
                continue
            waiting.extend(producer for t in node.inputs if t.name not in ends for producer in t.inputs)
    return given
