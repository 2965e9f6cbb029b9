"""A part of a network computes what the whole does, from fewer tensors."""

from __future__ import annotations

import numpy as np
import pytest
from graph.onnx_text import model, run
from lissom.graph.extract import border, dependants, part
from lissom_runtime.session import open_session, run_session

NET = """
net (float[N, 4] x, float[N, 4] other) => (float[N, 4] y, float[N, 4] side) {
    a = Relu(x)
    b = Neg(a)
    c = Mul(b, w)
    d = Add(c, a)
    yes = Constant<value = bool {1}>()
    e = If(yes) <then_branch = g () => (float[N, 4] t) { t = Sub(d, other) },
                 else_branch = h () => (float[N, 4] f) { f = Identity(b) }>
    y = Sigmoid(e)
    side = Exp(other)
}
"""
WEIGHT = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
FEEDS = {
    "x": np.arange(-4, 8, dtype=np.float32).reshape(3, 4),
    "other": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
}


def test_what_depends_on_a_tensor_is_found_through_subgraphs() -> None:
    proto = model(NET, w=WEIGHT).to_proto()
    assert dependants(proto, ["b"]) == {"b", "c", "d", "e", "y"}
    assert dependants(proto, ["other"]) == {"other", "e", "y", "side"}


def test_the_border_is_what_is_read_from_elsewhere_without_constants() -> None:
    proto = model(NET, w=WEIGHT).to_proto()
    assert set(border(proto, ["c"])) == {"a", "yes", "other", "b"}
    assert set(border(proto, ["x"])) == {"yes", "other"}


@pytest.mark.ort
@pytest.mark.parametrize("cut", ["a", "b", "c", "d", "e"])
def test_the_part_behind_any_tensor_computes_what_the_whole_does(cut: str) -> None:
    whole = model(NET, w=WEIGHT)
    proto = whole.to_proto()
    kept = [cut, *border(proto, [cut])]
    seen = [name for name in kept if name not in FEEDS]
    before = open_session(part(proto, dict.fromkeys(FEEDS, np.float32), seen).SerializeToString())
    values = dict(zip(seen, run_session(before, FEEDS, seen), strict=True)) | FEEDS
    behind = part(proto, {name: values[name].dtype for name in kept}, ["y"])
    (got,) = run_session(open_session(behind.SerializeToString()), {name: values[name] for name in kept}, ["y"])
    np.testing.assert_array_equal(got, run(whole, FEEDS)[0])


@pytest.mark.ort
def test_a_constant_may_be_given() -> None:
    proto = model(NET, w=WEIGHT).to_proto()
    cut = part(proto, {"x": np.float32, "w": np.float32}, ["c"])
    assert not cut.graph.initializer
    (got,) = run_session(open_session(cut.SerializeToString()), {"x": FEEDS["x"], "w": -WEIGHT}, ["c"])
    np.testing.assert_array_equal(got, np.maximum(FEEDS["x"], 0) * WEIGHT)


def test_an_input_that_is_needed_and_not_given_is_named() -> None:
    with pytest.raises(ValueError, match="other"):
        part(model(NET, w=WEIGHT).to_proto(), {"x": np.float32}, ["y"])
