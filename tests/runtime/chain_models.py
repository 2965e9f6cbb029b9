"""Models of one chain of layers, the dense model that it stands for, and the inputs of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnx.numpy_helper
from lissom.lowering.bodies import chain_functions
from lissom_runtime import contract
from lissom_runtime.contract import CHAIN_STAGES, Activation, ChainShape, ChainSignature, Columns, Stage
from lissom_runtime.packing import Packed, pack
from runtime.ops_models import OPSET, Array, integers, random_floats, sparse_weight

INNER_LIMITS = (-30.0, 50.0)
"""Of the activation clip in all layers but the last: sums stay small, and exact."""

LAST_LIMITS = (-400.0, 600.0)
"""Of the activation clip in the last layer."""


def signature_of(shape: ChainShape, columns: Columns = "bitmap", activation: Activation = "clip") -> ChainSignature:
    """With a residual, where the shape has one."""
    if CHAIN_STAGES[shape][-1] != "project":
        return ChainSignature(shape, columns, activation, activation)
    return ChainSignature(shape, columns, activation, "relu" if activation == "clip" else "none", residual=True)


@dataclass
class Chain:
    """A chain with its dense weights.

    Attributes:
        signature: the operator.
        channels: of x, and those that each layer gives (a depthwise one as many as it gets).
        kernel: extents of the layer in the middle.
        block: output channels that share a pattern.
        density: of the blocks.
        limits: smallest and largest value of layers with the activation clip, where they are not the usual ones.
        seed: of the weights.
        fractions: weights are any floats instead of whole numbers.
        x_shape: shape that the model declares for x.
    """

    signature: ChainSignature
    channels: tuple[int, ...]
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    dilations: tuple[int, int] = (1, 1)
    block: int = 1
    density: float = 0.4
    limits: Mapping[Stage, tuple[float, float]] = field(default_factory=dict)
    seed: int = 0
    fractions: bool = False
    x_shape: tuple[str | int, ...] | None = None
    weights: dict[Stage, Array] = field(init=False)
    biases: dict[Stage, Array] = field(init=False)

    def __post_init__(self) -> None:
        self.weights, self.biases = {}, {}
        for index, stage in enumerate(self.signature.stages):
            seed, (before, after) = self.seed * 10 + index, self.channels[index : index + 2]
            if stage == "depthwise":
                assert before == after
                weight = integers(seed, after, 1, *self.kernel)
            else:
                extents = self.kernel if stage == "spatial" else (1, 1)
                weight = sparse_weight(seed, after, before, *extents, block=self.block, density=self.density)
            if self.fractions:
                weight = np.where(weight != 0, random_floats(seed, *weight.shape), np.float32(0))
            self.weights[stage] = weight
            self.biases[stage] = np.arange(after, dtype=np.float32) % 5 - 2

    @property
    def group(self) -> int:
        return self.channels[1] if self.signature.middle == "depthwise" else 1

    def packed(self, stage: Stage) -> Packed:
        """The weight of a sparse layer as the model holds it."""
        return pack(self.weights[stage], self.block, "output", self.signature.columns)

    def limits_of(self, stage: Stage) -> tuple[float, float]:
        """Smallest and largest value that a layer lets through, if its activation is clip."""
        return self.limits.get(stage, LAST_LIMITS if stage == self.signature.stages[-1] else INNER_LIMITS)

    def constants(self) -> dict[str, npt.NDArray[Any]]:
        """Constant inputs by name."""
        arrays: dict[str, npt.NDArray[Any]] = {}
        for stage, weight in self.weights.items():
            if stage == "depthwise":
                arrays["depthwise_weight"] = weight
            else:
                packed = self.packed(stage)
                arrays[f"{stage}_shape"] = np.array(weight.shape, np.int64)
                for name in ("row_ptr", "columns", "values"):
                    arrays[f"{stage}_{name}"] = getattr(packed, name)
            arrays[f"{stage}_bias"] = self.biases[stage]
            low, high = self.limits_of(stage)
            arrays |= {f"{stage}_min": np.array(low, np.float32), f"{stage}_max": np.array(high, np.float32)}
        return {name: arrays[name] for name in self.signature.inputs if name in arrays}

    def attributes(self) -> dict[str, Any]:
        """Attributes of the node."""
        return {"strides": self.strides, "pads": self.pads, "dilations": self.dilations, "group": self.group}

    def y_shape(self, x: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the output for an input of shape `x`."""
        reach = [(self.kernel[axis] - 1) * self.dilations[axis] + 1 for axis in (0, 1)]
        padded = [x[2 + axis] + self.pads[axis] + self.pads[2 + axis] for axis in (0, 1)]
        out = ((padded[axis] - reach[axis]) // self.strides[axis] + 1 for axis in (0, 1))
        return (x[0], self.channels[-1], *out)

    def x(self, batch: int, height: int, width: int) -> Array:
        """An input of small whole numbers, or of any floats if the weights are."""
        make = random_floats if self.fractions else integers
        return make(batch * 10000 + height * 100 + width, batch, self.channels[0], height, width)

    def feeds(self, x: Array) -> dict[str, Array]:
        """The inputs of a run with this `x`, the residual included where there is one."""
        given = {"x": x}
        if self.signature.residual:
            given["residual"] = (random_floats if self.fractions else integers)(0, *self.y_shape(x.shape))
        return given

    def values(self) -> list[onnx.ValueInfoProto]:
        """The inputs of the model, and its output."""
        x: tuple[str | int, ...] = self.x_shape or ("N", self.channels[0], "H", "W")
        y = ("N", self.channels[-1], "H_out", "W_out")
        shapes = {"x": x, **({"residual": y} if self.signature.residual else {}), "y": y}
        return [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n, shape in shapes.items()]


def chain_model(
    chain: Chain,
    *,
    body: bool = True,
    replace: Mapping[str, npt.NDArray[Any] | None] | None = None,
    attributes: Mapping[str, Any] | None = None,
    residual: str | None = None,
    active: bool = False,
) -> onnx.ModelProto:
    """A model of the chain alone: x [, residual] -> y.

    Args:
        chain: the chain.
        body: with the function bodies that run where the library is not registered.
        replace: constants to replace by others, or by an input of the graph (None).
        attributes: instead of the chain's own, those that are None being left out.
        residual: a tensor of the model that is the residual, instead of an input.
        active: x passes a Relu before the chain, and the residual another, so that both are intermediate results.
    """
    signature = chain.signature
    constants: dict[str, npt.NDArray[Any] | None] = {**chain.constants(), **(replace or {})}
    *inputs, output = chain.values()
    if residual is not None:
        inputs = [value for value in inputs if value.name != "residual"]
    nodes = []
    names = {"x": "x", "residual": residual or "residual"}
    if active:
        nodes = [onnx.helper.make_node("Relu", [value.name], [f"active_{value.name}"]) for value in inputs]
        names = {formal: f"active_{name}" for formal, name in names.items()}
    node = onnx.helper.make_node(
        signature.name, [names.get(name, name) for name in signature.inputs], ["y"], "chain", domain=contract.DOMAIN
    )
    for name, value in {**chain.attributes(), **(attributes or {})}.items():
        if value is not None:
            node.attribute.append(onnx.helper.make_attribute(name, value))
    for name, array in constants.items():
        if array is None:
            element = onnx.helper.np_dtype_to_tensor_dtype(chain.constants()[name].dtype)
            inputs.append(onnx.helper.make_tensor_value_info(name, element, None))
    graph = onnx.helper.make_graph([*nodes, node], "one", inputs, [output])
    graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in constants.items() if array is not None
    )
    opsets = [onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid(contract.DOMAIN, contract.VERSION)]
    functions = chain_functions(signature, OPSET) if body else []
    return onnx.helper.make_model(graph, ir_version=8, opset_imports=opsets, functions=functions)


