"""The outputs of blocks are found, compared and learned."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from graph.onnx_text import floats, parse

pytest.importorskip("torch", reason="torch is not installed (pip install 'lissom[recover]')")

from lissom.train.blocks import block_ends
from lissom.train.distil import Distilled, distil
from lissom.training import Training
from lissom_runtime.errors import UsageError
from lissom_runtime.session import open_session, run_session
from train.networks import plain, residual
from train.runs import of_arrays

pytestmark = pytest.mark.ort

IMAGES = {"x": floats(3, 96, 2, 6, 6)}
SETTINGS = {"epochs": 6, "batch": 16, "rate": 0.01, "seed": 2}


def noisy(proto: onnx.ModelProto) -> onnx.ModelProto:
    found = onnx.ModelProto()
    found.CopyFrom(proto)
    for seed, tensor in enumerate(found.graph.initializer):
        values = onnx.numpy_helper.to_array(tensor)
        if values.ndim > 1:
            values = values + 0.5 * values.std() * floats(70 + seed, *values.shape)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), tensor.name))
    return found


def learned(proto: onnx.ModelProto, given: onnx.ModelProto | None = None, **settings: object) -> Distilled:
    training = Training(**(SETTINGS | settings))
    return distil(proto, noisy(proto) if given is None else given, of_arrays(IMAGES), training)


def relative_error(proto: onnx.ModelProto, other: onnx.ModelProto, name: str) -> float:
    """How far a tensor of one network is from that of another."""
    found = []
    for model in (proto, other):
        shown = onnx.ModelProto()
        shown.CopyFrom(model)
        shown.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        found.append(np.asarray(run_session(open_session(shown.SerializeToString()), IMAGES)[-1], np.float64))
    return float(((found[1] - found[0]) ** 2).sum() / (found[0] ** 2).sum())


def renamed(proto: onnx.ModelProto, old: str, new: str) -> onnx.ModelProto:
    found = onnx.ModelProto()
    found.CopyFrom(proto)
    for node in found.graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
    return found


def test_blocks_end_in_residual_additions_and_in_poolings_over_windows() -> None:
    assert block_ends(residual()) == ["sum"]
    assert block_ends(plain()) == ["p"]
    text = "net (float[N, 4] x) => (float[N, 4] y) { a = Add(x, b) m = Mul(a, a) y = Add(m, x) }"
    assert block_ends(parse(text, b=floats(0, 4))) == [], "neither a bias nor an output of the graph"


@pytest.mark.parametrize(("network", "block"), [(residual, "sum"), (plain, "p")], ids=["residual", "plain"])
def test_a_share_of_the_loss_for_blocks_lowers_their_error(network: Callable[[], onnx.ModelProto], block: str) -> None:
    proto = network()
    without, matched = (learned(proto, blocks=share) for share in (0.0, 0.9))
    before, missed, found = (
        relative_error(proto, other, block) for other in (noisy(proto), without.proto, matched.proto)
    )
    assert found < 0.5 * before
    assert found < 0.7 * missed
    assert matched.after < matched.before
    assert matched.remarks == ()


def test_blocks_that_are_named_are_the_ones_that_are_matched() -> None:
    proto = residual()
    errors = [relative_error(proto, learned(proto, blocks=0.9, block_names=names).proto, "e") for names in [("e",), ()]]
    assert errors[0] < 0.7 * errors[1]


def test_blocks_that_the_compressed_network_lacks_are_left_out_and_said() -> None:
    text = """net (float[N, 2, 6, 6] x) => (float[N, 3] y) {
        c = Conv <pads = [1, 1, 1, 1]> (x, w1)
        p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c)
        d = Conv <pads = [1, 1, 1, 1]> (p, w2)
        q = MaxPool <kernel_shape = [3, 3]> (d)
        f = Flatten(q)
        y = MatMul(f, w3)
    }"""
    proto = parse(text, w1=0.3 * floats(0, 4, 2, 3, 3), w2=0.2 * floats(1, 4, 4, 3, 3), w3=floats(2, 4, 3))
    said = "of 2 outputs of blocks are not in the compressed model, or in another shape: p"
    renamed_once = renamed(noisy(proto), "p", "other")
    assert learned(proto, renamed_once, blocks=0.5, epochs=1).remarks == (f"1 {said}",)
    both = learned(proto, renamed(renamed_once, "q", "another"), blocks=0.5, epochs=3)
    assert both.remarks == (f"2 {said}, q",)
    assert both.after < both.before


def test_a_block_of_another_shape_is_left_out_and_said() -> None:
    narrow = noisy(plain())
    for tensor in narrow.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if tensor.name in ("w1", "b1", "w2"):
            kept = values[:, :3] if tensor.name == "w2" else values[:3]
            tensor.CopyFrom(onnx.numpy_helper.from_array(kept.copy(), tensor.name))
    for names in ((), ("p",)):
        (said,) = learned(plain(), narrow, blocks=0.5, block_names=names, epochs=1).remarks
        assert said.endswith("or in another shape: p")


@pytest.mark.parametrize("name", ["nowhere", "w1", "x"])
def test_a_block_that_no_node_of_the_original_gives_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"none gives '{name}'"):
        learned(plain(), blocks=0.5, block_names=(name,))


def test_a_network_without_blocks_is_refused_if_they_are_to_be_matched() -> None:
    proto = parse(
        "net (float[N, 2, 6, 6] x) => (float[N, 3] y) { f = Flatten(x) y = MatMul(f, w) }", w=floats(0, 72, 3)
    )
    with pytest.raises(UsageError, match="expected residual additions or poolings, or block_names"):
        learned(proto, blocks=0.5)
