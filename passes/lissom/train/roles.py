"""Which constants of a graph are weights, and of what kind.

A constant's role is what the nodes that read it take it for, looked for through nodes that only give it another shape:

    weight     second input of Conv and ConvTranspose, either factor of Gemm and MatMul
    bias       third input of these; addend of a tensor that depends on a layer, with more than one element
    scale      second input of a normalisation; factor of a tensor that depends on a layer, with more than one element
    shift      third input of a normalisation
    slope      second input of PRelu
    statistic  mean or variance of a BatchNormalization
    other      anything else: limits, numbers of elements, means and deviations that prepare the input of the network

A constant that is read as several things has the first role of that list among them, unless one is "statistic".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from lissom.train.node import Node

ROLES = ("weight", "bias", "scale", "shift", "slope", "statistic", "other")

_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_THROUGH = frozenset({"Identity", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Cast", "Expand"})
_BY_POSITION: Mapping[str, Mapping[int, str]] = {
    "Conv": {1: "weight", 2: "bias"},
    "ConvTranspose": {1: "weight", 2: "bias"},
    "Gemm": {0: "weight", 1: "weight", 2: "bias"},
    "MatMul": {0: "weight", 1: "weight"},
    "BatchNormalization": {1: "scale", 2: "shift", 3: "statistic", 4: "statistic"},
    "InstanceNormalization": {1: "scale", 2: "shift"},
    "LayerNormalization": {1: "scale", 2: "shift"},
    "PRelu": {1: "slope"},
}
_BROADCAST: Mapping[str, str] = {"Add": "addend", "Sub": "addend", "Mul": "factor", "Div": "factor"}
_OF_MANY: Mapping[str, str] = {"addend": "bias", "factor": "scale"}
"""What an addend or a factor is that has more than one element."""


@dataclass(frozen=True)
class Weight:
    """A floating-point constant of a graph.

    Attributes:
        name: of its tensor.
        role: one of `ROLES`.
        shape: extent per axis.
    """

    name: str
    role: str
    shape: tuple[int, ...]


def is_learned(weight: Weight) -> bool:
    """Whether training usually changes it: all but statistics and what has no role."""
    return weight.role not in ("statistic", "other")


def find_weights(nodes: Iterable[Node], shapes: Mapping[str, tuple[int, ...]]) -> list[Weight]:
    """The constants with their roles.

    Args:
        nodes: in topological order.
        shapes: of the constants, by name.
    """
    ordered = list(nodes)
    behind = _behind_layers(ordered, shapes)
    found: dict[str, set[str]] = {}
    for node in reversed(ordered):
        if node.op in _THROUGH:
            found.setdefault(node.inputs[0], set()).update(found.get(node.outputs[0], ()))
            continue
        for position, name in enumerate(node.inputs):
            role = _BY_POSITION.get(node.op, {}).get(position, "other")
            if node.op in _BROADCAST and behind.intersection(node.inputs) - {name}:
                role = _BROADCAST[node.op]
            found.setdefault(name, set()).add(role)
    return [Weight(name, _role(found.get(name, set()), shape), shape) for name, shape in shapes.items()]


def _behind_layers(nodes: Iterable[Node], shapes: Mapping[str, tuple[int, ...]]) -> set[str]:
    """The tensors that depend on a layer."""
    behind: set[str] = set()
    for node in nodes:
        if node.op in _PRODUCTS or behind.intersection(node.inputs):
            behind.update(node.outputs)
    return behind - {""} - set(shapes)


def _role(roles: set[str], shape: tuple[int, ...]) -> str:
    """The first of `ROLES` among what a constant of this shape is read as."""
    if "statistic" in roles:
        return "statistic"
    known = {_OF_MANY.get(role, role) for role in roles if role not in _OF_MANY or prod(shape) > 1}
    return min(known or {"other"}, key=ROLES.index)
