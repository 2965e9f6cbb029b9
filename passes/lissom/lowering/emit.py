"""Makes a node of the runtime from a packed weight, with all that it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from lissom_runtime.contract import DOMAIN, WITH_ALPHA, Activation, Operator, Signature
from lissom_runtime.packing import Packed

from lissom.graph.model import Model, Node, Tensor, constant, make_node
from lissom.lowering.bodies import function

EVERYTHING = (float(np.finfo(np.float32).min), float(np.finfo(np.float32).max))
"""Limits of a Clip that has none."""


@dataclass(frozen=True)
class Epilogue:
    """What happens to a sum before it is stored.

    Attributes:
        residual: a tensor of the output's shape that is added, or None.
        activation: what the sum passes through then.
        alpha: its slope or threshold, for the activations of `contract.WITH_ALPHA`.
        limits: smallest and largest value, for "clip".
    """

    residual: Tensor | None = None
    activation: Activation = "none"
    alpha: float = 0.0
    limits: tuple[float, float] = EVERYTHING


@dataclass(frozen=True)
class Convolution:
    """The attributes of a SparseConv, in ONNX's meaning."""

    strides: Sequence[int] = (1, 1)
    pads: Sequence[int] = (0, 0, 0, 0)
    dilations: Sequence[int] = (1, 1)
    group: int = 1


def emit(
    model: Model,
    name: str,
    source: Tensor,
    packed: Packed,
    bias: npt.NDArray[np.float32],
    convolution: Convolution | None = None,
    epilogue: Epilogue | None = None,
) -> Node:
    """A SparseConv or SparseGemm (not yet in the graph, and without an output), its operator's body in `model`.

    Args:
        model: the model that the node is for.
        name: of the node.
        source: what it reads.
        packed: its weight.
        bias: bias[out_channels].
        convolution: geometry of a SparseConv; None makes a SparseGemm.
        epilogue: what the node does besides; None does nothing.

    Returns:
        The node; the caller gives it an output and a place.
    """
    after = epilogue or Epilogue()
    operator: Operator = "SparseGemm" if convolution is None else "SparseConv"
    signature = Signature(operator, packed.format, packed.orientation, after.residual is not None, after.activation)
    arrays: dict[str, npt.NDArray[Any]] = {
        "shape": np.array(packed.shape, np.int64),
        "row_ptr": packed.row_ptr,
        "columns": packed.columns,
        "values": packed.values,
        "bias": np.asarray(bias, np.float32),
        "min": np.array(after.limits[0], np.float32),
        "max": np.array(after.limits[1], np.float32),
    }
    tensors = {"x": source, "residual": after.residual}
    inputs = [
        tensors[formal] if formal in tensors else constant(f"{name}_{formal}", arrays[formal])
        for formal in signature.inputs
    ]
    model.add_function(function(signature, model.opset))
    return make_node(signature.name, name, inputs, [], _attributes(convolution, after), DOMAIN)


def _attributes(convolution: Convolution | None, epilogue: Epilogue) -> Mapping[str, Any]:
    attributes: dict[str, Any] = {}
    if convolution is not None:
        attributes |= {
            "strides": list(convolution.strides),
            "pads": list(convolution.pads),
            "dilations": list(convolution.dilations),
            "group": convolution.group,
        }
    if epilogue.activation in WITH_ALPHA:
        attributes["alpha"] = float(epilogue.alpha)
    return attributes
