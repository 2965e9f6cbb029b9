"""A part of a network as a network of its own: what some tensors need, and what depends on others.

Whatever one layer is replaced by, everything before it computes what it did. So the nodes behind the layer, with the
tensors that they read from elsewhere as inputs, say what the change does to the output without running the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx

from lissom.graph.model import all_nodes


def dependants(proto: onnx.ModelProto, sources: Collection[str]) -> set[str]:
    """Names of the tensors that depend on `sources`, those included."""
    known = set(sources)
    for node in proto.graph.node:  # in topological order
        if any(name in known for name in reads(node)):
            known.update(name for name in node.output if name)
    return known


def border(proto: onnx.ModelProto, sources: Collection[str]) -> list[str]:
    """What the nodes that depend on `sources` read besides them and constants, in the order in which they do."""
    known = dependants(proto, sources)
    made = {name for node in proto.graph.node for name in node.output if name}
    computed = made | {value.name for value in proto.graph.input} - {tensor.name for tensor in proto.graph.initializer}
    read = (name for node in proto.graph.node if any(name in known for name in reads(node)) for name in reads(node))
    return list(dict.fromkeys(name for name in read if name in computed and name not in known))


def part(proto: onnx.ModelProto, given: Mapping[str, npt.DTypeLike], wanted: Sequence[str]) -> onnx.ModelProto:
    """The nodes that compute `wanted` from `given` and from constants.

    Args:
        proto: the whole network.
        given: tensors that become inputs, of any shape, with their element types.
        wanted: tensors that become the outputs.

    Raises:
        ValueError: a wanted tensor needs an input of the network that is not given.
    """
    producers = {name: node for node in proto.graph.node for name in node.output if name}
    needed: set[int] = set()
    read: set[str] = set()
    waiting = [name for name in wanted if name not in given]
    while waiting:
        name = waiting.pop()
        if name in read or name in given:
            continue
        read.add(name)
        node = producers.get(name)
        if node is not None and id(node) not in needed:
            needed.add(id(node))
            waiting.extend(reads(node))
    constants = [tensor for tensor in proto.graph.initializer if tensor.name in read and tensor.name not in given]
    missing = {value.name for value in proto.graph.input} & read - {tensor.name for tensor in constants}
    if missing:
        raise ValueError(f"expected {sorted(missing)} among the given tensors, but got {sorted(given)}")
    graph = onnx.helper.make_graph(
        [node for node in proto.graph.node if id(node) in needed],
        proto.graph.name or "part",
        [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), None)
            for name, dtype in given.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in wanted],
        constants,
    )
    cut = onnx.ModelProto(graph=graph, ir_version=proto.ir_version)
    cut.opset_import.extend(proto.opset_import)
    cut.functions.extend(proto.functions)
    return cut


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """The tensors that a node reads, in its subgraphs too."""
    inner = (attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH)
    yield from (name for name in node.input if name)
    yield from (name for graph in inner for deeper in all_nodes(graph) for name in deeper.input if name)
