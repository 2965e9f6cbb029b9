"""`Model`: an ONNX model held as a graph that can be edited.

The graph is `onnx_graphsurgeon`'s. That library forgets what it does not edit
(metadata, doc strings, the types of inputs that are not tensors, symbolic
dimensions), so `Model` keeps those parts of the original file beside the graph
and puts them back when a protobuf is made. No other module of lissom imports
graphsurgeon.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from lissom_runtime.errors import LoadError
from onnx_graphsurgeon.ir.tensor import LazyValues

gs.logger.G_LOGGER.severity = gs.logger.G_LOGGER.CRITICAL

Node: TypeAlias = Any
"""An `onnx_graphsurgeon.Node`. The library is untyped, so the alias only documents."""

Tensor: TypeAlias = Any
"""An `onnx_graphsurgeon.Constant` or `Variable`."""

Graph: TypeAlias = Any
"""An `onnx_graphsurgeon.Graph`."""

PROVENANCE_KEY = "lissom.provenance"
"""Key of the `metadata_props` entry that says where a node comes from."""

NODE_METADATA_IR = 10
"""First IR version whose nodes have `metadata_props`."""

LEAST_IR = 4
"""First IR version whose initializers need not be inputs."""

FUNCTION_IR = 8
"""First IR version that has functions."""

_EDITABLE_ATTRIBUTES = frozenset(
    {
        onnx.AttributeProto.FLOAT,
        onnx.AttributeProto.INT,
        onnx.AttributeProto.STRING,
        onnx.AttributeProto.TENSOR,
        onnx.AttributeProto.GRAPH,
        onnx.AttributeProto.FLOATS,
        onnx.AttributeProto.INTS,
        onnx.AttributeProto.STRINGS,
    }
)


@dataclass
class _Notes:
    """What graphsurgeon does not keep of a node."""

    doc_string: str = ""
    metadata: dict[str, str] = field(default_factory=dict)


class Model:
    """A model under edit.

    Attributes:
        graph: the graph; its `nodes` are a list in topological order.
        remarks: what the user should know of how the file was read or will be
            written (a raised IR version, inputs that became constants).
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        """Takes over `proto` (which must have no functions and no external data).

        Raises:
            LoadError: the model has a part that cannot be kept through an edit.
        """
        _require_editable(proto)
        self.graph: Graph = gs.import_onnx(proto)
        self.remarks: list[str] = []
        self._header = onnx.ModelProto()
        self._header.CopyFrom(_without_graph(proto))
        constants = {tensor.name for tensor in proto.graph.initializer}
        self._inputs = [_copy_value(v) for v in proto.graph.input if v.name not in constants]
        self._outputs = [_copy_value(v) for v in proto.graph.output]
        self._graph_metadata = {p.key: p.value for p in proto.graph.metadata_props}
        self._functions: dict[tuple[str, str], onnx.FunctionProto] = {}
        self._notes = {
            node.output[0]: _Notes(node.doc_string, {p.key: p.value for p in node.metadata_props})
            for node in all_nodes(proto.graph)
            if node.output and (node.doc_string or node.metadata_props)
        }
        if proto.ir_version < LEAST_IR:
            self.remarks.append(f"IR version raised from {proto.ir_version} to {LEAST_IR}: initializers are no inputs")
            self._header.ir_version = LEAST_IR
        elif overridable := [v.name for v in proto.graph.input if v.name in constants]:
            self.remarks.append(
                f"{len(overridable)} inputs with default values became constants: {', '.join(overridable[:3])}"
                + (", …" if len(overridable) > 3 else "")
            )

    @property
    def opset(self) -> int:
        """Version of the standard ONNX operators."""
        return int(self.graph.opset)

    @property
    def ir_version(self) -> int:
        """IR version of the file."""
        return int(self._header.ir_version)

    @property
    def inputs(self) -> Sequence[onnx.ValueInfoProto]:
        """The inputs as declared, symbolic dimensions included."""
        return self._inputs

    @property
    def outputs(self) -> Sequence[onnx.ValueInfoProto]:
        """The outputs as declared."""
        return self._outputs

    @property
    def metadata(self) -> Mapping[str, str]:
        """The model's `metadata_props`."""
        return {p.key: p.value for p in self._header.metadata_props}

    def copy(self) -> Model:
        """A model that can be edited apart from this one; weights are shared, never written in place."""
        twin = object.__new__(Model)
        twin.graph = self.graph.copy()
        twin.graph.import_domains = list(self.graph.import_domains)  # graphsurgeon lets copies share it
        twin.remarks = list(self.remarks)
        twin._header = onnx.ModelProto()
        twin._header.CopyFrom(self._header)
        twin._inputs = [_copy_value(v) for v in self._inputs]
        twin._outputs = [_copy_value(v) for v in self._outputs]
        twin._graph_metadata = dict(self._graph_metadata)
        twin._functions = dict(self._functions)
        twin._notes = {key: _Notes(note.doc_string, dict(note.metadata)) for key, note in self._notes.items()}
        return twin

    def set_metadata(self, key: str, value: str) -> None:
        """Sets one entry of the model's `metadata_props`."""
        for prop in self._header.metadata_props:
            if prop.key == key:
                prop.value = value
                return
        self._header.metadata_props.add(key=key, value=value)

    def add_function(self, function: onnx.FunctionProto) -> None:
        """Gives the operator that `function` names a body; it is written if a node uses it.

        Raises the IR version where functions need that.
        """
        self._functions[function.domain, function.name] = function
        if self.ir_version < FUNCTION_IR:
            self.remarks.append(f"IR version raised from {self.ir_version} to {FUNCTION_IR}: the model has functions")
            self._header.ir_version = FUNCTION_IR

    def set_provenance(self, node: Node, provenance: Mapping[str, Any]) -> None:
        """Records where `node` comes from, on the node or (below IR 10) on the model, by name.

        The model's entries of nodes that are gone are not written.
        """
        if self.ir_version >= NODE_METADATA_IR:
            text = json.dumps(provenance, sort_keys=True)
            self._notes.setdefault(node.outputs[0].name, _Notes()).metadata[PROVENANCE_KEY] = text
        else:
            entries = {**_told(self.metadata), node.name: provenance}
            self.set_metadata(PROVENANCE_KEY, json.dumps(entries, sort_keys=True))

    def provenance(self, node: Node) -> Mapping[str, Any]:
        """What is recorded of where `node` comes from; empty where nothing is."""
        if self.ir_version >= NODE_METADATA_IR:
            return _told(self._notes.get(node.outputs[0].name, _Notes()).metadata)
        told = _told(self.metadata).get(node.name)
        return told if isinstance(told, dict) else {}

    def fuse(self, node: Node, follower: Node) -> None:
        """Lets `node` produce what `follower` produced, and bear what is known of both.

        The node keeps its name, doc string and metadata; its provenance lists both.
        """
        told = self.provenance(node)
        note = self._notes.pop(node.outputs[0].name, _Notes())
        output = follower.outputs[0]
        named = told.get("from", node.name)
        earlier = named if isinstance(named, list) else [named]
        follower.inputs.clear()
        follower.outputs.clear()
        node.outputs[0] = output
        self._notes[output.name] = note
        self.set_provenance(node, {"kind": "fused", "from": [*earlier, follower.name]})

    def consumers(self, tensor: Tensor) -> int:
        """How often `tensor` is read: by nodes, by subgraphs, as an output of the graph."""
        return len(tensor.outputs) + sum(tensor is out for out in self.graph.outputs)

    def constants(self) -> Iterator[Tensor]:
        """All constants of the main graph and of its subgraphs, each once."""
        seen: set[int] = set()
        for graph in (self.graph, *self.graph.subgraphs(recursive=True)):
            for tensor in graph.tensors().values():
                if isinstance(tensor, gs.Constant) and id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield tensor

    def to_proto(self) -> onnx.ModelProto:
        """The model as a protobuf, with all that the original file said and the edit did not touch."""
        _seal(self.graph)
        proto: onnx.ModelProto = gs.export_onnx(self.graph, do_type_check=False)
        domains = {entry.domain for entry in self._header.opset_import}
        extra = [entry for entry in proto.opset_import if entry.domain not in domains]
        graph = proto.graph
        del graph.input[:], graph.output[:]
        graph.input.extend(self._inputs)
        graph.output.extend(self._outputs)
        for key, value in self._graph_metadata.items():
            graph.metadata_props.add(key=key, value=value)
        proto.functions.extend(self._used_functions(graph))
        for node in all_nodes(graph):
            note = self._notes.get(node.output[0]) if node.output else None
            if note is not None:
                node.doc_string = note.doc_string
                for key, value in note.metadata.items():
                    node.metadata_props.add(key=key, value=value)
        proto.ClearField("opset_import")
        proto.MergeFrom(self._header)
        proto.opset_import.extend(extra)
        if self.ir_version < NODE_METADATA_IR:
            _forget_gone(proto)
        return proto

    def _used_functions(self, graph: onnx.GraphProto) -> list[onnx.FunctionProto]:
        """The functions that nodes of `graph` call, and those that these call."""
        used: set[tuple[str, str]] = set()
        found = {(node.domain, node.op_type) for node in all_nodes(graph)}
        while found:
            used |= found
            bodies = [self._functions[key] for key in found if key in self._functions]
            found = {(node.domain, node.op_type) for body in bodies for node in body.node} - used
        return [function for key, function in sorted(self._functions.items()) if key in used]


