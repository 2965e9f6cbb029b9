"""Shape inference that leaves dynamic dimensions dynamic."""

from __future__ import annotations

import onnx

from lissom.graph.model import Model, is_variable, tensor_of_value
from lissom.graph.steps import Change, Outcome


def infer_shapes(model: Model) -> Outcome:
    """Records element type and shape of every tensor that ONNX shape inference can tell."""
    outcome = Outcome()
    proto = model.to_proto()
    if proto.ByteSize() >= 2**31:
        return outcome  # shape inference works on serialized models, which end at 2 GiB
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except onnx.shape_inference.InferenceError:
        return outcome
    tensors = model.graph.tensors()
    for value in inferred.graph.value_info:
        tensor = tensors.get(value.name)
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type" or not is_variable(tensor):
            continue
        told = tensor_of_value(value)
        if tensor.dtype is None and told.dtype is not None:
            tensor.dtype = told.dtype
        if tensor.shape is None and told.shape is not None:
            tensor.shape = told.shape
            outcome.changes.append(Change(value.name, f"has shape {told.shape}"))
    return outcome
