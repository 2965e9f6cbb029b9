"""Rules of the operators with weights: where new channels come from, and where old ones end.

- A Conv, ConvTranspose, Gemm or MatMul gives its rows (output channels) fresh atoms, and its columns are the atoms of
  its input. In g groups of several channels, channel j of every group is one atom: the groups stay equal.
- A depthwise convolution passes its input on: channel c and the filters that read it are one atom.
- Normalisations with a parameter per channel and no sum over channels pass them on.

Weights must be constant, the channels along axis 1 (MatMul: the last one).
"""

from __future__ import annotations

import numpy as np

from lissom.graph.channels.atoms import Channels, IntArray
from lissom.graph.channels.edits import Bias, Count
from lissom.graph.channels.flow import Declined, Flow
from lissom.graph.model import Node, is_constant


def convolution(flow: Flow, node: Node) -> None:
    """Conv: weight[out, in / groups, *kernel]."""
    groups = int(node.attrs.get("group", 1))
    out, width = _weight_shape(node)[:2]
    source = flow.source(node, axis=1)
    if groups > 1 and width == 1:
        rows = _depthwise(flow, node, source, out // groups)
        flow.take(node, 1, 0, rows)
    else:
        rows = _rows(flow, node, out, groups)
        flow.take(node, 1, 0, rows)
        if source is not None:
            flow.take(node, 1, 1, _columns(flow, node, source, groups))
    _bias(flow, node, rows)
    flow.give(node, Channels(1, rows))


def transposed_convolution(flow: Flow, node: Node) -> None:
    """ConvTranspose: weight[in, out / groups, *kernel]."""
    groups = int(node.attrs.get("group", 1))
    channels, width = _weight_shape(node)[:2]
    source = flow.source(node, axis=1)
    if groups == channels > 1:
        rows = _depthwise(flow, node, source, width)
    else:
        rows = _rows(flow, node, groups * width, groups)
        flow.take(node, 1, 1, rows[:width])
        if source is not None:
            _columns(flow, node, source, groups)
    if source is not None:
        flow.take(node, 1, 0, source.atoms)
    _bias(flow, node, rows)
    flow.give(node, Channels(1, rows))


def gemm(flow: Flow, node: Node) -> None:
    """Gemm: weight[in, out], or [out, in] with transB."""
    if node.attrs.get("transA", 0):
        raise Declined("transposes its input")
    _product(flow, node, 0 if node.attrs.get("transB", 0) else 1, 1)


def product(flow: Flow, node: Node) -> None:
    """MatMul with weight[in, out]."""
    if len(_weight_shape(node)) != 2:
        raise Declined("has a constant of a rank other than 2")
    _product(flow, node, 1, len(flow.shape(node.inputs[0])) - 1)


def batch_normalization(flow: Flow, node: Node) -> None:
    """Scale, shift, mean and variance per channel."""
    _normalisation(flow, node, 4)


def instance_normalization(flow: Flow, node: Node) -> None:
    """Scale and shift per channel, which is normalised by itself."""
    _normalisation(flow, node, 2)


def _product(flow: Flow, node: Node, rows_axis: int, axis: int) -> None:
    rows = _rows(flow, node, _weight_shape(node)[rows_axis], 1)
    source = flow.source(node, axis)
    flow.take(node, 1, rows_axis, rows)
    if source is not None:
        flow.take(node, 1, 1 - rows_axis, _columns(flow, node, source, 1))
    _bias(flow, node, rows)
    flow.give(node, Channels(len(flow.shape(node.outputs[0])) - 1, rows))


def _weight_shape(node: Node) -> tuple[int, ...]:
    if not is_constant(node.inputs[1]):
        raise Declined("computes its weight")
    return tuple(node.inputs[1].values.shape)


def _rows(flow: Flow, node: Node, count: int, groups: int) -> IntArray:
    """Fresh atoms[count]; channel j of every group is one."""
    rows = flow.rows[node.name] = flow.atoms.fresh(count)
    flow.tie(rows.reshape(groups, -1))
    return rows


def _columns(flow: Flow, node: Node, source: Channels, groups: int) -> IntArray:
    """The atoms of one group's columns, one with those of every other group."""
    flow.columns[node.name] = source.atoms
    return flow.tie(source.atoms.reshape(groups, -1))


def _depthwise(flow: Flow, node: Node, source: Channels | None, filters: int) -> IntArray:
    if source is None:
        raise Declined("works on each channel of an input whose channels cannot be cut")
    rows = flow.through[node.name] = np.repeat(source.atoms, filters)
    flow.edits.append(Count(node.name, "group", 0, source.atoms))
    return rows


def _bias(flow: Flow, node: Node, rows: IntArray) -> None:
    """The bias goes with the rows."""
    if len(node.inputs) > 2 and not node.inputs[2].is_empty() and not is_constant(node.inputs[2]):
        raise Declined("computes its bias")
    flow.edits.append(Bias(node.name, rows))


def _normalisation(flow: Flow, node: Node, parameters: int) -> None:
    source = flow.source(node, axis=1)
    if source is None:
        return
    for position in range(1, 1 + parameters):
        flow.take(node, position, 0, source.atoms)
    flow.give(node, source)
