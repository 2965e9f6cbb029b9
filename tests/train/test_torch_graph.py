"""Weights are chosen by what reads them, masked, trained, and written back without a change to anything else."""

from __future__ import annotations

from typing import Any

import lissom_models
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from graph.onnx_text import floats, model, parse, run
from hypothesis import given, settings
from hypothesis import strategies as st
from lissom_runtime.errors import UsageError

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'lissom[recover]')")

from lissom.train.torch_graph import TorchGraph
from lissom.train.writing import stored_tensors, with_values
from train.compared import require_close, tensors

NETWORK = """net (float[N, 3, 8, 8] image) => (float[N, 5] y) {
    centred = Sub(image, means)
    c = Conv <pads = [1, 1, 1, 1]> (centred, w, b)
    n = BatchNormalization(c, scale, shift, mean, variance)
    p = PRelu(n, slope)
    clipped = Clip(p, low, high)
    pooled = GlobalAveragePool(clipped)
    flat = Flatten(pooled)
    h = MatMul(flat, v)
    y = Add(h, u)
}"""


def network() -> onnx.ModelProto:
    shapes = {"means": (1, 3, 1, 1), "w": (4, 3, 3, 3), "b": (4,), "slope": (4, 1, 1), "v": (4, 5), "u": (5,)}
    shapes |= dict.fromkeys(("scale", "shift", "mean"), (4,))
    constants = {name: 0.5 * floats(seed, *shape) for seed, (name, shape) in enumerate(shapes.items())}
    constants |= {"variance": np.array([0.5, 1, 2, 3], np.float32), "low": np.float32(-2), "high": np.float32(2)}
    return parse(NETWORK, **{name: np.asarray(values) for name, values in constants.items()})


def images(count: int = 6) -> dict[str, npt.NDArray[Any]]:
    return {"image": floats(99, count, 3, 8, 8)}


def step(graph: Any, optimizer: Any, feeds: Any) -> None:
    optimizer.zero_grad()
    graph(feeds)["y"].square().sum().backward()
    optimizer.step()


def test_constants_have_the_roles_that_their_readers_give_them() -> None:
    roles = {weight.name: weight.role for weight in TorchGraph(network()).weights}
    assert roles == {
        "means": "other",
        "w": "weight",
        "b": "bias",
        "scale": "scale",
        "shift": "shift",
        "mean": "statistic",
        "variance": "statistic",
        "slope": "slope",
        "low": "other",
        "high": "other",
        "v": "weight",
        "u": "bias",
    }


def test_a_role_is_found_through_nodes_that_only_change_the_shape() -> None:
    text = """g (float[2, 3] x) => (float[2, 4] y) {
        t = Transpose(w)
        h = MatMul(x, t)
        s = Constant <value_ints = [1, 4]> ()
        r = Reshape(b, s)
        y = Add(h, r)
    }"""
    graph = TorchGraph(parse(text, w=floats(1, 4, 3), b=floats(2, 4)))
    assert {weight.name: weight.role for weight in graph.weights} == {"w": "weight", "b": "bias"}


def test_a_scalar_that_is_added_or_multiplied_is_no_weight() -> None:
    text = "g (float[2, 3] x) => (float[2, 4] y) { h = MatMul(x, w) a = Add(h, three) y = Div(a, six) }"
    graph = TorchGraph(parse(text, w=floats(1, 3, 4), three=np.array([3], np.float32), six=np.array(6, np.float32)))
    assert list(graph.trained()) == ["w"]


def test_all_that_has_a_role_is_trained_and_nothing_else_unless_a_predicate_says_so() -> None:
    assert set(TorchGraph(network()).trained()) == {"w", "b", "scale", "shift", "slope", "v", "u"}
    chosen = TorchGraph(network(), trained=lambda weight: weight.name in ("w", "high"))
    assert set(chosen.trained()) == {"w", "high"}
    assert len(list(chosen.parameters())) == 2