def constant(name: str, values: np.ndarray[Any, Any]) -> Tensor:
    """A constant tensor of the graph."""
    return gs.Constant(name, np.asarray(values, order="C"))  # np.ascontiguousarray gives scalars an axis


def variable(name: str, like: Tensor | None = None) -> Tensor:
    """A tensor that a node produces, of the element type of `like`."""
    return gs.Variable(name, dtype=None if like is None else like.dtype)


def make_node(
    op: str,
    name: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    attrs: Mapping[str, Any] | None = None,
    domain: str | None = None,
) -> Node:
    """A node (not yet in a graph), of the standard ONNX domain unless another is named."""
    return gs.Node(op, name=name, attrs=dict(attrs or {}), inputs=list(inputs), outputs=list(outputs), domain=domain)


def is_constant(tensor: Tensor) -> bool:
    """Whether `tensor` is an initializer (loading refuses sparse ones)."""
    return isinstance(tensor, gs.Constant)


def is_variable(tensor: Tensor) -> bool:
    """Whether `tensor` is produced when the graph runs."""
    return isinstance(tensor, gs.Variable)


def node_to_proto(node: Node) -> onnx.NodeProto:
    """One node as a protobuf."""
    _seal_all(node.attrs.values())
    proto: onnx.NodeProto = gs.exporters.onnx_exporter.OnnxExporter.export_node(node)
    return proto


