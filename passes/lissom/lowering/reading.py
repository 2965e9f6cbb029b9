"""Reading a model for lowering: which nodes were sparse operators, and dynamic masks that stay operators.

Functions are inlined when a model is read. A sparse operator becomes a dense layer of its name so, which `propose`
finds again. A WinnerMask becomes TopK and a few nodes around it, which no kernel runs and which nothing turns back. So
its function is taken out before and put back behind. Yet it is inlined, and that is said, if

1. its body is not the one that `bodies.mask_function` gives for the model's operators: it may compute something else;
2. the model is converted to another opset, which needs functions inlined.
"""

from __future__ import annotations

import onnx
from lissom_runtime.contract import DOMAIN, WINNER_MASK

from lissom.graph.load import from_proto
from lissom.graph.model import Model
from lissom.graph.naming import fresh_name
from lissom.lowering.bodies import mask_function


def is_sparse(node: onnx.NodeProto) -> bool:
    """Whether a node is a sparse operator of the runtime."""
    return bool(node.domain == DOMAIN and node.op_type != WINNER_MASK.name)


def with_names(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model, or a copy where sparse operators have names that had none."""
    if all(node.name for node in proto.graph.node if is_sparse(node)):
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    taken = {node.name for node in copy.graph.node}
    for node in copy.graph.node:
        if is_sparse(node) and not node.name:
            node.name = fresh_name(node.output[0] or node.op_type, taken)
    return copy


def read_with_masks(proto: onnx.ModelProto, convert_opset: int | None = None) -> Model:
    """Takes over a protobuf as `from_proto` does, its dynamic masks as they are.

    Raises:
        LoadError: as `from_proto`.
        UsageError: as `from_proto`.
    """
    masks = sum((node.domain, node.op_type) == (DOMAIN, WINNER_MASK.name) for node in proto.graph.node)
    body = next((f for f in proto.functions if (f.domain, f.name) == (DOMAIN, WINNER_MASK.name)), None)
    opset = max((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if body is None or convert_opset not in (None, opset) or not _is_ours(body, opset):
        model = from_proto(proto, convert_opset)
        if body is not None and masks:
            model.remarks.append(f"{masks} dynamic masks were inlined, so that no kernel of the runtime runs them")
        return model
    without = onnx.ModelProto()
    without.CopyFrom(proto)
    del without.functions[:]
    without.functions.extend(other for other in proto.functions if other != body)
    model = from_proto(without)
    model.add_function(body)
    return model


def _is_ours(body: onnx.FunctionProto, opset: int) -> bool:
    """Whether a function is what this version of lissom gives WinnerMask in a model of this opset."""
    if {entry.domain: entry.version for entry in body.opset_import} != {"": opset}:
        return False
    plain = onnx.FunctionProto()
    plain.CopyFrom(body)
    plain.ClearField("doc_string")
    return bool(plain == mask_function(opset))