def test_numbers_in_attributes_are_no_weights() -> None:
    text = "b = Constant <value_floats = [1.0, 2.0]> () h = MatMul(x, w) y = Add(h, b)"
    proto = parse(f"g (float[3, 2] x) => (float[3, 2] y) {{ {text} }}", w=floats(0, 2, 2))
    graph = TorchGraph(proto)
    assert list(graph.trained()) == [weight.name for weight in graph.weights] == ["w"]
    assert graph.write_back(proto) == proto


def test_statistics_are_no_parameters() -> None:
    with pytest.raises(UsageError, match="'mean' holds statistics"):
        TorchGraph(network(), trained=lambda weight: weight.name == "mean")


@pytest.mark.parametrize("name", lissom_models.NAMES)
def test_what_is_not_trained_yet_is_written_back_to_the_same_bytes(name: str) -> None:
    proto = onnx.load(lissom_models.path(name))
    assert TorchGraph(proto).write_back(proto).SerializeToString() == proto.SerializeToString()


@pytest.mark.ort
def test_a_trained_graph_is_written_back_into_the_same_graph() -> None:
    proto = network()
    before = proto.SerializeToString()
    graph = TorchGraph(proto)
    step(graph, torch.optim.SGD(graph.parameters(), lr=0.01), tensors(images()))
    trained = graph.write_back(proto)
    assert proto.SerializeToString() == before
    require_close(run(trained, images()), graph(tensors(images())))
    changed = {
        name
        for name, tensor in stored_tensors(trained).items()
        if tensor.SerializeToString() != stored_tensors(proto)[name].SerializeToString()
    }
    assert changed == set(graph.trained())
    for name in changed:
        stored_tensors(trained)[name].CopyFrom(stored_tensors(proto)[name])
    assert trained.SerializeToString() == before


@given(
    st.sampled_from([np.float16, np.float32, np.float64]),
    st.booleans(),
    st.lists(st.floats(-1e4, 1e4, width=16), min_size=1, max_size=6),
)
def test_a_constant_keeps_its_type_and_the_field_of_its_numbers(dtype: Any, raw: bool, numbers: list[float]) -> None:
    old, new = np.zeros(len(numbers), dtype), np.array(numbers, dtype)
    code = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    tensor = onnx.helper.make_tensor("w", code, old.shape, old.tobytes() if raw else old, raw=raw)
    proto = parse("g (float[2] x) => (float[2] y) { y = Identity(x) }")
    proto.graph.initializer.append(tensor)
    (written,) = with_values(proto, {"w": new}).graph.initializer
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(written), new)
    assert (written.name, written.data_type, written.HasField("raw_data")) == ("w", code, raw)


def test_numbers_in_a_constant_node_are_trained_and_written_back_there() -> None:
    text = "w = Constant <value = float[2, 2] {1, 2, 3, 4}> () y = MatMul(x, w)"
    proto = parse(f"g (float[3, 2] x) => (float[3, 2] y) {{ {text} }}")
    graph = TorchGraph(proto)
    with torch.no_grad():
        graph.trained()["w"].mul_(2)
    written = stored_tensors(graph.write_back(proto))["w"]
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(written), [[2, 4], [6, 8]])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"v": floats(0, 3, 3)}, "constant 'w' .* got none"),
        ({"w": floats(0, 3, 2)}, r"float32\[3, 3\] in constant 'w' .* it is float32\[3, 2\]"),
        ({"w": floats(0, 3, 3).astype(np.float64)}, r"it is float64\[3, 3\]"),
    ],
)
def test_a_model_with_other_constants_is_refused(other: dict[str, npt.NDArray[Any]], message: str) -> None:
    text = "g (float[2, 3] x) => (float[2, 3] y) { y = MatMul(x, w) }"
    graph = TorchGraph(parse(text, w=floats(0, 3, 3)))
    with pytest.raises(UsageError, match=message):
        graph.write_back(parse(text, **other))


