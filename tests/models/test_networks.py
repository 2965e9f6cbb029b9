"""The ONNX files of the zoo: legal, portable, not folded, and as accurate as the table says (needs ONNX Runtime)."""

# mypy: disable-error-code="import-untyped"
# onnxruntime ships no types.

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path

import lissom_models
import numpy as np
import onnx
import onnxruntime
import pytest

DATA = Path(lissom_models.__file__).parent / "data"

# name: number of nodes of each kind, number of weights (batch normalisation statistics included).
LAYOUTS: dict[str, tuple[dict[str, int], int]] = {
    "lenet-300-100": ({"Flatten": 1, "Gemm": 3, "Relu": 2}, 266610),
    "lenet5": ({"Conv": 2, "Flatten": 1, "Gemm": 2, "MaxPool": 2, "Relu": 1}, 431080),
    "resnet20": (
        {"Add": 9, "BatchNormalization": 21, "Conv": 21, "Flatten": 1, "Gemm": 1, "GlobalAveragePool": 1, "Relu": 19},
        273754,
    ),
    "vgg-small": (
        {"BatchNormalization": 8, "Conv": 8, "Flatten": 1, "Gemm": 2, "MaxPool": 3, "Relu": 9},
        732586,
    ),
    "mobilenet-small": (
        {"Add": 4, "BatchNormalization": 26, "Clip": 18, "Conv": 26, "Flatten": 1, "Gemm": 1, "GlobalAveragePool": 1},
        105626,
    ),
}
# Percent. The least each network is shipped with.
FLOORS = {"lenet-300-100": 89.5, "lenet5": 91.0, "mobilenet-small": 91.0, "resnet20": 93.0, "vgg-small": 93.0}
# Images. Processors sum in different orders, so a logit at a tie may fall to either side.
SLACK = 5

names = pytest.mark.parametrize("name", lissom_models.NAMES)


def load(name: str) -> onnx.ModelProto:
    """The model of a network."""
    return onnx.load(str(lissom_models.path(name)), load_external_data=False)


@names
def test_the_file_passes_the_checker_with_shape_inference(name: str) -> None:
    model = load(name)
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    assert model.ir_version <= 9


@names
def test_input_and_output_are_as_documented(name: str) -> None:
    graph = load(name).graph
    for values, expected in ((graph.input, ("image", ["batch", 1, 28, 28])), (graph.output, ("logits", ["batch", 10]))):
        (value,) = values
        tensor = value.type.tensor_type
        shape = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
        assert (value.name, shape) == expected
        assert tensor.elem_type == onnx.TensorProto.FLOAT


@names
def test_the_layers_are_the_networks_own_and_batch_normalisation_is_not_folded(name: str) -> None:
    graph = load(name).graph
    weights = sum(math.prod(tensor.dims) for tensor in graph.initializer if not tensor.name.startswith("relu6."))
    assert (dict(sorted(Counter(node.op_type for node in graph.node).items())), weights) == LAYOUTS[name]


@names
def test_batch_normalisation_holds_trained_statistics(name: str) -> None:
    graph = load(name).graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "BatchNormalization":
            _, scale, _, mean, variance = node.input
            assert arrays[scale].std() > 0
            assert np.abs(arrays[mean]).max() > 0
            assert arrays[variance].min() > 0


@names
def test_nodes_and_weights_bear_readable_names(name: str) -> None:
    graph = load(name).graph
    labels = [node.name for node in graph.node] + [tensor.name for tensor in graph.initializer]
    assert len(set(labels)) == len(labels)
    for label in labels:
        assert re.fullmatch(r"[a-z]\w*(\.[a-z]\w*)*", label)
    for node in graph.node:
        owned = [source for source in node.input if source.startswith(f"{node.name}.")]
        assert len(owned) == {"Conv": len(node.input) - 1, "Gemm": 2, "BatchNormalization": 4}.get(node.op_type, 0)


@names
def test_the_file_tells_nothing_about_the_machine_that_made_it(name: str) -> None:
    model = load(name)
    for message in (model, model.graph, *model.graph.node, *model.graph.initializer):
        assert message.doc_string == ""
        assert not message.metadata_props
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")  # Random bytes may spell anything.
    text = model.SerializeToString()
    assert not re.search(rb"/\w+/|:\\|\.py\b", text)


@pytest.mark.ort
@names
def test_any_batch_size_gives_the_same_logits(name: str) -> None:
    session = onnxruntime.InferenceSession(str(lissom_models.path(name)), providers=["CPUExecutionProvider"])
    with np.load(lissom_models.calibration(name), allow_pickle=False) as arrays:
        image = arrays["image"][:7]
    (together,) = session.run(None, {"image": image})
    apart = np.concatenate([session.run(None, {"image": image[i : i + 1]})[0] for i in range(7)])
    assert together.shape == (7, 10)
    np.testing.assert_allclose(apart, together, rtol=1e-4, atol=1e-4)


def test_the_table_names_every_network_and_reaches_its_floor() -> None:
    table = json.loads((DATA / "accuracy.json").read_text(encoding="utf-8"))
    assert sorted(table) == sorted(lissom_models.NAMES)
    for name in lissom_models.NAMES:
        correct, n = lissom_models.accuracy(name)
        assert n == 10000
        assert 100 * correct / n >= FLOORS[name]


@pytest.mark.ort
@pytest.mark.slow
@names
def test_the_file_scores_on_all_test_images_what_the_table_says(name: str) -> None:
    session = onnxruntime.InferenceSession(str(lissom_models.path(name)), providers=["CPUExecutionProvider"])
    with np.load(lissom_models.test(name), allow_pickle=False) as arrays:
        image, labels = arrays["image"], arrays["labels"]
    guesses = [session.run(None, {"image": image[i : i + 500]})[0].argmax(1) for i in range(0, len(labels), 500)]
    correct = int((np.concatenate(guesses) == labels).sum())
    expected, n = lissom_models.accuracy(name)
    assert n == len(labels)
    assert abs(correct - expected) <= SLACK
