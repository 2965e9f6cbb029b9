"""The walk over a graph that finds which channels are one, and the cut.

1. Nodes are met in topological order; `RULES` says what each operator does to channels. Operators that are not in it,
   and those with bodies (control flow), keep whatever reaches them.
2. Outputs of the graph, and what bodies capture, are kept.
3. Layers that bear one weight are cut alike, so that they can share it afterwards.
4. A tensor whose channels are not known (an input of the graph, what a kept operator gives) is *opaque*: layers that
   read it keep their columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from lissom.graph.channels import elementwise, layout, vectors, weights
from lissom.graph.channels.atoms import Channels, IntArray, Pin
from lissom.graph.channels.edits import Edit, Surgery
from lissom.graph.channels.flow import Declined, Flow
from lissom.graph.model import Model, Node, Tensor, is_constant, is_standard, is_variable
from lissom.graph.spec import require_legal

Rule = Callable[[Flow, Node], None]

WEIGHTS: Mapping[str, Rule] = MappingProxyType(
    {
        "Conv": weights.convolution,
        "ConvTranspose": weights.transposed_convolution,
        "Gemm": weights.gemm,
        "MatMul": weights.product,
    }
)
"""Operators whose rows and columns are cut."""

UNARY = frozenset(
    (
        *("Abs", "Cast", "Ceil", "Celu", "Clip", "Cos", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid"),
        *("HardSwish", "Identity", "LeakyRelu", "Log", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid"),
        *("Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Tanh", "ThresholdedRelu"),
    )
)
"""Operators that work on one tensor, number by number."""

BROADCAST = frozenset(
    ("Add", "Div", "Equal", "Greater", "Less", "Max", "Mean", "Min", "Mul", "PRelu", "Pow", "Sub", "Sum", "Where")
)
"""Operators that work on several tensors, number by number."""

POOLS = frozenset(("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool"))
"""Operators that pool over space."""

REDUCTIONS = frozenset(
    (
        *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"),
        *("ReduceProd", "ReduceSum", "ReduceSumSquare"),
    )
)
"""Operators that reduce axes."""

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        **WEIGHTS,
        **dict.fromkeys(UNARY, elementwise.unary),
        **dict.fromkeys(BROADCAST, elementwise.broadcast),
        **dict.fromkeys(POOLS, elementwise.pool),
        **dict.fromkeys(REDUCTIONS, elementwise.reduction),
        "BatchNormalization": weights.batch_normalization,
        "InstanceNormalization": weights.instance_normalization,
        "LayerNormalization": elementwise.layer_normalization,
        "Softmax": elementwise.softmax,
        "LogSoftmax": elementwise.softmax,
        "Reshape": layout.reshape,
        "Flatten": layout.refold,
        "Squeeze": layout.refold,
        "Unsqueeze": layout.refold,
        "Transpose": layout.transpose,
        "Concat": layout.concat,
        "Split": layout.split,
        "Slice": layout.slice_,
        "Gather": layout.gather,
        "Pad": layout.pad,
        "Resize": layout.resize,
        "Expand": layout.expand,
        "DepthToSpace": layout.depth_to_space,
        "SpaceToDepth": layout.space_to_depth,
        "Shape": vectors.extents,
    }
)
"""What each operator of the standard domain does to channels."""


@dataclass(frozen=True)
class Coupling:
    """Which channels of a model are one.

    A *root* names the atoms that are one; roots are the numbers of atoms, so that masks over both have one length.

    Attributes:
        roots: roots[atoms].
        rows: roots[out channels] of each layer.
        columns: roots[in channels] of each layer whose input has channels.
        through: roots[out channels] of each depthwise convolution.
        pins: why a root has to stay.
        declined: the layers that have no channels to cut, and why.
        edits: what is done to the nodes when roots go.
        tensors: the channel axes of tensors, in atoms.
    """

    roots: IntArray
    rows: Mapping[str, IntArray]
    columns: Mapping[str, IntArray]
    through: Mapping[str, IntArray]
    pins: Mapping[int, Pin]
    declined: Mapping[str, str]
    edits: Sequence[Edit]
    tensors: Mapping[str, Channels]

    def remove(self, model: Model, gone: IntArray) -> None:
        """Cuts the channels whose roots are `gone` out of a model, in place.

        Args:
            model: the model that was analysed, or a copy in which nodes and constants still have their shapes.
            gone: roots, without repetition.

        Raises:
            ValueError: a root is pinned, or a constant or tensor would be left without channels.
            VerificationError: the graph is not legal afterwards (a defect of the rules).
        """
        for root in gone:
            if int(root) in self.pins:
                pin = self.pins[int(root)]
                raise ValueError(f"expected channels that can be cut, but node {pin.node!r} {pin.reason}")
        keep = ~np.isin(self.roots, gone)
        for name, channels in self.tensors.items():
            if len(channels.atoms) and not keep[channels.atoms].any():
                raise ValueError(f"expected a channel to be left in every tensor, but {name!r} would have none")
        surgery = Surgery(model)
        for edit in self.edits:
            edit.apply(surgery, keep)
        for name, tensor in model.graph.tensors().items():
            if name in self.tensors and is_variable(tensor) and tensor.shape is not None:
                channels = self.tensors[name]
                if isinstance(tensor.shape[channels.axis], int):
                    extents = list(tensor.shape)
                    extents[channels.axis] = int(np.count_nonzero(keep[channels.atoms]))
                    tensor.shape = extents
        for node in model.graph.nodes:
            for tensor in node.outputs[1:]:  # unused: one that is read or given has pinned the channels
                if node.outputs[0].name in self.tensors and is_variable(tensor):
                    tensor.shape = None
        require_legal(model, after="remove channels")


def tensors_with_shapes(model: Model) -> list[str]:
    """Names of the tensors whose shapes `couple` needs."""
    names: dict[str, None] = {}
    for node in model.graph.nodes:
        if node.op in RULES and node.op not in UNARY and not _has_body(node):
            for tensor in (*node.inputs, *node.outputs):
                if is_variable(tensor) and tensor.name:
                    names[tensor.name] = None
    return list(names)


def couple(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> Coupling:
    """Finds which channels are one.

    Args:
        model: a canonical model; a weight that several layers read is one to all of them.
        shapes: shape of each tensor that `tensors_with_shapes` named, at the stated input shape.
    """
    flow = Flow(shapes, model.opset, frozenset(tensor.name for tensor in model.graph.outputs))
    declined: dict[str, str] = {}
    for node in model.graph.nodes:
        reason = _walk(flow, node)
        if reason is not None and node.op in WEIGHTS and node.name not in flow.rows | flow.through:
            declined[node.name] = reason
    for tensor in model.graph.outputs:
        _pin(
            flow, [tensor], Pin(tensor.inputs[0].name if tensor.inputs else tensor.name, "gives an output of the graph")
        )
    _couple_twins(flow, model)
    roots = flow.atoms.roots(np.arange(len(flow.atoms)))
    return Coupling(
        roots,
        {name: roots[atoms] for name, atoms in flow.rows.items()},
        {name: roots[atoms] for name, atoms in flow.columns.items()},
        {name: roots[atoms] for name, atoms in flow.through.items()},
        flow.atoms.pins(),
        declined,
        flow.edits,
        flow.channels,
    )


def _walk(flow: Flow, node: Node) -> str | None:
    """Lets one node do to channels what its rule says; returns why it was declined, or None."""
    if _has_body(node):
        _pin(flow, _captured(node), Pin(node.name, f"reads them in the body of an operator {node.op}"))
        return f"is an operator {node.op} with a body"
    edits = len(flow.edits)
    flow.read.clear()
    try:
        _rule(flow, node)(flow, node)
        _require_read(flow, node)
    except Declined as declined:
        _pin(flow, [*node.inputs, *node.outputs], Pin(node.name, str(declined)))
        del flow.edits[edits:]
        for tensor in node.outputs:
            flow.channels.pop(tensor.name, None)
            flow.vectors.pop(tensor.name, None)
        for found in (flow.rows, flow.columns, flow.through):
            found.pop(node.name, None)
        return str(declined)
    return None


def _rule(flow: Flow, node: Node) -> Rule:
    """What is done at a node."""
    if is_standard(node, node.op):
        if node.op in vectors.RULES and any(tensor.name in flow.vectors for tensor in node.inputs):
            return vectors.RULES[node.op]
        if node.op in RULES:
            return RULES[node.op]
    raise Declined(f"is an operator {node.op}, which channels are not followed through")


def _require_read(flow: Flow, node: Node) -> None:
    """Declines a node that reads how many channels there are, and whose rule did not ask for it."""
    for tensor in node.inputs:
        if tensor.name not in flow.read and _counts_channels(flow, tensor):
            raise Declined(f"computes with the number of channels ({node.op})")


def _pin(flow: Flow, tensors: Iterable[Tensor], pin: Pin) -> None:
    """Keeps the channels of some tensors, and those that they count."""
    for tensor in tensors:
        if tensor.name in flow.channels:
            flow.atoms.pin(flow.channels[tensor.name].atoms, pin)
        for entry in flow.vectors.get(tensor.name, ()):
            if isinstance(entry, np.ndarray):
                flow.atoms.pin(entry, pin)


def _counts_channels(flow: Flow, tensor: Tensor) -> bool:
    return any(isinstance(entry, np.ndarray) for entry in flow.vectors.get(tensor.name, ()))


def _has_body(node: Node) -> bool:
    return any(True for _ in node.subgraphs())


def _captured(node: Node) -> list[Tensor]:
    """What a node with bodies reads: its inputs, and all that stands in the bodies."""
    inner = [tensor for graph in node.subgraphs(recursive=True) for tensor in graph.tensors().values()]
    return [*node.inputs, *inner]


def _couple_twins(flow: Flow, model: Model) -> None:
    """Makes layers with one weight one: row by row, and column by column."""
    first: dict[tuple[object, ...], str] = {}
    for node in model.graph.nodes:
        if node.name not in flow.rows:
            continue
        other = first.setdefault(_identity(node), node.name)
        if other == node.name:
            continue
        flow.atoms.unite(flow.rows[other], flow.rows[node.name])
        columns = [flow.columns[name] for name in (other, node.name) if name in flow.columns]
        if len(columns) == 2:
            flow.atoms.unite(*columns)
        for atoms in columns[:1] if len(columns) == 1 else ():
            flow.atoms.pin(atoms, Pin(other, f"has the weight of {node.name}, one of which reads no channels"))


def _identity(node: Node) -> tuple[object, ...]:
    """What layers that could share one weight have in common."""
    weight = node.inputs[1]
    digest = hashlib.sha256(weight.values.tobytes()).digest() if is_constant(weight) else b""
    return node.op, node.attrs.get("group", 1), node.attrs.get("transB", 0), weight.values.shape, digest
