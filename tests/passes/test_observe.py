"""Second moments are those of the columns that the folded weight multiplies, and take bounded memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graph.onnx_text import floats, integers, model, run
from hypothesis import given
from hypothesis import strategies as st
from lissom.canonical import canonicalise
from lissom.data import InputSpec
from lissom.graph.geometry import Geometry
from lissom.job import open_job
from lissom.observe import Moment, affordable, layer_bytes, observe_moments, sample_columns
from lissom.scoring import BATCH, BATCH_BYTES, batch_size
from lissom_runtime.errors import UsageError

CONV = "net (float[N, 3, 9, 8] x) => (float[N, 4, H, W] y) {{ y = Conv <{attributes}> (x, w) }}"


@pytest.mark.ort
@pytest.mark.parametrize(
    "attributes",
    [
        "pads = [1, 1, 1, 1]",
        "strides = [2, 1], pads = [0, 1, 2, 1]",
        "dilations = [2, 2]",
        'auto_pad = "SAME_UPPER", strides = [2, 2]',
        'auto_pad = "SAME_LOWER", strides = [3, 2]',
    ],
)
def test_weight_times_columns_is_the_convolution(attributes: str) -> None:
    loaded = model(CONV.format(attributes=attributes), w=integers(0, 4, 3, 3, 3))
    feeds = {"x": integers(1, 2, 3, 9, 8)}
    layer = canonicalise(loaded, feeds).layers[0]
    columns = sample_columns(feeds["x"], layer.geometry, 10**6, np.random.default_rng(0))
    output = run(loaded, feeds)[0]
    np.testing.assert_array_equal(columns @ layer.folded.T, output.transpose(0, 2, 3, 1).reshape(-1, 4))


@pytest.mark.ort
def test_the_moment_is_that_of_all_columns_whatever_the_batches() -> None:
    loaded = model(CONV.format(attributes="pads = [1, 1, 1, 1]"), w=integers(0, 4, 3, 3, 3))
    x = integers(1, 6, 3, 9, 8)
    canonical = canonicalise(loaded, {"x": x[:1]})
    layer = canonical.layers[0]
    columns = sample_columns(x, layer.geometry, 10**6, np.random.default_rng(0)).astype(np.float64)
    for batches in ([x], [x[:1], x[1:4], x[4:]]):
        feeds = [{"x": batch} for batch in batches]
        moment = observe_moments(canonical.model, canonical.layers, feeds)[layer.name]
        assert moment.rows == len(columns)
        np.testing.assert_allclose(moment.mean, columns.mean(axis=0), rtol=0, atol=1e-12)
        np.testing.assert_allclose(moment.about_zero(), columns.T @ columns / len(columns), rtol=0, atol=1e-12)
        np.testing.assert_allclose(moment.centred(), np.cov(columns.T, bias=True), rtol=0, atol=1e-12)


@given(
    level=st.floats(-1e6, 1e6, width=32),
    sizes=st.lists(st.integers(0, 7), min_size=1, max_size=4).filter(sum),
)
def test_the_moment_about_the_mean_keeps_its_digits_whatever_the_mean(level: float, sizes: list[int]) -> None:
    """A formula E[x xᵀ] − m mᵀ would lose twelve digits to a mean of a million."""
    moment, parts = Moment.of(3), [integers(n, size, 3) for n, size in enumerate(sizes)]
    for part in parts:
        moment.add(part.astype(np.float64) + level)
    rows = np.concatenate(parts).astype(np.float64)
    assert moment.rows == len(rows)
    np.testing.assert_allclose(moment.mean, rows.mean(axis=0) + level, rtol=1e-15, atol=1e-12)
    np.testing.assert_allclose(moment.centred(), np.atleast_2d(np.cov(rows.T, bias=True)), rtol=0, atol=1e-7)


def test_the_moment_of_constant_rows_is_zero_about_their_mean() -> None:
    moment = Moment.of(4)
    for size in (1, 3, 1000):
        moment.add(np.tile(floats(0, 4), (size, 1)))
    np.testing.assert_array_equal(moment.centred(), 0)
    np.testing.assert_array_equal(moment.mean, floats(0, 4))


def test_more_rows_than_the_limit_are_sampled_without_repetition() -> None:
    geometry = Geometry(4, 2)
    values = np.arange(200, dtype=np.float32).reshape(100, 2)
    rows = sample_columns(values, geometry, 30, np.random.default_rng(0))
    assert len(np.unique(rows[:, 0])) == 30
    again = sample_columns(values, geometry, 30, np.random.default_rng(0))
    np.testing.assert_array_equal(rows, again)


@pytest.mark.ort
def test_moments_beyond_the_memory_are_left_out_widest_first() -> None:
    text = "net (float[N, 3] x) => (float[N, 9] y) { t = MatMul(x, a) u = MatMul(t, b) y = MatMul(u, c) }"
    loaded = model(text, a=floats(0, 3, 8), b=floats(1, 8, 5), c=floats(2, 5, 9))
    layers = canonicalise(loaded, {"x": floats(3, 1, 3)}).layers
    assert [layer.geometry.columns for layer in affordable(layers, 8 * (9 + 25 + 64))] == [3, 8, 5]
    assert [layer.geometry.columns for layer in affordable(layers, 8 * (9 + 25 + 63))] == [3, 5]


@pytest.mark.ort
def test_activations_that_are_not_finite_are_an_error_that_names_the_layer() -> None:
    loaded = model("net (float[N, 3] x) => (float[N, 2] y) { t = Log(x) y = MatMul(t, w) }", w=floats(0, 3, 2))
    canonical = canonicalise(loaded, {"x": np.ones((1, 3), np.float32)})
    with pytest.raises(UsageError, match="'MatMul_y' is NaN or infinite"):
        observe_moments(canonical.model, canonical.layers, [{"x": -np.ones((2, 3), np.float32)}])


@pytest.mark.ort
def test_no_more_rows_than_the_limit_enter_a_moment_however_many_batches_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lissom.observe.ROWS", 100)
    monkeypatch.setattr("lissom.observe.ROWS_PER_BATCH", 40)
    loaded = model(CONV.format(attributes="pads = [0, 0, 0, 0]"), w=floats(0, 4, 3, 3, 3))
    canonical = canonicalise(loaded, {"x": floats(1, 1, 3, 9, 8)})
    (layer,) = canonical.layers  # 42 rows an image
    for batches, rows in ((1, 40), (2, 80), (5, 100), (60, 60)):
        feeds = [{"x": floats(number, 1, 3, 9, 8)} for number in range(batches)]
        assert observe_moments(canonical.model, [layer], feeds)[layer.name].rows == rows


@pytest.mark.ort
def test_every_sample_has_the_same_part_in_a_moment_however_small_the_last_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lissom.observe.ROWS_PER_BATCH", 84)
    loaded = model(CONV.format(attributes="pads = [0, 0, 0, 0]"), w=floats(0, 4, 3, 3, 3))
    canonical = canonicalise(loaded, {"x": floats(1, 1, 3, 9, 8)})
    (layer,) = canonical.layers  # 42 rows an image
    feeds = [{"x": np.full((count, 3, 9, 8), level, np.float32)} for count, level in ((8, 0.0), (8, 0.0), (2, 9.0))]
    found = observe_moments(canonical.model, [layer], feeds)[layer.name]
    assert found.rows == 84 + 84 + 21
    np.testing.assert_allclose(found.mean, 1.0)


@given(st.integers(0, 2 * BATCH_BYTES))
def test_as_many_samples_are_run_at_once_as_fit_into_the_memory(sample_bytes: int) -> None:
    free = batch_size([InputSpec("x", np.dtype(np.float32), (None, 3))], sample_bytes)
    assert free * sample_bytes <= BATCH_BYTES or free == 1
    assert free == BATCH or 2 * free * sample_bytes > BATCH_BYTES
    assert BATCH % free == 0
    assert batch_size([InputSpec("x", np.dtype(np.float32), (5, 3))], sample_bytes) == 5


@pytest.mark.ort
def test_a_batch_of_a_job_takes_no_more_memory_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a network whose weights are outputs of nodes before it is canonical: they are not what a sample takes."""
    text = """
    net (float[N, 3, 9, 8] x) => (float[N, 4, 9, 8] y) {
        v = Identity(w)
        y = Conv<pads = [1, 1, 1, 1]> (x, v)
    }
    """
    loaded = model(text, w=floats(0, 4, 3, 3, 3))
    sample = 4 * (3 + 4) * 72
    assert layer_bytes(loaded, {"x": floats(1, 2, 3, 9, 8)}) == 2 * sample
    np.savez(tmp_path / "data.npz", x=floats(2, 12, 3, 9, 8))
    monkeypatch.setattr("lissom.scoring.BATCH_BYTES", 5 * sample)
    job = open_job(loaded.to_proto(), calibration=str(tmp_path / "data.npz"))
    assert job.batch == 4
    assert [len(feeds["x"]) for feeds in job.samples()] == [4, 4, 4]
