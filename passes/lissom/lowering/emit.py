"""Makes a node of the runtime from packed weights, with all that it reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from lissom_runtime.contract import DOMAIN, WITH_ALPHA, Activation, ChainSignature, Operator, Signature, Stage
from lissom_runtime.packing import Packed

from lissom.graph.model import Model, Node, Tensor, constant, make_node
from lissom.lowering.bodies import chain_functions, function

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
    """The attributes of a SparseConv, and of the middle layer of a SparseChain, in ONNX's meaning."""

    strides: Sequence[int] = (1, 1)
    pads: Sequence[int] = (0, 0, 0, 0)
    dilations: Sequence[int] = (1, 1)
    group: int = 1


@dataclass(frozen=True, eq=False)
class SparseStage:
    """A sparse layer of a chain: expand, spatial or project.

    Attributes:
        packed: its weight[out_channels, in_channels, kernel_height, kernel_width].
        bias: bias[out_channels].
        limits: smallest and largest value, for "clip".
    """

    packed: Packed
    bias: npt.NDArray[np.float32]
    limits: tuple[float, float] = (-math.inf, math.inf)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The constant inputs, by the names that they have in the operator of a single layer."""
        return _arrays(self.packed, self.bias, self.limits)


@dataclass(frozen=True, eq=False)
class DepthwiseStage:
    """A dense depthwise layer of a chain.

    Attributes:
        weight: weight[channels, 1, kernel_height, kernel_width].
        bias: bias[channels].
        limits: smallest and largest value, for "clip".
    """

    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    limits: tuple[float, float] = (-math.inf, math.inf)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The constant inputs, by name."""
        return {"weight": np.asarray(self.weight, np.float32), **_dense_arrays(self.bias, self.limits)}


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
    arrays = _arrays(packed, bias, after.limits)
    tensors = {"x": source, "residual": after.residual}
    inputs = [
        tensors[formal] if formal in tensors else constant(f"{name}_{formal}", arrays[formal])
        for formal in signature.inputs
    ]
    model.add_function(function(signature, model.opset))
    attributes = {} if convolution is None else _geometry(convolution)
    if after.activation in WITH_ALPHA:
        attributes["alpha"] = float(after.alpha)
    return make_node(signature.name, name, inputs, [], attributes, DOMAIN)


def emit_chain(
    model: Model,
    name: str,
    source: Tensor,
    signature: ChainSignature,
    stages: Sequence[SparseStage | DepthwiseStage],
    convolution: Convolution,
    residual: Tensor | None = None,
) -> Node:
    """A SparseChain (not yet in the graph, and without an output), the bodies that it needs in `model`.

    Args:
        model: the model that the node is for.
        name: of the node.
        source: what it reads.
        signature: which chain it is.
        stages: its layers, as `signature.stages` lists them, packed in `signature.columns` along output channels.
        convolution: geometry of the layer in the middle.
        residual: a tensor of the output's shape that is added before the last activation, if `signature` says so.

    Returns:
        The node; the caller gives it an output and a place.

    Raises:
        ValueError: `stages` or `residual` are not what `signature` says.
    """
    wanted, given = [_kind(signature, stage) for stage in signature.stages], [_kind_of(layer) for layer in stages]
    if wanted != given or signature.residual != (residual is not None):
        raise ValueError(
            f"expected {', '.join(wanted)} {'with' if signature.residual else 'without'} a residual for "
            f"{signature.name}, but got {', '.join(given)} {'without' if residual is None else 'with'} one"
        )
    tensors = {"x": source, "residual": residual}
    for stage, layer in zip(signature.stages, stages, strict=True):
        for formal, array in layer.arrays().items():
            tensors[f"{stage}_{formal}"] = constant(f"{name}_{stage}_{formal}", array)
    for body in chain_functions(signature, model.opset):
        model.add_function(body)
    inputs = [tensors[formal] for formal in signature.inputs]
    return make_node(signature.name, name, inputs, [], _geometry(convolution), DOMAIN)


def _arrays(packed: Packed, bias: npt.NDArray[np.float32], limits: tuple[float, float]) -> dict[str, npt.NDArray[Any]]:
    return {
        "shape": np.array(packed.shape, np.int64),
        "row_ptr": packed.row_ptr,
        "columns": packed.columns,
        "values": packed.values,
        **_dense_arrays(bias, limits),
    }


def _dense_arrays(bias: npt.NDArray[np.float32], limits: tuple[float, float]) -> dict[str, npt.NDArray[Any]]:
    return {
        "bias": np.asarray(bias, np.float32),
        "min": np.array(limits[0], np.float32),
        "max": np.array(limits[1], np.float32),
    }


def _kind(signature: ChainSignature, stage: Stage) -> str:
    return "depthwise" if stage == "depthwise" else f"{signature.columns} output"


def _kind_of(layer: SparseStage | DepthwiseStage) -> str:
    return "depthwise" if isinstance(layer, DepthwiseStage) else f"{layer.packed.format} {layer.packed.orientation}"


def _geometry(convolution: Convolution) -> dict[str, Any]:
    return {
        "strides": list(convolution.strides),
        "pads": list(convolution.pads),
        "dilations": list(convolution.dilations),
        "group": convolution.group,
    }
