"""Lifts and folds what does not depend on the input.

`lift_constants` turns `Constant` nodes, and `ConstantOfShape` nodes of constant
shape that a layer reads as a weight, into initializers. `fold_constants` evaluates,
with ONNX Runtime, the nodes all of whose inputs are constants. A node is left when

1. it is not a standard operator, holds a subgraph, or draws random numbers;
2. its result is an output of the graph (outputs keep their producer);
3. its result is larger than `GROWTH_BYTES` and than what it is made from, unless
   a layer reads it as weight: folding would only make the file larger;
4. ONNX Runtime cannot run it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from lissom.graph.model import Model, Node, Tensor, constant, is_constant, is_standard, node_to_proto
from lissom.graph.random import GENERATORS
from lissom.graph.steps import Change, Outcome

GROWTH_BYTES = 4096
"""Results up to this size are folded even when they are larger than their inputs."""

_KEPT = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Constant"})
_WEIGHT_READERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization"})


def lift_constants(model: Model) -> Outcome:
    """Turns `Constant` and weight-bearing `ConstantOfShape` nodes into initializers."""
    outcome = Outcome()
    remaining = []
    for node in model.graph.nodes:
        values = _constant_value(node) if _is_inner(model, node) else None
        if values is None:
            remaining.append(node)
            continue
        _replace(node, values)
        outcome.changes.append(Change(node.name, f"{node.op} became an initializer {list(values.shape)}"))
    model.graph.nodes = remaining
    return outcome


def fold_constants(model: Model) -> Outcome:
    """Evaluates the nodes that read constants only, until none is left."""
    outcome = Outcome()
    remaining = []
    for node in model.graph.nodes:  # topological order: one sweep meets producers before consumers
        values = _evaluate(node, model.opset) if _is_foldable(model, node) else None
        if values is None or not _is_worth_it(node, values):
            remaining.append(node)
            continue
        _replace(node, values)
        outcome.changes.append(Change(node.name, f"{node.op} of constants became an initializer {list(values.shape)}"))
    model.graph.nodes = remaining
    return outcome


def _is_inner(model: Model, node: Node) -> bool:
    return len(node.outputs) == 1 and not any(node.outputs[0] is out for out in model.graph.outputs)


def _constant_value(node: Node) -> np.ndarray[Any, Any] | None:
    if is_standard(node, "Constant"):
        return _attribute_value(node)
    if is_standard(node, "ConstantOfShape") and is_constant(node.inputs[0]) and _feeds_layer(node.outputs[0]):
        fill = node.attrs.get("value")
        value = np.zeros(1, np.float32) if fill is None else np.asarray(fill.values)
        return np.full(tuple(int(n) for n in node.inputs[0].values), value.reshape(-1)[0], value.dtype)
    return None


def _attribute_value(node: Node) -> np.ndarray[Any, Any] | None:
    for key, value in node.attrs.items():
        match key:
            case "value":
                return np.asarray(value.values) if is_constant(value) else None
            case "value_float" | "value_floats":
                return np.asarray(value, np.float32)
            case "value_int" | "value_ints":
                return np.asarray(value, np.int64)
    return None


def _is_foldable(model: Model, node: Node) -> bool:
    return bool(
        node.domain in (None, "", "ai.onnx")
        and node.op not in GENERATORS | _KEPT
        and node.inputs
        and _is_inner(model, node)
        and all(is_constant(tensor) or tensor.is_empty() for tensor in node.inputs)
        and not any(True for _ in node.subgraphs())
    )


def _feeds_layer(tensor: Tensor) -> bool:
    return any(reader.op in _WEIGHT_READERS for reader in tensor.outputs)


def _is_worth_it(node: Node, values: np.ndarray[Any, Any]) -> bool:
    made_from = sum(tensor.values.nbytes for tensor in node.inputs if not tensor.is_empty())
    return values.nbytes <= max(GROWTH_BYTES, made_from) or _feeds_layer(node.outputs[0])


def _evaluate(node: Node, opset: int) -> np.ndarray[Any, Any] | None:
    """The value of one node, by ONNX Runtime, so that folding rounds as running does."""
    operands = {tensor.name: tensor.values for tensor in node.inputs if not tensor.is_empty()}
    proto = node_to_proto(node)
    try:
        inputs = [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in operands.items()
        ]
        output = onnx.helper.make_empty_tensor_value_info(node.outputs[0].name)
        graph = onnx.helper.make_graph([proto], "fold", inputs, [output])
        single = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(single.SerializeToString(), options, providers=["CPUExecutionProvider"])
        result = session.run(None, operands)[0]
    except Exception:  # condition 4: ONNX Runtime raises many types; an unfolded node is never wrong
        return None
    return result if isinstance(result, np.ndarray) and result.dtype != object else None


def _replace(node: Node, values: np.ndarray[Any, Any]) -> None:
    """Puts a constant in the place of the one output of `node`, in subgraphs too."""
    old = node.outputs[0]
    new = constant(old.name, values)
    for reader in list(old.outputs):
        for position, tensor in enumerate(reader.inputs):
            if tensor is old:
                reader.inputs[position] = new
    node.inputs.clear()
    node.outputs.clear()
