"""Rules of the whole numbers that shapes are made of: which of them count channels.

A graph that reshapes to what it computes from a shape follows a cut by itself, as long as every number that depends on
the count of channels is used as that count. Entries are followed from Shape through what picks and joins them.
"""

from __future__ import annotations

from collections.abc import Sequence

from lissom.graph.channels.flow import Declined, Entry, Flow
from lissom.graph.model import Node, is_constant


def extents(flow: Flow, node: Node) -> None:
    """Shape: the channel axis counts its atoms, other axes count no channels."""
    source = flow.channels.get(node.inputs[0].name)
    rank = len(flow.shape(node.inputs[0]))
    found: list[Entry] = [None] * rank
    if source is not None:
        found[source.axis] = source.atoms
    flow.vectors[node.outputs[0].name] = found[int(node.attrs.get("start", 0)) : node.attrs.get("end")]


def same(flow: Flow, node: Node) -> None:
    """Cast, Identity, Squeeze and Unsqueeze of a vector or of one number."""
    flow.vectors[node.outputs[0].name] = _given(flow, node)


def join(flow: Flow, node: Node) -> None:
    """Concat."""
    found: list[Entry] = []
    for position, tensor in enumerate(node.inputs):
        entries = flow.entries(node, position)
        if entries is None:
            entries = [None] * len_of(flow.shape(tensor))
        found.extend(entries)
    flow.vectors[node.outputs[0].name] = found


def pick(flow: Flow, node: Node) -> None:
    """Gather with constant indices."""
    entries, indices = _given(flow, node), flow.numbers(node, 1)
    if indices is None:
        raise Declined("picks numbers of a shape by computed indices")
    flow.vectors[node.outputs[0].name] = [entries[index] for index in indices]


def cut(flow: Flow, node: Node) -> None:
    """Slice with constant bounds."""
    entries, start, end = _given(flow, node), flow.numbers(node, 1), flow.numbers(node, 2)
    step = flow.numbers(node, 4) if len(node.inputs) > 4 else [1]
    if start is None or end is None or step is None:
        raise Declined("slices a shape at computed bounds")
    flow.vectors[node.outputs[0].name] = entries[start[0] : end[0] : step[0]]


def len_of(shape: Sequence[int]) -> int:
    """Numbers in a vector, or in a single number."""
    return int(shape[0]) if shape else 1


def _given(flow: Flow, node: Node) -> Sequence[Entry]:
    entries = flow.entries(node, 0)
    if entries is None or is_constant(node.inputs[0]):
        raise Declined("works on a shape that is computed")
    return entries


RULES = {
    "Shape": extents,
    "Cast": same,
    "Identity": same,
    "Squeeze": same,
    "Unsqueeze": same,
    "Concat": join,
    "Gather": pick,
    "Slice": cut,
}
"""By operator, for nodes that read entries (Shape: any tensor)."""
