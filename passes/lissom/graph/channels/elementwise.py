"""Rules of the operators that keep channels apart: activations, sums and products of tensors, pooling, reductions.

Where tensors meet channel by channel, their channels are one; a constant with one value per channel goes with them.
"""

from __future__ import annotations

from lissom.graph.channels.atoms import Channels
from lissom.graph.channels.flow import Declined, Flow
from lissom.graph.model import Node, Tensor, is_constant

SOFTMAX_BY_AXIS = 13
"""First opset in which Softmax works along one axis; before, along all from that one on."""


def unary(flow: Flow, node: Node) -> None:
    """One input, number by number."""
    flow.give(node, flow.source(node))


def broadcast(flow: Flow, node: Node) -> None:
    """Several inputs, number by number, of shapes that broadcast."""
    shape = flow.shape(node.outputs[0])
    known = [(tensor, flow.channels[tensor.name]) for tensor in node.inputs if tensor.name in flow.channels]
    if not known:
        return
    tensor, first = known[0]
    axis = first.axis + len(shape) - len(flow.shape(tensor))
    if len(first.atoms) != shape[axis]:
        raise Declined("spreads one channel over many")
    for position, tensor in enumerate(node.inputs):
        if not tensor.is_empty():
            _meet(flow, node, position, axis - len(shape) + len(flow.shape(tensor)), first)
    flow.give(node, Channels(axis, first.atoms))


def pool(flow: Flow, node: Node) -> None:
    """Pooling over space, channel by channel."""
    flow.give(node, flow.source(node, axis=1))


def softmax(flow: Flow, node: Node) -> None:
    """Numbers along one axis depend on one another."""
    source = flow.source(node)
    if source is None:
        return
    rank = len(flow.shape(node.inputs[0]))
    axis = int(node.attrs.get("axis", -1 if flow.opset >= SOFTMAX_BY_AXIS else 1)) % rank
    if axis == source.axis or (flow.opset < SOFTMAX_BY_AXIS and axis < source.axis):
        raise Declined("works along the channels")
    flow.give(node, source)


def layer_normalization(flow: Flow, node: Node) -> None:
    """Numbers along the last axes, from one on, depend on one another."""
    source = flow.source(node)
    if source is None:
        return
    if source.axis >= int(node.attrs.get("axis", -1)) % len(flow.shape(node.inputs[0])):
        raise Declined("normalises over the channels")
    flow.give(node, source)


def reduction(flow: Flow, node: Node) -> None:
    """Sums, means and the like over some axes."""
    source = flow.source(node)
    if source is None:
        return
    rank = len(flow.shape(node.inputs[0]))
    named = node.attrs.get("axes") or flow.numbers(node, 1)
    if named is None:
        raise Declined("reduces all axes, or axes that are computed")
    axes = {int(axis) % rank for axis in named}
    if source.axis in axes:
        raise Declined("reduces the channels")
    gone = 0 if node.attrs.get("keepdims", 1) else sum(axis < source.axis for axis in axes)
    flow.give(node, Channels(source.axis - gone, source.atoms))


def _meet(flow: Flow, node: Node, position: int, axis: int, channels: Channels) -> None:
    """What one input of a broadcasting operator means for `channels`, which are along its `axis`."""
    tensor = node.inputs[position]
    own = flow.channels.get(tensor.name)
    if own is not None and (own.axis != axis or len(own.atoms) != len(channels.atoms)):
        raise Declined("meets channels of two tensors along different axes or in different numbers")
    if own is not None:
        flow.atoms.unite(own.atoms, channels.atoms)
    elif is_constant(tensor):
        if axis >= 0 and tensor.values.shape[axis] > 1:
            flow.take(node, position, axis, channels.atoms)
    elif not _is_one(flow, tensor, axis):
        raise Declined(f"meets {tensor.name}, whose channels cannot be cut")


def _is_one(flow: Flow, tensor: Tensor, axis: int) -> bool:
    """Whether an opaque tensor has extent 1 along `axis`, whatever the input's shape."""
    if axis < 0:
        return True
    declared = tensor.shape[axis] if tensor.shape is not None else 1
    return bool(flow.shape(tensor)[axis] == 1 and declared == 1)