def dense_chain_model(chain: Chain) -> onnx.ModelProto:
    """The model of standard operators that the chain stands for, with the same inputs and output."""
    signature, nodes, source = chain.signature, [], "x"
    initializers: dict[str, npt.NDArray[Any]] = {}
    for stage in signature.stages:
        initializers |= {f"{stage}_weight": chain.weights[stage], f"{stage}_bias": chain.biases[stage]}
        attributes = chain.attributes() if stage == signature.middle else {}
        inputs = [source, f"{stage}_weight", f"{stage}_bias"]
        nodes.append(onnx.helper.make_node("Conv", inputs, [f"{stage}_sum"], f"{stage}_conv", **attributes))
        total = f"{stage}_sum"
        if signature.residual and stage == signature.stages[-1]:
            nodes.append(onnx.helper.make_node("Add", [total, "residual"], ["total"]))
            total = "total"
        source = "y" if stage == signature.stages[-1] else f"{stage}_y"
        activation = signature.activation(stage)
        simple = {"none": "Identity", "relu": "Relu", "hard_swish": "HardSwish"}
        if activation == "clip":
            for name, limit in zip(("min", "max"), chain.limits_of(stage), strict=True):
                initializers[f"{stage}_{name}"] = np.array(limit, np.float32)
            nodes.append(onnx.helper.make_node("Clip", [total, f"{stage}_min", f"{stage}_max"], [source]))
        elif activation in simple:
            nodes.append(onnx.helper.make_node(simple[activation], [total], [source]))
        else:
            nodes.append(onnx.helper.make_node("Sigmoid", [total], [f"{stage}_gate"]))
            nodes.append(onnx.helper.make_node("Mul", [total, f"{stage}_gate"], [source]))
    *graph_inputs, output = chain.values()
    graph = onnx.helper.make_graph(nodes, "dense", graph_inputs, [output])
    graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in initializers.items())
    return onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", OPSET)])
