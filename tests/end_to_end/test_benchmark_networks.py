"""The networks of benchmarks/kernels: known arithmetic, exact zeros, sane numbers, and the file of their shapes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from lissom_runtime.session import open_session
from onnx import numpy_helper

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.kernels import shapes
from benchmarks.kernels.builder import Pruning
from benchmarks.kernels.estimates import crossover
from benchmarks.kernels.networks import NETWORKS, all_shapes, build, image, layers
from benchmarks.kernels.sparsity import block_mask, fitting_block

KNOWN_GMACS = {"resnet50": 4.09, "resnet18": 1.81, "mobilenetv2": 0.30, "vgg16": 15.47, "efficientnet_b0": 0.39}
PRUNED = Pruning(0.2, 4, "pointwise")


@pytest.fixture(scope="module")
def pruned() -> onnx.ModelProto:
    return build("mobilenetv2", PRUNED)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_multiply_accumulates_are_those_that_the_literature_states(name: str) -> None:
    assert round(layers(name).macs / 1e9, 2) == KNOWN_GMACS[name]


def test_the_file_of_shapes_holds_exactly_the_convolutions_of_the_networks() -> None:
    assert shapes.read() == all_shapes()


def test_the_graph_has_the_convolutions_that_were_counted(pruned: onnx.ModelProto) -> None:
    inferred = onnx.shape_inference.infer_shapes(pruned, strict_mode=True, data_prop=True).graph
    extents = {v.name: [dim.dim_value for dim in v.type.tensor_type.shape.dim] for v in inferred.value_info}
    weights = {tensor.name: list(tensor.dims) for tensor in inferred.initializer}
    macs = [
        int(np.prod(extents[node.output[0]])) * int(np.prod(weights[node.input[1]][1:]))
        for node in inferred.node
        if node.op_type in ("Conv", "Gemm")
    ]
    assert sum(macs) == layers("mobilenetv2").macs


def test_pruned_layers_have_exactly_their_share_of_whole_blocks_and_others_all_weights(
    pruned: onnx.ModelProto,
) -> None:
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in pruned.graph.initializer}
    for number, shape in enumerate(layers("mobilenetv2").shapes, 1):
        weight = weights[f"conv{number}.weight"]
        if shape.layer == "pointwise":
            block = fitting_block(PRUNED.block, shape.out_channels)
            kept = (weight.reshape(-1, block, shape.in_channels) != 0).any(axis=1)
            assert kept.sum() == round(PRUNED.density * kept.size)
        else:
            assert np.count_nonzero(weight) > 0.99 * weight.size


@pytest.mark.ort
@pytest.mark.parametrize("density", [1.0, 0.2])
def test_onnxruntime_gives_logits_of_a_sane_size(density: float) -> None:
    model = build("mobilenetv2", Pruning(density, 4, "pointwise"))
    onnx.checker.check_model(model, full_check=True)
    (logits,) = open_session(model.SerializeToString()).run(None, {"image": image()})
    assert logits.shape == (1, 1000)
    assert np.isfinite(logits).all()
    assert 0.1 < logits.std() < 10


@pytest.mark.parametrize(("block", "shape"), [(1, (5, 7)), (4, (8, 3, 3, 3)), (16, (16, 2, 1, 1))])
def test_a_mask_is_equal_within_blocks_and_exact_in_number(block: int, shape: tuple[int, ...]) -> None:
    mask = block_mask(shape, 0.3, block, np.random.default_rng(0)).reshape(shape[0] // block, block, -1)
    assert (mask == mask[:, :1]).all()
    assert mask.sum() == block * round(0.3 * mask.size / block)


@pytest.mark.parametrize(
    ("ratios", "density"),
    [
        ([0.5, 1.0, 2.0], 0.5),
        ([0.5, 0.5 ** (1 / 3), 2.0], 0.625),
        ([2.0, 3.0, 4.0], 0.0),
        ([0.1, 0.2, 0.3], 1.0),
        ([0.5, float("nan"), 2.0], 0.625),
    ],
    ids=["at a point", "between points", "never faster", "always faster", "noise left out"],
)
def test_the_crossover_is_where_sparse_takes_as_long_as_dense(ratios: list[float], density: float) -> None:
    assert crossover([0.25, 0.5, 1.0], ratios) == pytest.approx(density)
