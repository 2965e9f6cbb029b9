"""Gives the layers that `lissom lower` packed their dense weights back, so that a lowered model can be read again.

An `ai.lissom` node whose weight is constant gets the dense weight in the place of the packed one, and its function
loses the part that unpacks; inlined, what remains is the layer as it was. Nodes of an operator stay as they are if

1. the operator is none of the contract, or its function does not name the tensor "weight" that a body of ours has;
2. one of its nodes has a packed weight that is not constant, or breaks a rule of the format.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import onnx
from lissom_runtime.contract import DOMAIN, Signature, signatures
from lissom_runtime.packing import Packed, PackingError, check, unpack

_PACKED = ("shape", "row_ptr", "columns", "values")
_WEIGHT = "weight"


def unpack_weights(proto: onnx.ModelProto) -> None:
    """Edits `proto`: its own functions and the nodes of the main graph that call them."""
    known = {signature.name: signature for signature in signatures()}
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    for function in proto.functions:
        signature = known.get(function.name) if function.domain == DOMAIN else None
        if signature is None or not any(_WEIGHT in node.output for node in function.node):
            continue
        nodes = [n for n in proto.graph.node if n.op_type == function.name and n.domain == DOMAIN]
        weights = [_dense(node, signature, constants) for node in nodes]
        if not nodes or any(weight is None for weight in weights):
            continue
        for node, weight in zip(nodes, weights, strict=True):
            assert weight is not None
            proto.graph.initializer.append(weight)
            given = dict(zip(signature.inputs, node.input, strict=True)) | {_WEIGHT: weight.name}
            node.input[:] = [given[formal] for formal in _inputs(signature)]
        _keep_arithmetic(function, signature)


def _inputs(signature: Signature) -> list[str]:
    """The formal inputs with the dense weight in the place of the packed one."""
    after = [name for name in signature.inputs if name not in _PACKED]
    return [after[0], _WEIGHT, *after[1:]]


def _dense(
    node: onnx.NodeProto, signature: Signature, constants: Mapping[str, onnx.TensorProto]
) -> onnx.TensorProto | None:
    """The dense weight of `node`, or None."""
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
    except PackingError:
        return None
    return onnx.numpy_helper.from_array(unpack(packed), f"{given['values']}_dense")


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