@settings(max_examples=20)
@given(st.floats(0, 1), st.integers(0, 2**32 - 1), st.sampled_from(["SGD", "AdamW"]))
def test_masked_elements_stay_zero_whatever_the_optimizer_does(density: float, seed: int, optimizer: str) -> None:
    rng = np.random.default_rng(seed)
    masks = {"w": rng.random((4, 3, 3, 3)) < density, "v": rng.random((4, 5)) < density}
    graph = TorchGraph(network(), masks=masks)
    assert all((graph.values()[name][~mask] == 0).all() for name, mask in masks.items())
    steps = getattr(torch.optim, optimizer)(graph.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(2):
        step(graph, steps, tensors(images()))
    for name, mask in masks.items():
        assert (graph.values()[name][~mask] == 0).all()
        assert (graph.trained()[name].grad.numpy()[~mask] == 0).all()


def test_elements_that_are_not_masked_are_trained() -> None:
    mask = np.arange(20).reshape(4, 5) % 2 == 0
    graph = TorchGraph(network(), masks={"v": mask})
    before = graph.values()["v"]
    step(graph, torch.optim.SGD(graph.parameters(), lr=0.01), tensors(images()))
    np.testing.assert_array_equal(graph.values()["v"] != before, mask)


@pytest.mark.ort
def test_the_outputs_are_those_of_the_masked_weights() -> None:
    proto = network()
    mask = np.arange(20).reshape(4, 5) % 2 == 0
    graph = TorchGraph(proto, masks={"v": mask})
    require_close(run(graph.write_back(proto), images()), graph(tensors(images())))


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"mean": np.ones(4, bool)}, "masks of trained constants, but 'mean' is none"),
        ({"b": np.ones(3, bool)}, r"bool\[4\] for 'b', but got bool\[3\]"),
        ({"b": np.ones(4)}, r"bool\[4\] for 'b', but got float64\[4\]"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(masks: dict[str, npt.NDArray[Any]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TorchGraph(network(), masks=masks)


def test_statistics_are_kept_unless_they_are_to_be_updated() -> None:
    feeds = tensors(images())
    for statistics, moves in (("frozen", False), ("updated", True)):
        graph = TorchGraph(network(), statistics=statistics)
        graph.eval()
        fixed = graph(feeds)["y"].detach()
        graph.train()
        assert torch.allclose(graph(feeds)["y"], fixed) != moves
        written = stored_tensors(graph.write_back(network()))
        old = stored_tensors(network())
        assert (written["mean"] != old["mean"]) == moves
        assert (written["variance"] != old["variance"]) == moves


def test_updated_statistics_move_by_one_minus_the_momentum_towards_the_batch() -> None:
    text = "g (float[N, 2] x) => (float[N, 2] y) { y = BatchNormalization <momentum = 0.75> (x, s, b, m, v) }"
    ones, zeros = np.ones(2, np.float32), np.zeros(2, np.float32)
    graph = TorchGraph(parse(text, s=ones, b=zeros, m=zeros, v=ones), statistics="updated")
    x = floats(0, 50, 2)
    graph.train()
    graph({"x": torch.from_numpy(x)})
    np.testing.assert_allclose(graph.values()["m"], 0.25 * x.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(graph.values()["v"], 0.75 + 0.25 * x.var(axis=0, ddof=1), rtol=1e-5)


def test_with_a_type_all_numbers_are_of_it_and_are_written_back_in_that_of_the_file() -> None:
    proto = network()
    graph = TorchGraph(proto, dtype=torch.float64)
    assert {parameter.dtype for parameter in graph.parameters()} == {torch.float64}
    assert graph(tensors(images()))["y"].dtype == torch.float64
    assert graph.write_back(proto).SerializeToString() == proto.SerializeToString()


def test_a_loaded_model_is_taken_as_it_is_written() -> None:
    loaded = model("g (float[2, 3] x) => (float[2, 3] y) { y = MatMul(x, w) }", w=floats(0, 3, 3))
    graph = TorchGraph(loaded)
    written = graph.write_back(loaded.to_proto())
    assert written.SerializeToString() == loaded.to_proto().SerializeToString()
