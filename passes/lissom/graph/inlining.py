"""Puts the body of a function in the place of each node that calls it; names tell where its nodes come from.

The node with a layer's product keeps the caller's name, and the others' names begin with it; `onnx.inliner` names nodes
after the body alone. Calls stay as they are, for `onnx.inliner` to inline, if

1. the body has a node with a subgraph, or the call passes one as an attribute;
2. the body imports another version of a domain than the model does, or a domain that the model does not;
3. the body reads a tensor before it is made, makes one twice, or does not make its outputs;
4. the call has more inputs or outputs than the body, or the function has an overload;
5. they stand in a subgraph or in another function.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import onnx
from lissom_runtime.contract import DOMAIN

from lissom.graph.model import all_nodes
from lissom.graph.naming import fresh_name

PRODUCTS = frozenset({"Conv", "MatMul"})
"""Standard operators that do the work of a layer."""


def inline_calls(proto: onnx.ModelProto, names: Collection[str]) -> set[str]:
    """Inlines the functions of our domain with these `names`; those that nothing calls any more are removed.

    Returns:
        The outputs of the nodes that came in.
    """
    made: set[str] = set()
    bodies = {body.name: body for body in proto.functions if body.domain == DOMAIN and body.name in names}
    plain = {name: body for name, body in bodies.items() if _is_plain(body, proto)}
    if any(calls(node, body) for body in plain.values() for node in proto.graph.node):
        taken = _Taken(proto.graph)
        nodes: list[onnx.NodeProto] = []
        for node in proto.graph.node:
            body = plain.get(node.op_type)
            if body is not None and calls(node, body) and _fits(node, body):
                inside = _inlined(node, body, taken)
                nodes.extend(inside)
                made.update(name for inner in inside for name in inner.output if name)
            else:
                nodes.append(node)
        kept = onnx.GraphProto(node=nodes)
        proto.graph.ClearField("node")
        proto.graph.node.extend(kept.node)
    for body in bodies.values():
        if count_calls(proto, body) == 0:
            proto.functions.remove(body)
    return made


def calls(node: onnx.NodeProto, body: onnx.FunctionProto) -> bool:
    """Whether `node` calls the function `body`."""
    return bool(node.op_type == body.name and node.domain == body.domain)


def count_calls(proto: onnx.ModelProto, body: onnx.FunctionProto) -> int:
    """How many nodes call the function `body`, in subgraphs and functions too."""
    graphs = [proto.graph, *(onnx.GraphProto(node=other.node) for other in proto.functions)]
    return sum(calls(node, body) for graph in graphs for node in all_nodes(graph))


class _Taken:
    """The names of a graph, and new ones that differ from all."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        nodes = list(all_nodes(graph))
        self._nodes = {node.name for node in nodes}
        self._tensors = {name for node in nodes for name in (*node.input, *node.output)}
        self._tensors |= {value.name for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer)}

    def free_node(self, name: str) -> None:
        """Gives the name of a node back."""
        self._nodes.discard(name)

    def node(self, stem: str) -> str:
        """A new name for a node."""
        return fresh_name(stem, self._nodes)

    def tensor(self, stem: str) -> str:
        """A new name for a tensor."""
        return fresh_name(stem, self._tensors)


def _is_plain(body: onnx.FunctionProto, proto: onnx.ModelProto) -> bool:
    known, made = {"", *body.input}, set[str]()
    for node in body.node:
        outputs = [name for name in node.output if name]
        if not known.issuperset(node.input) or not known.isdisjoint(outputs) or _has_graph(node.attribute):
            return False
        known.update(outputs)
        made.update(outputs)
    versions = _versions(body.opset_import).items() <= _versions(proto.opset_import).items()
    return versions and made.issuperset(body.output) and not body.overload


def _fits(node: onnx.NodeProto, body: onnx.FunctionProto) -> bool:
    return (
        len(node.input) <= len(body.input)
        and len(node.output) <= len(body.output)
        and not node.overload
        and not _has_graph(node.attribute)
    )


def _has_graph(attributes: Iterable[onnx.AttributeProto]) -> bool:
    return any(attribute.HasField("g") or attribute.graphs for attribute in attributes)


def _versions(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    return {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in imports}


def _inlined(node: onnx.NodeProto, body: onnx.FunctionProto, taken: _Taken) -> list[onnx.NodeProto]:
    """The nodes of `body`, with the tensors and attributes of the call `node`."""
    stem = node.name or next(iter(node.output), node.op_type)
    actual = {"": "", **dict.fromkeys(body.input, "")}
    actual |= zip(body.input, node.input, strict=False)  # inputs that the call leaves out are not there
    actual |= {formal: name for formal, name in zip(body.output, node.output, strict=False) if name}
    attributes = {attribute.name: attribute for attribute in (*body.attribute_proto, *node.attribute)}
    taken.free_node(node.name)
    nodes = []
    for inner in body.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(inner)
        copy.name = taken.node(_node_name(node.name, inner)) if node.name else ""
        for name in inner.output:
            if name not in actual:
                actual[name] = taken.tensor(f"{stem}/{name}")
        copy.input[:] = [actual.get(name, name) for name in inner.input]
        copy.output[:] = [actual[name] for name in inner.output]
        copy.ClearField("attribute")
        copy.attribute.extend(
            given for attribute in inner.attribute if (given := _attribute(attribute, attributes)) is not None
        )
        nodes.append(copy)
    return nodes


def _node_name(caller: str, inner: onnx.NodeProto) -> str:
    if not inner.name and inner.op_type in PRODUCTS and inner.domain in ("", "ai.onnx"):
        return caller
    return f"{caller}/{inner.name or inner.op_type}"


def _attribute(attribute: onnx.AttributeProto, given: dict[str, onnx.AttributeProto]) -> onnx.AttributeProto | None:
    """What the call gives for an attribute of the body, None where it gives nothing."""
    if not attribute.ref_attr_name:
        return attribute
    if attribute.ref_attr_name not in given:
        return None
    copy = onnx.AttributeProto()
    copy.CopyFrom(given[attribute.ref_attr_name])
    copy.name = attribute.name
    return copy