def tensor_of_value(value: onnx.ValueInfoProto) -> Tensor:
    """Element type and shape of a protobuf value, as a tensor that is in no graph."""
    return gs.importers.onnx_importer.OnnxImporter.import_tensor(value)


def is_standard(node: Node, op: str) -> bool:
    """Whether `node` is the standard ONNX operator `op`."""
    return bool(node.op == op and node.domain in (None, "", "ai.onnx"))


def _seal(graph: Graph) -> None:
    """Makes protobufs of the constants that graphsurgeon cannot write, in subgraphs too."""
    _seal_all(graph.outputs)
    for node in graph.nodes:
        _seal_all(node.inputs)
        _seal_all(node.attrs.values())


def _seal_all(values: Iterable[Any]) -> None:
    """The same for some values: strings, and numbers that NumPy lacks (graphsurgeon writes int4 unpacked)."""
    for tensor in values:
        if isinstance(tensor, gs.Graph):
            _seal(tensor)
        elif isinstance(tensor, gs.Constant) and not isinstance(tensor._values, LazyValues):  # noqa: SLF001  `values` loads
            array = tensor.values
            if array.dtype.kind not in "biuf":
                tensor.values = LazyValues(onnx.numpy_helper.from_array(array, tensor.name))


def _told(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The provenance in the metadata of a node or of a model; what is none, because others wrote it, says nothing."""
    try:
        told = json.loads(metadata.get(PROVENANCE_KEY, "{}"))
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _forget_gone(proto: onnx.ModelProto) -> None:
    """Removes the model's provenance of nodes that it has no more."""
    told = _told({prop.key: prop.value for prop in proto.metadata_props})
    names = {node.name for node in all_nodes(proto.graph)}
    kept = {name: entry for name, entry in told.items() if name in names}
    if kept == told:
        return
    (prop,) = [prop for prop in proto.metadata_props if prop.key == PROVENANCE_KEY]
    prop.value = json.dumps(kept, sort_keys=True)
    if not kept:
        proto.metadata_props.remove(prop)


def _copy_value(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    twin = onnx.ValueInfoProto()
    twin.CopyFrom(value)
    return twin


def _without_graph(proto: onnx.ModelProto) -> onnx.ModelProto:
    header = onnx.ModelProto()
    for descriptor, value in proto.ListFields():
        if descriptor.name in {"graph", "functions", "opset_import", "metadata_props"}:
            continue
        setattr(header, descriptor.name, value)
    header.opset_import.extend(proto.opset_import)
    header.metadata_props.extend(proto.metadata_props)
    return header


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of its subgraphs."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from all_nodes(attribute.g)


def _require_editable(proto: onnx.ModelProto) -> None:
    """Refuses what graphsurgeon would lose silently."""
    if proto.training_info:
        raise LoadError("expected an inference model, but the file holds training information")
    for value in (*proto.graph.input, *proto.graph.output):
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            raise LoadError(f"expected tensors as inputs and outputs, but {value.name!r} is of {kind}")
    if proto.graph.sparse_initializer:
        name = proto.graph.sparse_initializer[0].values.name
        raise LoadError(f"expected dense initializers, but {name!r} is a sparse_initializer")
    for node in all_nodes(proto.graph):
        for attribute in node.attribute:
            if attribute.type not in _EDITABLE_ATTRIBUTES:
                kind = onnx.AttributeProto.AttributeType.Name(attribute.type)
                raise LoadError(
                    f"expected attributes that can be edited, but {attribute.name!r} of node "
                    f"{node.name or node.op_type!r} is of type {kind}"
                )
