"""Gives the layers that `lissom lower` packed their dense weights back, so that a lowered model can be read again.

An `ai.lissom` node whose weight is constant gets the dense weight in the place of the packed one, and its function
loses the part that unpacks; inlined, what remains is the layer as it was. Nodes of an operator stay as they are if

1. the operator is none of the contract, or its function does not name the tensor "weight" that a body of ours has;
2. one of its nodes has a packed weight that is not constant;
3. one of its nodes stands in a subgraph or in another function.

A packed weight that breaks a rule of the format is refused, as the kernel library refuses it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from math import prod

import onnx
from lissom_runtime.contract import DOMAIN, Signature, signatures
from lissom_runtime.errors import LoadError
from lissom_runtime.packing import Packed, PackingError, check, unpack

from lissom.graph.model import all_nodes

MOST_BYTES = 2**31
"""Bytes that all dense weights of a model may have together: a few bytes of a packed file can claim any number."""

_PACKED = ("shape", "row_ptr", "columns", "values")
_WEIGHT = "weight"


def with_dense_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` in which the packed weights of the main graph are dense.

    Raises:
        LoadError: a packed weight breaks the format, or the dense weights would have more than `MOST_BYTES` bytes.
    """
    proto = copy.deepcopy(model)
    known = {signature.name: signature for signature in signatures()}
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    room = MOST_BYTES
    replaced: list[str] = []
    for function in proto.functions:
        signature = known.get(function.name) if function.domain == DOMAIN else None
        if signature is None or not any(_WEIGHT in node.output for node in function.node):
            continue
        nodes = [node for node in proto.graph.node if _calls(node, function)]
        packed = [_packed(node, signature, constants) for node in nodes]
        if not nodes or None in packed or len(nodes) != _count_calls(proto, function):
            continue
        for node, weight in zip(nodes, packed, strict=True):
            assert weight is not None
            room -= 4 * prod(weight.shape)
            if room < 0:
                raise LoadError(
                    f"expected sparse weights of at most {MOST_BYTES:,} bytes when they are dense, but with node "
                    f"{node.name or node.op_type!r} they have {MOST_BYTES - room:,}"
                )
            dense = onnx.numpy_helper.from_array(unpack(weight), f"{node.output[0]}/lissom_weight")
            proto.graph.initializer.append(dense)
            given = dict(zip(signature.inputs, node.input, strict=True)) | {_WEIGHT: dense.name}
            replaced.extend(given[formal] for formal in _PACKED)
            node.input[:] = [given[formal] for formal in _inputs(signature)]
        _keep_arithmetic(function, signature)
    _drop_unread(proto, [constants[name] for name in dict.fromkeys(replaced)])
    return proto


def _drop_unread(proto: onnx.ModelProto, tensors: Sequence[onnx.TensorProto]) -> None:
    """Removes those of the initializers `tensors` that nothing reads any more."""
    read = {name for node in all_nodes(proto.graph) for name in node.input} | {out.name for out in proto.graph.output}
    for tensor in tensors:
        if tensor.name not in read:
            proto.graph.initializer.remove(tensor)


def _calls(node: onnx.NodeProto, function: onnx.FunctionProto) -> bool:
    return bool(node.op_type == function.name and node.domain == function.domain)


def _count_calls(proto: onnx.ModelProto, function: onnx.FunctionProto) -> int:
    """How many nodes call `function`, in subgraphs and functions too."""
    bodies = [onnx.GraphProto(node=other.node) for other in proto.functions]
    return sum(_calls(node, function) for graph in (proto.graph, *bodies) for node in all_nodes(graph))


def _inputs(signature: Signature) -> list[str]:
    """The formal inputs with the dense weight in the place of the packed one."""
    after = [name for name in signature.inputs if name not in _PACKED]
    return [after[0], _WEIGHT, *after[1:]]


def _packed(node: onnx.NodeProto, signature: Signature, constants: Mapping[str, onnx.TensorProto]) -> Packed | None:
    """The packed weight of `node`, or None where it has none that is constant.

    Raises:
        LoadError: it breaks the format.
    """
    if len(node.input) != len(signature.inputs):
        return None
    given = dict(zip(signature.inputs, node.input, strict=True))
    if any(given[formal] not in constants for formal in _PACKED):
        return None
    arrays = {formal: onnx.numpy_helper.to_array(constants[given[formal]]) for formal in _PACKED}
    shape = tuple(int(extent) for extent in arrays["shape"].reshape(-1))
    packed = Packed(
        shape, signature.orientation, signature.columns, arrays["row_ptr"], arrays["columns"], arrays["values"]
    )
    try:
        check(packed)
    except PackingError as error:
        name = node.name or node.op_type
        raise LoadError(
            f"expected a legal packed weight of node {name!r}, but {type(error).__name__}: {error}"
        ) from error
    return packed


def _keep_arithmetic(function: onnx.FunctionProto, signature: Signature) -> None:
    """Drops what makes the weight, and takes the weight as an input."""
    producers = {name: node for node in function.node for name in node.output}
    needed: set[int] = set()
    wanted = list(function.output)
    while wanted:
        name = wanted.pop()
        node = producers.get(name)
        if name == _WEIGHT or node is None or id(node) in needed:
            continue
        needed.add(id(node))
        wanted.extend(node.input)
    kept = [copy.deepcopy(node) for node in function.node if id(node) in needed]
    del function.node[:]
    function.node.extend(kept)
    function.input[:] = _inputs(signature)
