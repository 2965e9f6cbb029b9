"""What single options of one layer do to the outputs of a network, as work that any process can do.

Only what depends on the layer runs again: its input and whatever else the nodes behind it read is kept from one run of
the original (`graph.extract`). Weight and bias are inputs of that network, so that all probes share one session.
ONNX Runtime has one thread in it, as BLAS has, so that the result does not depend on who runs it.

A *probe* is an option that is measured. The candidates of a kind lie along a curve, distortion over the error of the
weight, both on a log scale. Its two ends are measured, and between two measured candidates the middle one, until it
lies within a factor of `STRAIGHT` of the line between them: a straight curve takes three runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Any

import numpy as np
import numpy.typing as npt
from lissom_runtime.session import open_session, run_session

from lissom.graph.geometry import Geometry
from lissom.graph.layers import Layer
from lissom.graph.model import constant, is_constant, make_node, variable
from lissom.options import FloatArray, Parameters
from lissom.price.outputs import FLOOR, distortion
from lissom.rewrite import corrected_bias, own_bias, stored_weight

STRAIGHT = 1.25
"""A curve is measured no finer where the middle of a piece is within this factor of the line between its ends."""

Array = npt.NDArray[Any]
Approximate = Callable[[Layer, Parameters, FloatArray | None], Array]
"""The dense weight that an option stands for; each kind has one."""


@dataclass(frozen=True)
class Candidates:
    """What may be probed of one kind of options.

    Attributes:
        kind: the kind.
        error: error[n] of their weights, ascending and above 0.
        parameters: what the options are.
        known: distortions that were measured before, by position.
    """

    kind: str
    error: FloatArray
    parameters: Sequence[Parameters]
    known: Mapping[int, float]


@dataclass(frozen=True)
class Apart:
    """A layer without its graph, as plain data.

    Attributes:
        name, op, weight, geometry, source_rank, readers: as of `Layer`.
        attributes: those of the node.
        bias: what the node adds, or None where it adds nothing or what is computed.
        has_bias: whether it adds anything.
    """

    name: str
    op: str
    weight: Array
    geometry: Geometry
    source_rank: int
    readers: int
    attributes: Mapping[str, Any]
    bias: Array | None
    has_bias: bool

    @classmethod
    def of(cls, layer: Layer) -> Apart:
        """What `layer` is."""
        bias = layer.bias.values if layer.bias is not None and is_constant(layer.bias) else None
        plain = (layer.weight, layer.geometry, layer.source_rank, layer.readers)
        return cls(layer.name, layer.op, *plain, dict(layer.node.attrs), bias, layer.bias is not None)

    def layer(self) -> Layer:
        """The layer with a node of its own, in no graph."""
        inputs = [variable("source", None), variable("weight", None)]
        if self.has_bias:
            inputs.append(variable("bias", None) if self.bias is None else constant("bias", self.bias))
        node = make_node(self.op, self.name, inputs, [variable("output", None)], self.attributes)
        return Layer(self.name, self.op, node, self.weight, self.geometry, self.source_rank, self.readers)


@dataclass(frozen=True)
class Behind:
    """The part of a network that depends on one layer, with the data to run it.

    Attributes:
        layer: the layer.
        proto: that part, whose inputs are the layer's weight and bias and what it reads of the rest.
        numbers: names of its inputs for the weight, and for the bias where that may be replaced.
        batches: what it reads of the rest, by name, batch by batch.
        outputs: names of the network's outputs.
        original: the original network's, batch by batch.
        classifies: see `outputs.distortion`.
        candidates: what may be probed, one a kind.
        moment: second moment[columns, columns] of the layer's input, or None.
        mean: mean[columns] of it, or None.
    """

    layer: Apart
    proto: bytes
    numbers: Sequence[str]
    batches: Sequence[Mapping[str, Array]]
    outputs: Sequence[str]
    original: Sequence[Sequence[Array]]
    classifies: bool
    candidates: Sequence[Candidates]
    moment: FloatArray | None
    mean: FloatArray | None


def probe(approximate: Mapping[str, Approximate], behind: Behind) -> list[dict[int, float]]:
    """The distortions of some of the candidates, by position, one a kind.

    Args:
        approximate: the weight that an option stands for, by kind.
        behind: what is run.

    Raises:
        UsageError: an output is NaN or infinite.
    """
    session = open_session(behind.proto)
    layer = behind.layer.layer()
    bias = own_bias(layer)

    def measured(weight: Array) -> float:
        given = {behind.numbers[0]: stored_weight(layer, weight)}
        if bias is not None:
            corrected = corrected_bias(layer, weight, behind.mean)
            given[behind.numbers[1]] = bias if corrected is None else corrected
        changed = (run_session(session, {**feeds, **given}, behind.outputs) for feeds in behind.batches)
        return max(distortion(zip(behind.original, changed, strict=True), behind.classifies), FLOOR)

    found = []
    for asked in behind.candidates:

        def measure(index: int, asked: Candidates = asked) -> float:
            if index in asked.known:
                return asked.known[index]
            return measured(approximate[asked.kind](layer, asked.parameters[index], behind.moment))

        found.append(refine(asked.error, measure))
    return found


def refine(error: FloatArray, measure: Callable[[int], float]) -> dict[int, float]:
    """What `measure` gives for as many of the candidates as their curve asks for, by position.

    Args:
        error: error[n] of the candidates, ascending and above 0.
        measure: the distortion of a candidate, above 0.
    """
    last = len(error) - 1
    found = {index: measure(index) for index in sorted({0, last})}
    pieces = [(0, last)]
    while pieces:
        low, high = pieces.pop()
        if high - low < 2:
            continue
        middle = (low + high) // 2
        found[middle] = measure(middle)
        ends = np.log([error[low], error[high]])
        line = np.interp(log(error[middle]), ends, np.log([found[low], found[high]]))
        if not exp(line) / STRAIGHT <= found[middle] <= exp(line) * STRAIGHT:
            pieces += [(middle, high), (low, middle)]
    return found
