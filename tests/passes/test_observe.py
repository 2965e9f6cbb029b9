"""Second moments are those of the columns that the folded weight multiplies, and take bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
from graph.onnx_text import floats, integers, model, run
from lissom import pipeline
from lissom.graph.geometry import Geometry
from lissom.observe import Moment, observe_moments, sample_columns
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
    layer = pipeline.canonicalise(loaded, feeds).layers[0]
    columns = sample_columns(feeds["x"], layer.geometry, 10**6, np.random.default_rng(0))
    output = run(loaded, feeds)[0]
    np.testing.assert_array_equal(columns @ layer.folded.T, output.transpose(0, 2, 3, 1).reshape(-1, 4))


@pytest.mark.ort
def test_the_moment_is_that_of_all_columns_whatever_the_batches() -> None:
    loaded = model(CONV.format(attributes="pads = [1, 1, 1, 1]"), w=integers(0, 4, 3, 3, 3))
    x = integers(1, 6, 3, 9, 8)
    canonical = pipeline.canonicalise(loaded, {"x": x[:1]})
    layer = canonical.layers[0]
    columns = sample_columns(x, layer.geometry, 10**6, np.random.default_rng(0)).astype(np.float64)
    for batches in ([x], [x[:1], x[1:4], x[4:]]):
        feeds = [{"x": batch} for batch in batches]
        moment = observe_moments(canonical.model, canonical.layers, feeds)[layer.name]
        assert moment.rows == len(columns)
        np.testing.assert_array_equal(moment.mean(), columns.T @ columns / len(columns))


def test_more_rows_than_the_limit_are_sampled_without_repetition() -> None:
    geometry = Geometry(4, 2)
    values = np.arange(200, dtype=np.float32).reshape(100, 2)
    rows = sample_columns(values, geometry, 30, np.random.default_rng(0))
    assert len(np.unique(rows[:, 0])) == 30
    again = sample_columns(values, geometry, 30, np.random.default_rng(0))
    np.testing.assert_array_equal(rows, again)


def test_a_wide_moment_keeps_diagonal_blocks_only() -> None:
    rows = floats(0, 7, 12).astype(np.float64)
    moment, full = Moment.empty(12, cap=5), Moment.empty(12)
    for part in (moment, full):
        part.add(rows)
    assert moment.total.shape == (3, 4, 4)
    assert not moment.is_full and full.is_full
    for index in range(3):
        block = slice(4 * index, 4 * index + 4)
        np.testing.assert_allclose(moment.total[index], full.total[0][block, block])
    with pytest.raises(ValueError, match="3 diagonal blocks"):
        moment.mean()


@pytest.mark.ort
def test_activations_that_are_not_finite_are_an_error_that_names_the_layer() -> None:
    loaded = model("net (float[N, 3] x) => (float[N, 2] y) { t = Log(x) y = MatMul(t, w) }", w=floats(0, 3, 2))
    canonical = pipeline.canonicalise(loaded, {"x": np.ones((1, 3), np.float32)})
    with pytest.raises(UsageError, match="'MatMul_y' has NaN or infinity"):
        observe_moments(canonical.model, canonical.layers, [{"x": -np.ones((2, 3), np.float32)}])
