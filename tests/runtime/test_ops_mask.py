"""WinnerMask in sessions: the kernel, the function body and the contract give one answer, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from lissom_runtime import library
from lissom_runtime.contract import winner_count
from runtime.mask_models import mask_model, masked
from runtime.ops_models import Array, extremes, integers, random_floats, session

pytestmark = [
    pytest.mark.native,
    pytest.mark.ort,
    pytest.mark.skipif(not library.available(), reason=library.describe()),
]

RATES = (0.01, 0.1, 0.25, 0.3, 0.5, 0.99, 1.0)
STRIDES = (1, 2, 3, 10)
OPSETS = (11, 12, 13, 16, 18, onnx.defs.onnx_opset_version())


@cache
def both(rate: float, stride: int) -> list[Any]:
    """A session that runs the kernel, and one that runs the body."""
    return [
        session(mask_model(rate, stride, shape=("N", "D"), body=False), native=True),
        session(mask_model(rate, stride, shape=("N", "D"))),
    ]


def agree(x: Array, rate: float, stride: int) -> None:
    """Kernel and body give what the contract says."""
    expected = masked(x, rate, stride)
    for opened in both(rate, stride):
        (actual,) = opened.run(None, {"x": x})
        assert actual.tobytes() == expected.tobytes()


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("stride", STRIDES)
def test_kernel_body_and_contract_agree_for_every_batch_and_size(rate: float, stride: int) -> None:
    for batch in (1, 2, 3, 17):
        for size in (1, 2, 3, 9, 10, 11, 20, 25, 97):
            agree(random_floats(size, batch, size), rate, stride)
            agree(integers(size, batch, size), rate, stride)


@given(
    arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=2, max_dims=2, max_side=40),
        elements=st.one_of(st.floats(width=32), st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, np.nan, np.inf, -np.inf])),
    ),
    st.sampled_from(RATES),
    st.sampled_from(STRIDES),
)
@settings(max_examples=60)
def test_kernel_body_and_contract_agree_on_ties_nan_and_infinity(x: Array, rate: float, stride: int) -> None:
    agree(x, rate, stride)


@given(st.integers(1, 5), st.integers(1, 60), st.sampled_from(RATES), st.integers(0, 99))
@settings(max_examples=25)
def test_a_full_sample_without_ties_keeps_the_winners_and_nothing_else(
    batch: int, size: int, rate: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = np.stack([rng.permutation(size) + 1 for _ in range(batch)]).astype(np.float32) * np.float32(rng.choice([-1, 1]))
    (y,) = both(rate, 1)[0].run(None, {"x": x})
    assert (np.count_nonzero(y, axis=1) == winner_count(rate, size)).all()
    assert np.abs(y[y != 0]).min() > size - winner_count(rate, size)


@pytest.mark.parametrize("opset", OPSETS)
def test_the_body_is_valid_and_agrees_in_every_opset(opset: int) -> None:
    model = mask_model(0.3, 4, opset=opset)
    onnx.checker.check_model(model, full_check=True)
    x = np.resize(extremes(), (3, 4, 5, 7)) * np.float32(1)
    (actual,) = session(model).run(None, {"x": x})
    assert actual.tobytes() == masked(x, 0.3, 4).tobytes()


@pytest.mark.parametrize("shape", [(1, 64, 56, 56), (2, 300_000), (40, 16, 32, 32), (3, 1, 1, 5)])
@pytest.mark.parametrize("stride", [1, 10])
def test_no_thread_count_changes_the_result(shape: tuple[int, ...], stride: int) -> None:
    x = random_floats(0, *shape)
    free = tuple("NCHW"[: len(shape)])
    expected = masked(x, 0.3, stride).tobytes()
    for threads in (1, 2, 4):
        opened = session(mask_model(0.3, stride, shape=free, body=False), native=True, threads=threads)
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda _: opened.run(None, {"x": x})[0].tobytes(), range(4)))  # noqa: B023  run here
        assert set(results) == {expected}


def test_samples_of_a_batch_have_thresholds_of_their_own() -> None:
    x = random_floats(1, 6, 200) * np.float32(10.0) ** np.arange(6, dtype=np.float32)[:, None]
    (together,) = both(0.1, 3)[0].run(None, {"x": x})
    apart = [both(0.1, 3)[0].run(None, {"x": x[i : i + 1]})[0] for i in range(6)]
    np.testing.assert_array_equal(together, np.concatenate(apart))
    assert (np.count_nonzero(together, axis=1) > 0).all()


@pytest.mark.parametrize("native", [False, True])
def test_no_samples_and_all_zeros_are_given_back(native: bool) -> None:
    opened = both(0.25, 2)[0 if native else 1]
    assert opened.run(None, {"x": np.zeros((0, 12), np.float32)})[0].shape == (0, 12)
    np.testing.assert_array_equal(opened.run(None, {"x": np.zeros((2, 12), np.float32)})[0], np.zeros((2, 12)))


def test_an_intermediate_result_may_be_overwritten() -> None:
    model = mask_model(0.3, 1, shape=("N", "D"), body=False)
    model.graph.node[0].input[0] = "active"
    model.graph.node.insert(0, onnx.helper.make_node("Relu", ["x"], ["active"], "before"))
    x = random_floats(2, 2, 300_000)
    (y,) = session(model, native=True, threads=2).run(None, {"x": x})
    assert y.tobytes() == masked(np.maximum(x, 0), 0.3, 1).tobytes()


@pytest.mark.parametrize("shape", [("N", "C", "H", "W"), (2, 12), ("N", 7, 3)])
def test_the_shape_is_inferred(shape: tuple[int | str, ...]) -> None:
    model = mask_model(0.3, 1, shape=shape, body=False)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert session(model, native=True).get_outputs()[0].shape == list(shape)


@pytest.mark.parametrize(
    ("replace", "message"),
    [
        ({"rate": np.array(0.0)}, "expected a winner rate above 0 and up to 1, but got 0.0"),
        ({"rate": np.array(-0.5)}, "expected a winner rate above 0 and up to 1, but got -0.5"),
        ({"rate": np.array(1.5)}, "expected a winner rate above 0 and up to 1, but got 1.5"),
        ({"rate": np.array(np.nan)}, "expected a winner rate above 0 and up to 1, but got nan"),
        ({"rate": np.array([0.5])}, r"expected the input rate of 0 axes, but got shape \[1\]"),
        ({"rate": None}, "expected a constant for the input rate"),
        ({"rate": np.array(0.5, np.float32)}, "Type Error"),
        ({"stride": np.array([0])}, r"expected a stride from 1 to 2\^31 - 1, but got 0"),
        ({"stride": np.array([-3])}, r"expected a stride from 1 to 2\^31 - 1, but got -3"),
        ({"stride": np.array([2**31])}, r"expected a stride from 1 to 2\^31 - 1, but got 2147483648"),
        ({"stride": np.array([1, 2])}, r"expected one stride, but got shape \[2\]"),
        ({"stride": np.zeros(0, np.int64)}, r"expected one stride, but got shape \[0\]"),
        ({"stride": np.array(1)}, r"expected the input stride of 1 axes, but got shape \[\]"),
    ],
    ids=lambda value: str(value).replace(" ", "")[:40] if isinstance(value, str) else "",
)
def test_malformed_constants_are_refused_with_the_node_named(
    replace: Mapping[str, npt.NDArray[Any] | None], message: str
) -> None:
    with pytest.raises(Exception, match=message) as caught:  # onnxruntime's errors have no narrower common base
        session(mask_model(0.5, 1, body=False, replace=replace), native=True)
    assert "mask" in str(caught.value)


def test_an_input_without_a_batch_is_an_error_of_the_run() -> None:
    model = mask_model(0.5, 1, body=False)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.ClearField("shape")
    with pytest.raises(Exception, match=r"expected x of at least two axes, the first of them the batch, but got \[5\]"):
        session(model, native=True).run(None, {"x": np.ones(5, np.float32)})
