"""What follows a layer before the network stops being linear in its output.

A convolution is often followed by a sum with a shortcut and by a clipping activation,

    r = clip(y + a, low, high),        Relu: low = 0, high = inf,

and then nobody reads y itself. What the layer should give is best said of r: an error of y where both sides are clipped
costs nothing, and an error of a (the shortcut carries those of earlier layers) can be made good by y. A `Tail` says
which tensor that is. The walk along Add nodes goes on as long as

1. the sum is the only reader of the tensor so far, which is no output of the graph;
2. the sum has the shape of the layer's output, so that y is not repeated in it;
3. what is added depends on no layer that is decided later than this one (of two layers that end in one Add, the later
   one gets the sum).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from lissom.graph.extract import reads
from lissom.graph.layers import Layer
from lissom.graph.model import Model
from lissom.observe import observe_shapes

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Tail:
    """What a layer's output becomes.

    Attributes:
        target: the tensor by which the layer is judged: its output, or the sum that it ends in.
        addends: what is added to the output on the way there; constants are in `constants`.
        constants: the addends that are constants, by name.
        low, high: to what the only reader of `target` clips it; infinite where it does not.
    """

    target: str
    addends: Sequence[str]
    constants: Mapping[str, Array]
    low: float = -np.inf
    high: float = np.inf

    @property
    def computed(self) -> list[str]:
        """The addends that are no constants."""
        return [name for name in self.addends if name not in self.constants]

    @property
    def clips(self) -> bool:
        """Whether anything is lost behind the target."""
        return bool(np.isfinite(self.low) or np.isfinite(self.high))

    def clip(self, values: Array) -> Array:
        """What the rest of the network sees of values of the target."""
        return np.clip(values, self.low, self.high) if self.clips else values

    def goal(self, wanted: Array, given: Array) -> Array:
        """The goal g with |clip(wanted) - clip(p)|² ≤ (g - p)² for every p.

        What is wanted beyond a limit is as good anywhere beyond it, so where `given` is there too it may stay. The
        two sides are equal at p = `given` unless that is beyond a limit and `wanted` is not beyond the same one.
        """
        goal = wanted
        if np.isfinite(self.low):
            goal = np.where(wanted <= self.low, np.minimum(given, self.low), goal)
        if np.isfinite(self.high):
            goal = np.where(wanted >= self.high, np.maximum(given, self.high), goal)
        return goal


def find_tails(model: Model, layers: Sequence[Layer], feeds: Mapping[str, Array]) -> dict[str, Tail]:
    """The tail of each layer, by name.

    Args:
        model: a canonical model.
        layers: the layers that are decided, in that order, which is topological.
        feeds: one input, for the shapes.

    Raises:
        LoadError: ONNX Runtime cannot run the model.
    """
    graph = model.to_proto().graph
    outputs = [layer.node.outputs[0].name for layer in layers]
    sums = [node.output[0] for node in graph.node if _is(node, "Add")]
    shapes = observe_shapes(model, list(dict.fromkeys([*outputs, *sums])), feeds)
    walk = _Walk(graph, {name: number for number, name in enumerate(outputs)}, shapes)
    return {layer.name: walk.tail(name) for layer, name in zip(layers, outputs, strict=True)}


class _Walk:
    """Who reads what in a graph, and which layers each tensor depends on."""

    def __init__(self, graph: onnx.GraphProto, order: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._shapes = shapes
        self._order = order
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._readers: dict[str, list[onnx.NodeProto | None]] = {value.name: [None] for value in graph.output}
        self._latest: dict[str, int] = {}
        for node in graph.node:  # in topological order
            read = list(reads(node))
            for name in read:
                self._readers.setdefault(name, []).append(node)
            latest = max((self._latest.get(name, -1) for name in read), default=-1)
            self._latest |= {name: max(latest, order.get(name, -1)) for name in node.output if name}

    def tail(self, output: str) -> Tail:
        """The tail of the layer whose output this is."""
        tensor, addends = output, []
        while (node := self._only_reader(tensor)) is not None and _is(node, "Add"):
            other = node.input[1] if node.input[0] == tensor else node.input[0]
            repeated = self._shapes[node.output[0]] != self._shapes[output]
            if repeated or self._latest.get(other, -1) >= self._order[output]:
                break
            addends.append(other)
            tensor = node.output[0]
        constants = {
            name: onnx.numpy_helper.to_array(self._constants[name]) for name in addends if name in self._constants
        }
        return Tail(tensor, tuple(addends), constants, *self._limits(self._only_reader(tensor)))

    def _only_reader(self, tensor: str) -> onnx.NodeProto | None:
        readers = self._readers.get(tensor, [])
        return readers[0] if len(readers) == 1 else None

    def _limits(self, node: onnx.NodeProto | None) -> tuple[float, float]:
        """To what a node clips its input."""
        if node is not None and _is(node, "Relu"):
            return 0.0, float("inf")
        if node is None or not _is(node, "Clip"):
            return -float("inf"), float("inf")
        given = {attribute.name: attribute.f for attribute in node.attribute}
        limits = [given.get("min", -float("inf")), given.get("max", float("inf"))]
        for place, name in enumerate(node.input[1:3]):
            if name and name not in self._constants:
                return -float("inf"), float("inf")
            if name:
                limits[place] = float(onnx.numpy_helper.to_array(self._constants[name]).item())
        return limits[0], limits[1]


def _is(node: onnx.NodeProto, op: str) -> bool:
    """Whether `node` is the standard ONNX operator `op`."""
    return node.op_type == op and node.domain in ("", "ai.onnx")
