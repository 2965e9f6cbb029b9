"""Reading a model for lowering so that its dynamic masks stay operators of the runtime.

Functions are inlined when a model is read. Inlined, a WinnerMask is TopK and a few nodes around it, which no kernel
runs and which nothing turns back. So its function is taken out before and put back behind. Yet it is inlined if

1. its body is not the one that `bodies.mask_function` gives for the model's operators: it may compute something else;
2. the model is converted to another opset, which needs functions inlined.
"""

from __future__ import annotations

import onnx
from lissom_runtime.contract import DOMAIN, WINNER_MASK

from lissom.graph.load import from_proto
from lissom.graph.model import Model
from lissom.lowering.bodies import mask_function


def read_with_masks(proto: onnx.ModelProto, convert_opset: int | None = None) -> Model:
    """Takes over a protobuf as `from_proto` does, its dynamic masks as they are.

    Raises:
        LoadError: as `from_proto`.
        UsageError: as `from_proto`.
    """
    body = next((f for f in proto.functions if (f.domain, f.name) == (DOMAIN, WINNER_MASK.name)), None)
    if body is None or convert_opset is not None or not _is_ours(body):
        return from_proto(proto, convert_opset)
    without = onnx.ModelProto()
    without.CopyFrom(proto)
    del without.functions[:]
    without.functions.extend(other for other in proto.functions if other != body)
    model = from_proto(without)
    model.add_function(body)
    return model


def _is_ours(body: onnx.FunctionProto) -> bool:
    """Whether a function is what this version of lissom gives WinnerMask."""
    versions = {entry.domain: entry.version for entry in body.opset_import}
    return versions.keys() == {""} and bool(body == mask_function(versions[""]))
