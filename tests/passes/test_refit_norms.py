"""Batch normalisations that no layer took in get their statistics back, unless the network is worse for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from graph.onnx_text import floats, model
from lissom.graph.model import Model
from lissom.refitting import refit as refits
from lissom.refitting.norms import corrections, normalisations
from lissom.stream import Stream
from passes.refit_cases import IMAGES, UNSEEN, Array, applied, output_error

pytestmark = pytest.mark.ort

PRE_ACTIVATION = """net (float[N, 3, 8, 8] x) => (float[N, 5] y) {
    s = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
    a0 = Mul(s, half)
    n = BatchNormalization(a0, g1, t1, m1, v1)
    a = Relu(n)
    c = Conv <pads = [1, 1, 1, 1]> (a, w1)
    u = Add(c, s)
    k = BatchNormalization(u, g2, t2, m2, v2)
    r = Relu(k)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    y = Gemm <transB = 1> (f, w2, b2)
}"""


def pre_activation() -> Model:
    shapes = [(8, 3, 3, 3), (8, 8, 3, 3), (5, 8)]
    weights = {f"w{i}": floats(i, *s) * np.float32(1.5 / np.sqrt(np.prod(s[1:]))) for i, s in enumerate(shapes)}
    norms = {f"{name}{i}": floats(20 + i, 8) * np.float32(0.2) for i in (1, 2) for name in "tm"}
    scales = {f"{name}{i}": 1 + np.abs(floats(30 + i, 8)) for i in (1, 2) for name in "gv"}
    return model(
        PRE_ACTIVATION,
        **weights,
        **norms,
        **scales,
        b0=floats(8, 8) / 10,
        b2=floats(9, 5) / 10,
        half=np.full(1, 0.5, np.float32),
    )


def statistics(loaded: Model, tensor: str, feeds: Sequence[Mapping[str, Array]]) -> tuple[Array, Array]:
    """Mean[channels] and variance[channels] of a tensor over some batches."""
    stream = Stream(loaded.to_proto(), feeds)
    stream.advance([tensor])
    values = np.concatenate([batch[tensor] for batch in stream.batches]).astype(np.float64)
    return values.mean(axis=(0, 2, 3)), values.var(axis=(0, 2, 3))


def test_batch_normalisations_that_no_layer_took_in_get_their_mean_and_variance_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(refits, "WIDEST", 0)  # no layer makes anything good
    loaded = pre_activation()
    candidate, plain = (applied(loaded, {"Conv_s": 4}, IMAGES, enabled) for enabled in (True, False))
    fitted = [*IMAGES[1:8], *IMAGES[9:]]  # the first of every eight batches is held out
    for tensor in ("n", "k"):
        wanted, got, before = (statistics(m, tensor, fitted) for m in (loaded, candidate.model, plain.model))
        for a, b, c in zip(wanted, got, before, strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)
            assert np.abs(c - a).max() > 1e-3
    assert candidate.max_difference < 1e-5
    assert output_error(loaded, candidate, UNSEEN) < output_error(loaded, plain, UNSEEN)


def test_corrections_that_make_the_outputs_worse_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = pre_activation()
    measured = iter([0.2, 0.1, 0.1, 0.1])  # of the layers, then of the batch normalisations
    monkeypatch.setattr(refits, "distortion", lambda *_: next(measured))
    candidate = applied(loaded, {"Conv_s": 2}, IMAGES)
    nodes = {node.outputs[0].name: node for node in candidate.model.graph.nodes}
    np.testing.assert_array_equal(nodes["k"].inputs[1].values, 1 + np.abs(floats(32, 8)))
    refused = [refusal.site for refusal in candidate.plan.refusals if "from 0.1 to 0.1" in refusal.reason]
    assert refused == ["BatchNormalization_n", "BatchNormalization_k"]


def test_a_channel_without_variance_gets_its_mean_only() -> None:
    text = """net (float[N, 4, h, w] x) => (float[N, 4, h, w] y) {
        c = Conv(x, w) d = Relu(c) y = BatchNormalization(d, g, t, m, v) }"""
    ones = {name: np.ones(4, np.float32) for name in "gtmv"}
    eye = np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)
    original, compressed = (model(text, w=weight, **ones).to_proto() for weight in (eye, eye * np.float32(0)))
    streams = [Stream(proto, [{"x": floats(3, 6, 4, 5, 5)}]) for proto in (original, compressed)]
    (norm,) = corrections(normalisations(original, ["c"]), *streams, [0]).values()
    np.testing.assert_array_equal(norm.scale, 1)
    wanted = streams[0].batches[0]["y"].mean(axis=(0, 2, 3))
    np.testing.assert_allclose(streams[1].batches[0]["y"].mean(axis=(0, 2, 3)), wanted, rtol=1e-5)


def test_batch_normalisations_that_share_or_compute_a_number_are_left_alone() -> None:
    text = """net (float[N, 4, h, w] x) => (float[N, 4, h, w] y) {
        c = Conv(x, w) a = Relu(c) n = BatchNormalization(a, g, t, m, v)
        s = ReduceMean <axes = [0, 2, 3], keepdims = 0> (a)
        y = BatchNormalization(n, s, t2, m, v) }"""
    weights = {"w": floats(0, 4, 4, 1, 1), **{name: np.ones(4, np.float32) for name in ("g", "t", "t2", "m", "v")}}
    proto = model(text, **weights).to_proto()
    assert [node.output[0] for node in normalisations(proto, ["c"])] == ["n"]
    assert normalisations(proto, ["y"]) == []
    shared = model(text.replace("s, t2", "g, t2"), **weights).to_proto()
    assert normalisations(shared, ["c"]) == []
