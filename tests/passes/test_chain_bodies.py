"""The body of every chain computes what its dense layers do, and is them when ONNX Runtime has loaded it."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from graph.onnx_text import model, run
from lissom.lowering.bodies import chain_functions
from lissom.lowering.emit import Convolution, DepthwiseStage, SparseStage, emit_chain
from lissom_runtime.contract import (
    CHAIN_ACTIVATIONS,
    CHAIN_SHAPES,
    ChainShape,
    ChainSignature,
    chain_signatures,
    operator_names,
    signatures,
)
from lissom_runtime.packing import pack
from passes.chain_cases import SIGNATURES, chain_case, emitted, require_same
from runtime.chain_models import dense_chain_model

OPSETS = (11, 13, 17, onnx.defs.onnx_opset_version())
PLAIN = ChainSignature("inverted_residual", "bitmap", "clip", "clip")


def test_every_name_is_there_once_and_chains_and_the_mask_come_last() -> None:
    names = operator_names()
    assert len(set(names)) == len(names) == 256 + 64 + 1
    assert names[:256] == [signature.name for signature in signatures()]
    assert names[256:-1] == [signature.name for signature in chain_signatures()]
    assert names[-1] == "WinnerMask"


def test_names_say_shape_columns_inner_add_last_in_this_order() -> None:
    shapes = [name for name, _ in groupby(signature.shape for signature in SIGNATURES)]
    assert shapes == list(CHAIN_SHAPES)
    assert [signature.name for signature in SIGNATURES[:4]] == [
        "SparseChain_inverted_residual_bitmap_clip_clip",
        "SparseChain_inverted_residual_bitmap_clip_add",
        "SparseChain_inverted_residual_bitmap_clip_add_relu",
        "SparseChain_inverted_residual_bitmap_hard_swish_clip",
    ]
    assert SIGNATURES[-1].name == "SparseChain_bottleneck_delta8_silu_add"


def test_inputs_are_those_of_the_stages_in_turn() -> None:
    signature = ChainSignature("inverted_residual", "bitmap", "clip", "relu", residual=True)
    assert signature.inputs == (
        "x",
        *(f"expand_{formal}" for formal in ("shape", "row_ptr", "columns", "values", "bias", "min", "max")),
        *("depthwise_weight", "depthwise_bias", "depthwise_min", "depthwise_max"),
        *(f"project_{formal}" for formal in ("shape", "row_ptr", "columns", "values", "bias")),
        "residual",
    )
    last = ChainSignature("expanded_depthwise", "delta8", "silu", "clip").inputs
    assert last[-4:] == ("depthwise_weight", "depthwise_bias", "depthwise_min", "depthwise_max")


@pytest.mark.parametrize("signature", SIGNATURES, ids=lambda signature: signature.name)
def test_the_inputs_of_a_sparse_stage_are_those_of_its_operator(signature: ChainSignature) -> None:
    for stage in signature.stages:
        if stage != "depthwise":
            operator = signature.stage_signature(stage)
            assert operator in set(signatures())
            given = [formal.removeprefix(f"{stage}_") for formal in signature.stage_inputs(stage)]
            assert given == list(operator.inputs[1:])


@pytest.mark.parametrize("signature", SIGNATURES, ids=lambda signature: signature.name)
def test_a_chain_comes_with_the_operators_that_it_calls(signature: ChainSignature) -> None:
    body, *others = chain_functions(signature, 17)
    assert body.name == signature.name
    assert tuple(body.input) == signature.inputs
    called = {node.op_type for node in body.node if node.domain == body.domain}
    assert called == {other.name for other in others}
    assert len(called) == len(others)
    assert [node.name for node in body.node if "/" not in node.name] == list(signature.stages)


@pytest.mark.ort
@pytest.mark.parametrize("opset", OPSETS)
def test_every_body_computes_what_the_dense_layers_do(opset: int) -> None:
    for number, signature in enumerate(SIGNATURES):
        turn = number + 7 * OPSETS.index(opset)
        chain = chain_case(signature, turn)
        lowered, dense = emitted(chain, opset), dense_chain_model(chain)
        onnx.checker.check_model(lowered, full_check=True)
        feeds = chain.feeds(chain.x(1 + turn % 2, 7 + turn % 3, 8))
        require_same(signature, run(lowered, feeds)[0], run(dense, feeds)[0])


@pytest.mark.ort
@pytest.mark.parametrize("shape", CHAIN_SHAPES)
def test_a_loaded_chain_is_the_loaded_dense_layers(tmp_path: Path, shape: ChainShape) -> None:
    for turn, signature in enumerate(signature for signature in SIGNATURES if signature.shape == shape):
        chain = chain_case(signature, turn, scale=4)
        loaded = kinds(emitted(chain), tmp_path)
        assert loaded == kinds(dense_chain_model(chain), tmp_path), signature
        assert not any("Scatter" in kind or "Gather" in kind or "Sparse" in kind for kind in loaded)


@pytest.mark.ort
def test_a_loaded_chain_without_a_residual_is_nothing_but_convolutions(tmp_path: Path) -> None:
    loaded = kinds(emitted(chain_case(PLAIN, 0, scale=4)), tmp_path)
    assert loaded in (["ReorderInput", *["Conv"] * 3, "ReorderOutput"], ["FusedConv"] * 3)


@pytest.mark.parametrize("opset", [11, 17])
def test_a_file_has_the_bodies_that_a_chain_reaches_and_no_others(opset: int) -> None:
    edited = emitted(chain_case(PLAIN, 0), opset)
    assert [body.name for body in edited.functions] == [PLAIN.name, "SparseConv_bitmap_clip"]
    assert [(entry.domain, entry.version) for entry in edited.opset_import] == [("", opset), ("ai.lissom", 1)]
    assert [tensor.name for tensor in edited.graph.initializer] == [
        f"layer/lissom_0_{formal}" for formal in PLAIN.inputs[1:]
    ]


@pytest.mark.parametrize(("inner", "last", "residual"), CHAIN_ACTIVATIONS)
def test_limits_are_written_for_clip_alone(inner: str, last: str, residual: bool) -> None:
    signature = next(
        other for other in SIGNATURES if (other.inner, other.last, other.residual) == (inner, last, residual)
    )
    limits = [name for name in signature.inputs if name.endswith(("_min", "_max"))]
    assert len(limits) == 2 * (2 * (inner == "clip") + (last == "clip"))


@pytest.mark.parametrize("fault", ["too few", "in another format", "along inputs", "a dense one", "a residual"])
def test_layers_that_are_not_those_of_the_chain_are_refused(fault: str) -> None:
    edited = model("net (float[1, 4, 5, 5] x) => (float[1, 4, 5, 5] y) { y = Relu(x) }")
    (x,) = edited.graph.inputs
    weight, bias = np.ones((4, 4, 1, 1), np.float32), np.zeros(4, np.float32)
    expand = SparseStage(pack(weight, format="bitmap"), bias)
    middle = DepthwiseStage(np.ones((4, 1, 3, 3), np.float32), bias)
    layers = {
        "too few": [expand, middle],
        "in another format": [expand, middle, SparseStage(pack(weight, format="delta8"), bias)],
        "along inputs": [expand, middle, SparseStage(pack(weight, 1, "input", "bitmap"), bias)],
        "a dense one": [expand, middle, middle],
        "a residual": [expand, middle, expand],
    }[fault]
    with pytest.raises(ValueError, match=f"expected bitmap output, depthwise, .* without a residual for {PLAIN.name}"):
        emit_chain(edited, "c", x, PLAIN, layers, Convolution(group=4), x if fault == "a residual" else None)


def kinds(proto: onnx.ModelProto, folder: Path) -> list[str]:
    """Operators of what ONNX Runtime makes of a model when it loads it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "loaded.onnx")
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "loaded.onnx").graph.node]
