"""The layers that stand for all others, and what is timed of them.

Convolutions of ResNet-50 and MobileNet at three resolutions, and a matrix of 16 MB, which no private cache holds,
applied to one vector and to sixteen. Weights and zeros are random: only where the zeros are matters for the time, and
blocks are kept with equal probability, as no pattern of a real network is more regular for a kernel than another.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnx.numpy_helper
from lissom_runtime.packing import Packed, pack

from lissom.graph.load import from_proto
from lissom.graph.model import Model
from lissom.lowering.chains import Link
from lissom.lowering.fuse import tail
from lissom.lowering.propose import propose
from lissom.target.schema import LayerShape

SHAPES = (
    LayerShape(name="conv3x3-56", op="Conv", weight=(64, 64, 3, 3), input=(1, 64, 56, 56)),
    LayerShape(name="conv3x3-28", op="Conv", weight=(128, 128, 3, 3), input=(1, 128, 28, 28)),
    LayerShape(name="conv3x3-14", op="Conv", weight=(256, 256, 3, 3), input=(1, 256, 14, 14)),
    LayerShape(name="conv1x1-28", op="Conv", weight=(128, 512, 1, 1), input=(1, 512, 28, 28)),
    LayerShape(name="depthwise3x3-28", op="Conv", weight=(256, 1, 3, 3), input=(1, 256, 28, 28), group=256),
    LayerShape(name="gemm-1", op="Gemm", weight=(2048, 2048), input=(1, 2048)),
    LayerShape(name="gemm-16", op="Gemm", weight=(2048, 2048), input=(16, 2048)),
)

FAST = ("conv3x3-14", "gemm-1")
"""Names of the shapes of a fast measurement: one of each operator."""

_OPSET = 17
_IR = 8


def network(shape: LayerShape) -> tuple[Model, Link]:
    """A model of one dense layer with random weights of unit gain, and the layer as a segment that can be timed."""
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal(shape.weight) / np.sqrt(np.prod(shape.weight[1:]))).astype(np.float32)
    if shape.op == "Conv":
        kernel = list(shape.weight[2:])
        pads = [extent // 2 for extent in kernel] * 2
        node = onnx.helper.make_node(
            "Conv", ["x", "w"], ["y"], name=shape.name, kernel_shape=kernel, pads=pads, group=shape.group
        )
    else:
        node = onnx.helper.make_node("Gemm", ["x", "w"], ["y"], name=shape.name, transB=1)
    graph = onnx.helper.make_graph(
        [node],
        shape.name,
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape.input)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape.output)],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    opset = onnx.helper.make_opsetid("", _OPSET)
    model = from_proto(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=_IR))
    seen = {"x": shape.input, "y": shape.output}
    proposal = propose(model, seen, max_density=1.0)
    (site,) = (*proposal.sites, *proposal.depthwise)
    return model, Link(site, tail(model, site.node, shape.weight[0], seen))


def sparse_weight(weight: npt.NDArray[np.float32], width: int, density: float) -> Packed:
    """A weight[O, ...] of which a share `density` of the blocks of `width` output channels is kept, packed."""
    rows = weight.reshape(len(weight), -1)
    blocks = len(rows) // width * rows.shape[1]
    kept = np.random.default_rng(0).permutation(blocks) < max(1, round(density * blocks))
    mask = np.repeat(kept.reshape(-1, rows.shape[1]), width, axis=0)
    return pack(np.where(mask, rows, np.float32(0)).reshape(weight.shape), width)
