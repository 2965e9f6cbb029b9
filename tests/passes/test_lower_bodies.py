"""The body of every runtime operator computes what the dense layer does, and is one when ONNX Runtime has loaded it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from graph.onnx_text import integers, parse, run
from lissom.lowering.bodies import function
from lissom_runtime.contract import (
    COLUMNS,
    DOMAIN,
    ORIENTATIONS,
    VERSION,
    WITH_ALPHA,
    Activation,
    Columns,
    Orientation,
    Signature,
    signatures,
)
from lissom_runtime.packing import pack

pytestmark = pytest.mark.ort

OPSETS = (11, 12, 13, 16, 18, onnx.defs.onnx_opset_version())
BLOCKS = (1, 2, 4)
SIGNATURES = list(signatures())

Array = npt.NDArray[Any]

DENSE: Mapping[Activation, str] = {
    "none": "y = Identity(v)",
    "relu": "y = Relu(v)",
    "clip": "y = Clip(v, min, max)",
    "leaky_relu": "y = LeakyRelu<alpha = 0.5>(v)",
    "hard_swish": "h = HardSigmoid<alpha = 0.16666667, beta = 0.5>(v) y = Mul(v, h)",
    "silu": "h = Sigmoid(v) y = Mul(v, h)",
    "thresholded_relu": "y = ThresholdedRelu<alpha = 0.5>(v)",
    "shrink": "y = Shrink<lambd = 0.5, bias = 0.0>(v)",
}
ROUNDED = frozenset({"hard_swish", "silu"})
CONV_ATTRIBUTES = {"strides": [2, 1], "pads": [1, 0, 1, 2], "dilations": [1, 2]}


def conv_weight(seed: int, channels: int = 8) -> Array:
    """A weight with empty rows, unless the seed is a multiple of 3."""
    weight = integers(seed, channels, channels // 2, 3, 2)
    weight[np.random.default_rng(seed).random(weight.shape) < 0.7] = 0
    if seed % 3:
        weight[: channels // 2] = 0
    return np.roll(weight, seed % channels, axis=0)


def models(
    signature: Signature, weight: Array, opset: int, block: int = 1, group: int = 1, leading: int = 2
) -> tuple[onnx.ModelProto, onnx.ModelProto, dict[str, Array]]:
    """One node with its body, the dense model, and inputs for both; `leading` is the first axis of x."""
    packed = pack(weight, block, signature.orientation, signature.columns)
    is_conv = signature.operator == "SparseConv"
    x_dims = f"N, {weight.shape[1] * group}, 7, 6" if is_conv else f"N, 3, {weight.shape[1]}"
    dims = "N, C, H, W" if is_conv else f"N, 3, {len(weight)}"
    ins = f"float[{x_dims}] x" + (f", float[{dims}] residual" if signature.residual else "")
    attributes = {**CONV_ATTRIBUTES, "group": group} if is_conv else {}
    words = ", ".join(f"{key} = {value}" for key, value in attributes.items())
    constants: dict[str, Array] = {"bias": integers(5, len(weight))}
    if signature.activation == "clip":
        constants |= {"min": np.array(-3, np.float32), "max": np.array(6, np.float32)}
    layer = f"t = Conv<{words}>(x, w, bias)" if is_conv else "p = MatMul(x, w) t = Add(p, bias)"
    add = "v = Add(t, residual)" if signature.residual else "v = Identity(t)"
    graph = f"net ({ins}) => (float[{dims}] y)"
    dense = parse(
        f"{graph} {{ {layer} {add} {DENSE[signature.activation]} }}",
        opset,
        **constants,
        w=weight if is_conv else weight.T.copy(),
    )
    sparse = parse(
        f"{graph} {{ y = Identity(x) }}",
        opset,
        **constants,
        shape=np.array(weight.shape),
        row_ptr=packed.row_ptr,
        columns=packed.columns,
        values=packed.values,
    )
    attributes |= {"alpha": 0.5} if signature.activation in WITH_ALPHA else {}
    node = onnx.helper.make_node(signature.name, signature.inputs, ["y"], domain=DOMAIN, **attributes)
    sparse.graph.node[0].CopyFrom(node)
    sparse.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))
    sparse.functions.append(function(signature, opset))
    x = integers(6, leading, *(int(extent) for extent in x_dims.split(", ")[1:]))
    feeds = {"x": x}
    if signature.residual:
        extent = run(parse(f"net (float[{x_dims}] x) => (float[{dims}] t) {{ {layer} }}", opset, bias=constants["bias"],
                           w=weight if is_conv else weight.T.copy()), feeds)[0].shape  # fmt: skip
        feeds["residual"] = integers(7, *extent)
    return sparse, dense, feeds


def require_equal(signature: Signature, weight: Array, opset: int, block: int, group: int, leading: int) -> None:
    sparse, dense, feeds = models(signature, weight, opset, block, group, leading)
    onnx.checker.check_model(sparse, full_check=True)
    got, wanted = run(sparse, feeds)[0], run(dense, feeds)[0]
    rtol = 1e-6 if signature.activation in ROUNDED else 0
    np.testing.assert_allclose(got, wanted, rtol=rtol, atol=rtol, err_msg=f"{signature} {block} {group}")


@pytest.mark.parametrize("opset", OPSETS)
def test_every_body_computes_what_the_dense_layer_does(opset: int) -> None:
    place = OPSETS.index(opset)
    for number, signature in list(enumerate(SIGNATURES))[place % 3 :: 3]:  # each signature at two opsets
        turn = number + place
        weight = conv_weight(turn)
        group = 1 + turn % 2 if signature.operator == "SparseConv" else 1
        if signature.operator == "SparseGemm":
            weight = weight.reshape(len(weight), -1)
        require_equal(signature, weight, opset, BLOCKS[turn % 3], group, leading=1 + turn // 2 % 2)


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_weights_without_zeros_and_without_anything_else_are_unpacked(
    columns: Columns, orientation: Orientation, share: float
) -> None:
    weight = np.full((8, 4, 3, 2), share, np.float32)
    require_equal(Signature("SparseConv", columns, orientation), weight, 17, block=4, group=2, leading=1)


@pytest.mark.parametrize("columns", COLUMNS)
def test_a_product_of_two_axes_has_a_body_too(columns: Columns) -> None:
    weight = conv_weight(1).reshape(8, -1)
    sparse, _, _ = models(Signature("SparseGemm", columns), weight, 17)
    for value in (sparse.graph.input[0], sparse.graph.output[0]):
        del value.type.tensor_type.shape.dim[1]
    x = integers(2, 3, weight.shape[1])
    np.testing.assert_array_equal(run(sparse, {"x": x})[0], x @ weight.T + integers(5, 8))


@pytest.mark.parametrize("opset", [OPSETS[0], 17, OPSETS[-1]])
@pytest.mark.parametrize("residual", [False, True])
def test_a_loaded_body_is_the_loaded_dense_layer(tmp_path: Path, opset: int, residual: bool) -> None:
    for number, (columns, orientation) in enumerate(product(COLUMNS, ORIENTATIONS)):
        signature = Signature("SparseConv", columns, orientation, residual, "relu")
        sparse, dense, _ = models(signature, conv_weight(1, 32), opset, 4, group=1 + number % 2)
        assert kinds(sparse, tmp_path) == kinds(dense, tmp_path), signature


def test_a_convolution_and_its_activation_are_one_node_when_loaded(tmp_path: Path) -> None:
    sparse, _, _ = models(Signature("SparseConv", "bitmap", activation="relu"), conv_weight(1, 32), 17)
    assert kinds(sparse, tmp_path) in (["ReorderInput", "Conv", "ReorderOutput"], ["FusedConv"])


@pytest.mark.parametrize("columns", COLUMNS)
def test_a_loaded_body_of_a_product_is_the_loaded_product(tmp_path: Path, columns: Columns) -> None:
    sparse, dense, _ = models(Signature("SparseGemm", columns), conv_weight(1, 32).reshape(32, -1), 17)
    assert kinds(sparse, tmp_path) == kinds(dense, tmp_path) == ["MatMul", "Add"]


def kinds(proto: onnx.ModelProto, folder: Path) -> list[str]:
    """Operators of what ONNX Runtime makes of a model when it loads it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "loaded.onnx")
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "loaded.onnx").graph.node]
