"""Writes a network of the zoo as ONNX, node by node, from the torch modules.

The graph is built with ``onnx.helper`` rather than traced, for three reasons: batch normalisation stays a node of its
own with its four tensors, every node and weight carries the name of the module that owns it, and nothing about the
machine that wrote the file (paths, stack traces, versions) ends up in it. The file is checked before it is written: by
the ONNX checker with shape inference, and by running it next to the torch network.
"""

# mypy: disable-error-code="import-not-found"
# torch lives in the training environment only, so its functions are Any to the type checker.

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import fashion
import networks
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

OPSET = 17
IR_VERSION = 8
TOLERANCE = 1e-4


class Writer:
    """Collects nodes and initializers while walking a network.

    Every node has one output, which bears the node's name.

    Attributes:
        nodes: The nodes so far, in topological order.
        initializers: The weights so far.
    """

    def __init__(self) -> None:
        """Starts with an empty graph."""
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}

    def weight(self, name: str, value: torch.Tensor) -> str:
        """Adds an initializer unless the name is already there, and returns the name."""
        if name not in self.initializers:
            array = np.ascontiguousarray(value.detach().cpu().numpy())
            self.initializers[name] = numpy_helper.from_array(array, name)
        return name

    def node(self, kind: str, name: str, inputs: list[str], **attributes: Any) -> str:
        """Adds a node and returns the name of its output."""
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def emit(self, module: nn.Module, name: str, x: str) -> str:
        """Adds a module's nodes.

        Args:
            module: A block of ``networks.py`` or one of the torch layers used there.
            name: The module's path in the network, which prefixes all its names.
            x: The tensor the module reads.

        Returns:
            The tensor the module writes.

        Raises:
            ValueError: The module is of a type this writer does not know.
        """
        if isinstance(module, nn.Identity):
            return x
        if isinstance(module, nn.Sequential):
            for key, child in module.named_children():
                x = self.emit(child, f"{name}.{key}" if name else key, x)
            return x
        if isinstance(module, networks.ConvNorm):
            x = self.emit(module.conv, f"{name}.conv", x)
            x = self.emit(module.bn, f"{name}.bn", x)
            return self.emit(module.act, f"{name}.act", x)
        if isinstance(module, networks.Residual):
            branch = self.emit(module.b, f"{name}.b", self.emit(module.a, f"{name}.a", x))
            shortcut = self.emit(module.shortcut, f"{name}.shortcut", x)
            return self.emit(module.act, f"{name}.act", self.node("Add", f"{name}.add", [branch, shortcut]))
        if isinstance(module, networks.InvertedResidual):
            y = self.emit(module.expand, f"{name}.expand", x)
            y = self.emit(module.depthwise, f"{name}.depthwise", y)
            y = self.emit(module.project, f"{name}.project", y)
            return self.node("Add", f"{name}.add", [x, y]) if module.adds else y
        return self.layer(module, name, x)

    def layer(self, module: nn.Module, name: str, x: str) -> str:
        """Adds the one node of a torch layer; see ``emit``."""
        if isinstance(module, nn.Conv2d):
            inputs = [x, self.weight(f"{name}.weight", module.weight)]
            if module.bias is not None:
                inputs.append(self.weight(f"{name}.bias", module.bias))
            attributes = {
                "kernel_shape": list(module.kernel_size),
                "strides": list(module.stride),
                "pads": list(module.padding) * 2,
                "dilations": list(module.dilation),
                "group": module.groups,
            }
            return self.node("Conv", name, inputs, **attributes)
        if isinstance(module, nn.BatchNorm2d):
            parts = {key: getattr(module, key) for key in ("weight", "bias", "running_mean", "running_var")}
            inputs = [x, *(self.weight(f"{name}.{key}", value) for key, value in parts.items())]
            return self.node("BatchNormalization", name, inputs, epsilon=module.eps)
        if isinstance(module, nn.Linear):
            parts = {"weight": module.weight, "bias": module.bias}
            inputs = [x, *(self.weight(f"{name}.{key}", value) for key, value in parts.items())]
            return self.node("Gemm", name, inputs, transB=1)
        if isinstance(module, nn.MaxPool2d):
            side = [module.kernel_size, module.kernel_size]
            return self.node("MaxPool", name, [x], kernel_shape=side, strides=side)
        if isinstance(module, nn.ReLU6):
            bounds = [self.weight(f"relu6.{key}", torch.tensor(value)) for key, value in (("min", 0.0), ("max", 6.0))]
            return self.node("Clip", name, [x, *bounds])
        if isinstance(module, nn.ReLU):
            return self.node("Relu", name, [x])
        if isinstance(module, nn.AdaptiveAvgPool2d):
            return self.node("GlobalAveragePool", name, [x])
        if isinstance(module, nn.Flatten):
            return self.node("Flatten", name, [x], axis=1)
        raise ValueError(f"{name}: expected a layer of networks.py, got {type(module).__name__}")


def to_onnx(network: nn.Module, name: str) -> onnx.ModelProto:
    """Builds the ONNX model ``image[batch, 1, 28, 28] -> logits[batch, 10]``."""
    writer = Writer()
    last = writer.emit(network, "", "image")
    writer.nodes[-1].output[0] = "logits"
    assert last == writer.nodes[-1].name
    graph = helper.make_graph(
        writer.nodes,
        name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 28, 28])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", networks.CLASSES])],
        list(writer.initializers.values()),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="lissom_models")
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model


def compare(network: nn.Module, model: onnx.ModelProto) -> float:
    """Largest difference of the logits, relative to the largest logit, on eight random images."""
    image = torch.rand(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(image).numpy()
    (got,) = ReferenceEvaluator(model).run(None, {"image": image.numpy()})
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def main() -> int:
    """Reads a checkpoint and writes ``<name>.onnx``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(networks.BUILDERS))
    parser.add_argument("--checkpoint", type=Path, help="default: untrained weights")
    parser.add_argument("--out", type=Path, default=fashion.DEFAULT_OUT, help="folder to write the file to")
    args = parser.parse_args()
    torch.manual_seed(0)
    network = networks.BUILDERS[args.name]()
    if args.checkpoint is not None:
        network.load_state_dict(torch.load(args.checkpoint, weights_only=True)["network"])
    network.eval()
    model = to_onnx(network, args.name)
    difference = compare(network, model)
    if not difference < TOLERANCE:
        raise ValueError(f"{args.name}: expected logits within {TOLERANCE} of torch's, got {difference}")
    path = args.out / f"{args.name}.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    print(f"{path.name} {path.stat().st_size} bytes, relative difference to torch {difference:.1e}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
