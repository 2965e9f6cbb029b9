"""The nine `light_*` networks of the onnx package, with weights that mean something.

onnx ships their topologies with ConstantOfShape nodes in the place of weights. Each of these becomes a
Constant of seeded random values, drawn for its role: He-normal for weights, so that activations
neither vanish nor explode, scales around 1, shifts and biases around 0. Two things are changed:

1. the fully connected layers are 64 wide in the place of 4096 (vgg19, alexnet and zfnet512 would
   be 550, 230 and 330 MB, and an SVD of 4096 × 25088 takes minutes);
2. the last Softmax is left out: it would hide differences, as it makes logits of any size small.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from end_to_end.corpus import Case
from lissom_runtime.session import open_session
from onnx import numpy_helper

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
NAMES = (
    *("bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet", "vgg19"),
    "zfnet512",
)
LARGEST = 40_000
"""Weights of the largest layer that is factorised: an SVD of each layer would take most of the time."""

Role = tuple[str, int]
"""The operator that reads a tensor, and as which input."""


def light_case(name: str) -> Case:
    """One network with weights, one random image, and what plain ONNX Runtime makes of it."""
    model = onnx.load(FOLDER / f"light_{name}.onnx")
    _fill(model.graph, np.random.default_rng(0))
    _drop_softmax(model.graph)
    defaults = {tensor.name for tensor in model.graph.initializer}
    source = next(value for value in model.graph.input if value.name not in defaults)
    shape = [dim.dim_value for dim in source.type.tensor_type.shape.dim]
    feeds = {source.name: np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    outputs = open_session(model.SerializeToString()).run(None, feeds)
    atol = 1e-4 * float(np.abs(outputs[0]).max())
    return Case("light", name, model, [(feeds, outputs)], 1e-3, atol, largest=LARGEST, is_network=True)


def has_op(model: onnx.ModelProto, op: str) -> bool:
    """Whether a node of the main graph is an `op`."""
    return any(node.op_type == op for node in model.graph.node)


def _fill(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    """Gives random values to what ConstantOfShape makes and to the float initializers."""
    roles = _roles(graph)
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "ConstantOfShape":
            shape = [64 if extent == 4096 else int(extent) for extent in numpy_helper.to_array(stored[node.input[0]])]
            values = _draw(rng, roles[node.output[0]], shape)
            node.CopyFrom(
                onnx.helper.make_node("Constant", [], [node.output[0]], value=numpy_helper.from_array(values))
            )
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = _draw(rng, roles.get(tensor.name, ("", 0)), list(tensor.dims))
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _roles(graph: onnx.GraphProto) -> dict[str, Role]:
    """The reader of each tensor, looking through Unsqueeze and Reshape."""
    roles: dict[str, Role] = {}
    for node in reversed(graph.node):
        for position, name in enumerate(node.input):
            through = node.op_type in ("Unsqueeze", "Reshape") and position == 0
            roles[name] = roles.get(node.output[0], ("", 0)) if through else (node.op_type, position)
    return roles


def _draw(rng: np.random.Generator, role: Role, shape: list[int]) -> npt.NDArray[np.float32]:
    normal = rng.standard_normal(shape)
    match role:
        case ("Conv" | "Gemm", 1):
            values = normal * np.sqrt(2 / max(prod(shape[1:]), 1))
        case ("BatchNormalization" | "Mul", 1):
            values = 0.75 + 0.25 * np.tanh(normal)
        case ("BatchNormalization", 4):
            values = 1 + 0.5 * np.tanh(normal)
        case _:
            values = 0.1 * normal
    return values.astype(np.float32)


def _drop_softmax(graph: onnx.GraphProto) -> None:
    last = graph.node[-1]
    if last.op_type == "Softmax":
        graph.output[0].name = last.input[0]
        for value in [value for value in graph.value_info if value.name == last.input[0]]:
            graph.value_info.remove(value)
        graph.node.remove(last)
