"""Gives the layers that `lissom lower` packed their dense weights back, so that a lowered model can be read again.

Chains are inlined first, so that their layers are single operators. An `ai.lissom` node whose weight is constant gets
the dense weight in the place of the packed one, and its function loses the part that unpacks; inlined, what remains is
the layer as it was, under the name of the node: a Clip of a chain that stands for Relu or for nothing is written so.
Nodes of an operator stay as they are if

1. the operator is none of the contract, or its function does not name the tensor "weight" that a body of ours has;
2. one of its nodes has a packed weight that is not constant;
3. one of its nodes stands in a subgraph or in another function.

A packed weight that breaks a rule of the format is refused, as the kernel library refuses it, and so is a node with
more inputs or outputs than its function.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
from lissom_runtime.contract import DOMAIN, Signature, chain_signatures, signatures
from lissom_runtime.errors import LoadError
from lissom_runtime.packing import Packed, PackingError, WrongArray, check, unpack

from lissom.graph.inlining import calls, count_calls, inline_calls
from lissom.graph.model import all_nodes

MOST_BYTES = 2**31
"""Bytes that all dense weights of a model may have together: a few bytes of a packed file can claim any number."""

_PACKED = ("shape", "row_ptr", "columns", "values")
_WEIGHT = "weight"


def with_dense_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` in which the packed weights of the main graph are dense.

    Raises:
        LoadError: a packed weight breaks the format, the dense weights would have more than `MOST_BYTES` bytes, or a
            node does not fit its function.
    """
    proto = copy.deepcopy(model)
    _require_fitting(proto)
    made = inline_calls(proto, {chain.name for chain in chain_signatures()})
    known = {signature.name: signature for signature in signatures()}
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    room = MOST_BYTES
    replaced: list[str] = []
    dense_layers: list[str] = []
    for function in proto.functions:
        signature = known.get(function.name) if function.domain == DOMAIN else None
        if signature is None or not any(_WEIGHT in node.output for node in function.node):
            continue
        nodes = [node for node in proto.graph.node if calls(node, function)]
        packed = [_packed(node, signature, constants) for node in nodes]
        if not nodes or None in packed or len(nodes) != count_calls(proto, function):
            continue
        for node, weight in zip(nodes, packed, strict=True):
            assert weight is not None
            room -= 4 * math.prod(weight.shape)
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
        dense_layers.append(function.name)
    made |= inline_calls(proto, dense_layers)
    replaced.extend(_undo_clips(proto, made, constants))
    _drop_unread(proto, [constants[name] for name in dict.fromkeys(replaced)])
    return proto


def _require_fitting(proto: onnx.ModelProto) -> None:
    """Refuses nodes that give their function more than it takes, which `onnx.inliner` cannot bear."""
    bodies = {(body.domain, body.name, body.overload): body for body in proto.functions}
    for node in _all_nodes(proto):
        body = bodies.get((node.domain, node.op_type, node.overload))
        if body is None:
            continue
        for kind, given, most in (("inputs", node.input, body.input), ("outputs", node.output, body.output)):
            if len(given) > len(most):
                raise LoadError(
                    f"expected at most {len(most)} {kind} of node {node.name or node.op_type!r}, because its function "
                    f"has no more, but got {len(given)}"
                )


def _all_nodes(proto: onnx.ModelProto) -> Iterable[onnx.NodeProto]:
    yield from all_nodes(proto.graph)
    for body in proto.functions:
        yield from all_nodes(onnx.GraphProto(node=body.node))


def _drop_unread(proto: onnx.ModelProto, tensors: Sequence[onnx.TensorProto]) -> None:
    """Removes those of the initializers `tensors` that nothing reads any more."""
    read = {name for node in all_nodes(proto.graph) for name in node.input} | {out.name for out in proto.graph.output}
    for tensor in tensors:
        if tensor.name not in read:
            proto.graph.initializer.remove(tensor)


def _undo_clips(proto: onnx.ModelProto, made: set[str], constants: Mapping[str, onnx.TensorProto]) -> list[str]:
    """Makes a Clip from 0 to infinity a Relu and drops one without limits, if it is among the outputs `made`.

    Returns:
        The limits that it read.
    """
    graph = proto.graph
    readers = Counter(name for node in all_nodes(graph) for name in node.input)
    readers.update(value.name for value in graph.output)
    producers = {name: node for node in graph.node for name in node.output}
    limits: list[str] = []
    for node in [node for node in graph.node if _is_clip(node) and made.issuperset(node.output)]:
        source, *bounds = node.input
        found = tuple(_scalar(constants.get(name)) for name in bounds)
        if found == (0, math.inf):
            limits.extend(bounds)
            node.op_type = "Relu"
            node.name = f"{node.name.removesuffix('Clip')}Relu" if node.name else ""
            del node.input[1:]
        elif found == (-math.inf, math.inf) and source in made and readers[source] == 1:
            limits.extend(bounds)
            producer = producers[node.output[0]] = producers[source]
            producer.output[:] = [node.output[0] if name == source else name for name in producer.output]
            graph.node.remove(node)
    return limits


def _is_clip(node: onnx.NodeProto) -> bool:
    return node.op_type == "Clip" and node.domain in ("", "ai.onnx") and len(node.input) == 3


def _scalar(tensor: onnx.TensorProto | None) -> float | None:
    """The value of a constant that is one number, else None."""
    if tensor is None or tensor.dims or tensor.data_type != onnx.TensorProto.FLOAT:
        return None
    return float(onnx.numpy_helper.to_array(tensor))


def _inputs(signature: Signature) -> list[str]:
    """The formal inputs with the dense weight in the place of the packed one."""
    after = [name for name in signature.inputs if name not in _PACKED]
    return [after[0], _WEIGHT, *after[1:]]


def _packed(node: onnx.NodeProto, signature: Signature, constants: Mapping[str, onnx.TensorProto]) -> Packed | None:
    """The packed weight of `node`, or None where it has none that is constant.

    Raises:
        LoadError: it breaks the format.
    """
    if len(node.input) != len(signature.inputs) or not node.output:
        return None
    given = dict(zip(signature.inputs, node.input, strict=True))
    if any(given[formal] not in constants for formal in _PACKED):
        return None
    arrays = {formal: onnx.numpy_helper.to_array(constants[given[formal]]) for formal in _PACKED}
    try:
        if arrays["shape"].dtype != np.int64:
            raise WrongArray(f"expected shape of int64, but got {arrays['shape'].dtype}")
        packed = Packed(
            tuple(arrays["shape"].reshape(-1).tolist()),
            signature.orientation,
            signature.columns,
            arrays["row_ptr"],
            arrays["columns"],
            arrays["values"],
        )
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
