"""Models of one sparse operator, the dense model that they stand for, and sessions of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnx.numpy_helper
import onnxruntime
from lissom.lowering.bodies import function
from lissom_runtime import contract, register
from lissom_runtime.contract import Activation, Columns, Orientation, Signature
from lissom_runtime.packing import Packed, pack

Array = npt.NDArray[np.float32]

OPSET = 17
LIMITS = (-6.0, 9.0)
"""Of the activation clip."""

DENSE_ACTIVATIONS: Mapping[Activation, str] = {
    "none": "y = Identity(total)",
    "relu": "y = Relu(total)",
    "clip": "y = Clip(total, min, max)",
    "leaky_relu": "y = LeakyRelu<alpha = 0.25>(total)",
    "hard_swish": "y = HardSwish(total)",
    "silu": "s = Sigmoid(total) y = Mul(total, s)",
    "thresholded_relu": "y = ThresholdedRelu<alpha = 2.0>(total)",
    "shrink": "y = Shrink<lambd = 2.0, bias = 0.0>(total)",
}
ALPHAS: Mapping[Activation, float] = {"leaky_relu": 0.25, "thresholded_relu": 2.0, "shrink": 2.0}
HUGE = 2**31 - 1
"""The largest size that the kernels count."""

ROUNDED = frozenset({"hard_swish", "silu"})
"""Activations that are not exact on integers."""


@dataclass
class Node:
    """A sparse operator with its dense weight; a convolution has a weight of four axes."""

    weight: Array
    block: int = 1
    orientation: Orientation = "output"
    columns: Columns = "bitmap"
    activation: Activation = "none"
    residual: bool = False
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    group: int = 1
    bias: Array | None = None
    x_shape: tuple[str | int, ...] | None = None
    packed: Packed = field(init=False)

    def __post_init__(self) -> None:
        self.packed = pack(self.weight, self.block, self.orientation, self.columns)
        if self.bias is None:
            self.bias = np.arange(len(self.weight), dtype=np.float32) % 5 - 2

    @property
    def is_conv(self) -> bool:
        return self.weight.ndim == 4

    @property
    def signature(self) -> Signature:
        operator: contract.Operator = "SparseConv" if self.is_conv else "SparseGemm"
        return Signature(operator, self.columns, self.orientation, self.residual, self.activation)

    def constants(self) -> dict[str, npt.NDArray[Any]]:
        """Constant inputs by name."""
        assert self.bias is not None
        limits = {"min": np.float32(LIMITS[0]), "max": np.float32(LIMITS[1])} if self.activation == "clip" else {}
        return {
            "shape": np.array(self.weight.shape, np.int64),
            "row_ptr": self.packed.row_ptr,
            "columns": self.packed.columns,
            "values": self.packed.values,
            "bias": self.bias,
            **{name: np.asarray(value) for name, value in limits.items()},
        }

    def attributes(self) -> dict[str, Any]:
        """Attributes of the node."""
        geometry = {
            "strides": self.strides,
            "pads": self.pads,
            "dilations": self.dilations,
            "group": self.group,
        }
        alpha = {"alpha": ALPHAS[self.activation]} if self.activation in ALPHAS else {}
        return {**(geometry if self.is_conv else {}), **alpha}


def sparse_model(
    node: Node,
    *,
    body: bool = True,
    replace: Mapping[str, npt.NDArray[Any] | None] | None = None,
    attributes: Mapping[str, Any] | None = None,
    residual_of_relu: bool = False,
) -> onnx.ModelProto:
    """A model of the sparse operator alone: x [, residual] -> y.

    Args:
        node: the operator.
        body: with the function body that runs where the library is not registered.
        replace: constants to replace by others, or by an input of the graph (None).
        attributes: instead of the node's own, those that are None being left out.
        residual_of_relu: the residual that the operator gets is an intermediate result, Relu(residual).
    """
    signature = node.signature
    constants: dict[str, npt.NDArray[Any] | None] = {**node.constants(), **(replace or {})}
    given = {**node.attributes(), **(attributes or {})}
    inputs = ["active" if name == "residual" and residual_of_relu else name for name in signature.inputs]
    nodes = [onnx.helper.make_node("Relu", ["residual"], ["active"], "before")] if residual_of_relu else []
    nodes.append(onnx.helper.make_node(signature.name, inputs, ["y"], "layer", domain=contract.DOMAIN))
    for name, value in given.items():
        if value is not None:
            nodes[-1].attribute.append(onnx.helper.make_attribute(name, value))
    free = [name for name, value in constants.items() if value is None]
    graph_inputs = [_value("x", _x_shape(node))]
    if node.residual:
        graph_inputs.append(_value("residual", _y_shape(node)))
    for name in free:
        element = onnx.helper.np_dtype_to_tensor_dtype(node.constants()[name].dtype)
        graph_inputs.append(onnx.helper.make_tensor_value_info(name, element, None))
    graph = onnx.helper.make_graph(nodes, "one", graph_inputs, [_value("y", _y_shape(node))])
    graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name) for name, value in constants.items() if value is not None
    )
    opsets = [onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid(contract.DOMAIN, contract.VERSION)]
    functions = [function(signature, OPSET)] if body else []
    return onnx.helper.make_model(graph, ir_version=8, opset_imports=opsets, functions=functions)


def dense_model(node: Node) -> onnx.ModelProto:
    """The model of standard operators that the sparse one stands for, with the same inputs and output."""
    assert node.bias is not None
    geometry = f"<strides = {list(node.strides)}, pads = {list(node.pads)}, dilations = {list(node.dilations)}"
    linear = (
        f"sum = Conv{geometry}, group = {node.group}>(x, weight, bias)"
        if node.is_conv
        else "product = MatMul(x, weight) sum = Add(product, bias)"
    )
    added = "total = Add(sum, residual)" if node.residual else "total = Identity(sum)"
    inputs = "float[?] x, float[?] residual" if node.residual else "float[?] x"
    text = f'<ir_version: 8, opset_import: ["": {OPSET}]> dense({inputs}) => (float[?] y) {{ {linear} {added} '
    model = onnx.parser.parse_model(f"{text} {DENSE_ACTIVATIONS[node.activation]} }}")
    for value in [*model.graph.input, *model.graph.output]:
        shape = _x_shape(node) if value.name == "x" else _y_shape(node)
        value.CopyFrom(_value(value.name, shape))
    constants: dict[str, npt.NDArray[Any]] = {
        "weight": node.weight if node.is_conv else np.ascontiguousarray(node.weight.T),
        "bias": node.bias,
        "min": np.asarray(np.float32(LIMITS[0])),
        "max": np.asarray(np.float32(LIMITS[1])),
    }
    used = {name for part in model.graph.node for name in part.input}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name) for name, value in constants.items() if name in used
    )
    return model


def session(model: onnx.ModelProto, *, native: bool = False, threads: int = 1) -> onnxruntime.InferenceSession:
    """A session on the CPU, with the library registered or without."""
    return open_session(model.SerializeToString(), native=native, threads=threads)


def open_session(source: bytes | str, *, native: bool = False, threads: int = 1) -> onnxruntime.InferenceSession:
    """The same for the bytes of a model or its path."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if native:
        register(options)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def sparse_weight(seed: int, *shape: int, block: int = 1, density: float = 0.3, orientation: str = "output") -> Array:
    """Small integers as floats, zero in whole blocks."""
    generator = np.random.default_rng(seed)
    rows, depth = shape[0], int(np.prod(shape[1:]))
    weight = generator.integers(-4, 5, (rows, depth)).astype(np.float32)
    if orientation == "output":
        kept = np.repeat(generator.random((rows // block, depth)) < density, block, axis=0)
    else:
        kept = np.repeat(generator.random((rows, depth // block)) < density, block, axis=1)
    return (weight * kept).reshape(shape)


def integers(seed: int, *shape: int) -> Array:
    """Small integers as floats: sums of their products are exact."""
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float32)


def random_floats(seed: int, *shape: int) -> Array:
    """Standard normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def changed(array: npt.NDArray[Any], index: int, value: int) -> npt.NDArray[Any]:
    """A copy with one element replaced."""
    copy = array.copy()
    copy[index] = value
    return copy


def extremes() -> Array:
    """NaN, infinities, denormals, zeros of both signs, the largest floats, and what lies at thresholds."""
    numbers = [np.nan, np.inf, -np.inf, 1e-40, -1e-40, 0.0, -0.0, 3e38, -3e38, 2.0, -2.0, 2.5, -2.5, 100.0, -100.0]
    return np.array(numbers, np.float32)


def feeds(node: Node, x: Array, seed: int = 0) -> dict[str, Array]:
    """The inputs of a run with this `x`, the residual included where there is one."""
    if not node.residual:
        return {"x": x}
    return {"x": x, "residual": integers(seed, *y_shape(node, x.shape))}


def y_shape(node: Node, x: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the output for an input of shape `x`."""
    if not node.is_conv:
        return (*x[:-1], len(node.weight))
    spatial = [
        (x[2 + axis] + node.pads[axis] + node.pads[2 + axis] - (node.weight.shape[2 + axis] - 1) * node.dilations[axis])
        for axis in (0, 1)
    ]
    return (x[0], len(node.weight), *((extent - 1) // node.strides[axis] + 1 for axis, extent in enumerate(spatial)))


def _x_shape(node: Node) -> tuple[str | int, ...]:
    if node.x_shape is not None:
        return node.x_shape
    return ("N", node.weight.shape[1] * node.group, "H", "W") if node.is_conv else ("N", node.weight.shape[1])


def _y_shape(node: Node) -> tuple[str | int, ...]:
    if node.is_conv:
        return ("N", len(node.weight), "H_out", "W_out")
    return (*_x_shape(node)[:-1], len(node.weight))


def _value(name: str, shape: tuple[str | int, ...]) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
