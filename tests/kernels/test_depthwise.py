"""depthwise: y[r, j] = activation(bias + sum_t w[t] x[r step + offset[t] + j]), exactly, touching nothing else."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from kernels.guarded import guarded
from kernels.variants import variants
from kernels.weights import Epilogue, Floats, activate, epilogue
from lissom_runtime.contract import ACTIVATIONS, Activation

POINTER, INT = ctypes.c_void_p, ctypes.c_int64
SIGNATURE = ctypes.CFUNCTYPE(
    None,
    *(POINTER, POINTER, INT, ctypes.c_float, POINTER, INT, INT, INT),
    *(POINTER, INT, ctypes.POINTER(Epilogue)),
)
MULTIPLE = 16
"""LISSOM_PANEL_MULTIPLE: x is readable up to a multiple of it behind each row and tap."""

SIZES = [*range(1, 71), 112, 127, 128, 129, 200]
UNTOUCHED = np.float32(77.0)
EPS = float(np.finfo(np.float32).eps)

pytestmark = pytest.mark.native
every_variant = pytest.mark.parametrize("kernel", variants("f32_depthwise", SIGNATURE))


@dataclass(frozen=True)
class Taps:
    """Where the taps of a kernel lie in an image, for rows of n outputs.

    Attributes:
        kernel: height and width.
        dilation: of both axes.
        stride: rows are this many rows of the image apart, and its columns lie in so many parts, one after another:
            the part p of a row holds the columns p, p + stride, p + 2 stride, ...
    """

    kernel: tuple[int, int] = (3, 3)
    dilation: int = 1
    stride: int = 1

    @property
    def margin(self) -> int:
        """Elements of a part of a row that the taps reach beyond n."""
        return (self.kernel[1] - 1) * self.dilation // self.stride

    def pitch(self, n: int) -> int:
        """Between rows of the image."""
        return self.stride * (n + self.margin)

    def offsets(self, n: int) -> npt.NDArray[np.int32]:
        """offset[taps], ascending along the height and then the width of the kernel."""
        down, across = np.divmod(np.arange(self.kernel[0] * self.kernel[1]), self.kernel[1])
        part, column = np.mod(across * self.dilation, self.stride), across * self.dilation // self.stride
        starts = down * self.dilation * self.pitch(n) + part * (n + self.margin) + column
        return np.asarray(starts, np.int32)


TAPS = {
    "1x1": Taps((1, 1)),
    "3x3": Taps(),
    "5x5": Taps((5, 5)),
    "3x3 dilated": Taps(dilation=3),
    "3x3 stride 2": Taps(stride=2),
    "5x5 stride 3, dilated": Taps((5, 5), dilation=2, stride=3),
    "3x1": Taps((3, 1)),
}
every_taps = pytest.mark.parametrize("taps", TAPS.values(), ids=TAPS)


@dataclass(frozen=True)
class Channel:
    """One channel: w[t] meets x[r step + offset[t] + j]."""

    w: Floats
    bias: float
    offset: npt.NDArray[np.int32]
    step: int
    x: Floats

    def read(self, rows: int, n: int) -> npt.NDArray[np.intp]:
        """index[rows, taps, n]: the elements of x that y[rows, n] depends on."""
        return np.arange(rows)[:, None, None] * self.step + self.offset[None, :, None] + np.arange(n)

    def sums(self, rows: int, n: int) -> npt.NDArray[np.float64]:
        """y[rows, n] without an activation."""
        return (
            np.tensordot(self.x[self.read(rows, n)].astype(np.float64), self.w.astype(np.float64), (1, 0)) + self.bias
        )

    def magnitudes(self, rows: int, n: int) -> npt.NDArray[np.float64]:
        """Of the terms of each sum."""
        return replace(self, w=np.abs(self.w), bias=abs(self.bias), x=np.abs(self.x)).sums(rows, n)


def channel(
    rng: np.random.Generator, taps: Taps, rows: int, n: int, *, step: int | None = None, whole: bool = True
) -> Channel:
    """A channel with random data for rows and n, behind which x goes on with NaN as far as it has to.

    Args:
        step: between rows; that of the taps by default.
        whole: small whole numbers, whose sums are exact; otherwise normally distributed.
    """

    def draw(size: int) -> Floats:
        return (rng.integers(-4, 5, size) if whole else rng.standard_normal(size)).astype(np.float32)

    offset = taps.offsets(n)
    step = taps.stride * taps.pitch(n) if step is None else step
    last = (rows - 1) * step + int(offset.max())
    x = np.full(last + -(-n // MULTIPLE) * MULTIPLE, np.nan, np.float32)
    x[: last + n] = draw(last + n)
    return Channel(draw(offset.size), float(draw(1)[0]), offset, step, x)


def run(
    kernel: Any, given: Channel, rows: int, n: int, activation: Epilogue, *, gap: int = 0, front: bool = False
) -> Floats:
    """y[rows, n] on guarded arrays; rows of y are `gap` elements apart, which must stay as they were."""
    w, offset, x = (guarded(array, front=front, writable=False) for array in (given.w, given.offset, given.x))
    y = guarded(np.full((rows - 1) * (n + gap) + n, UNTOUCHED), front=front)
    kernel(
        w.ctypes.data,
        offset.ctypes.data,
        offset.size,
        given.bias,
        x.ctypes.data,
        given.step,
        rows,
        n,
        y.ctypes.data,
        n + gap,
        activation,
    )
    whole = np.concatenate([y, np.full(gap, UNTOUCHED)]).reshape(rows, n + gap)
    assert (whole[:, n:] == UNTOUCHED).all()
    return whole[:, :n]


@every_variant
@pytest.mark.parametrize("rows", range(1, 18))
def test_whole_numbers_are_exact_at_every_size(kernel: Any, rows: int) -> None:
    rng = np.random.default_rng(rows)
    for n in SIZES:
        taps = list(TAPS.values())[(rows + n) % len(TAPS)]
        given = channel(rng, taps, rows, n)
        actual = run(kernel, given, rows, n, epilogue(), gap=rows * n % 3, front=(rows + n // 3) % 2 == 0)
        np.testing.assert_array_equal(actual, given.sums(rows, n))


@every_variant
@every_taps
@pytest.mark.parametrize("step", [0, 1, "n", "n + 1"])
def test_rows_may_lie_at_any_distance(kernel: Any, taps: Taps, step: int | str) -> None:
    rng = np.random.default_rng(len(TAPS))
    for n in (1, 7, 8, 15, 16, 17, 31, 33, 56):
        distance = {"n": n, "n + 1": n + 1}[step] if isinstance(step, str) else step
        for rows in (2, 8, 9):
            given = channel(rng, taps, rows, n, step=distance)
            for gap in (0, 1):
                np.testing.assert_array_equal(
                    run(kernel, given, rows, n, epilogue(), gap=gap, front=n % 2 == 0), given.sums(rows, n)
                )


@every_variant
@every_taps
def test_taps_may_lie_in_any_order(kernel: Any, taps: Taps) -> None:
    rng = np.random.default_rng(2)
    for n in (5, 40):
        given = channel(rng, taps, 3, n)
        for last in range(given.offset.size):
            rolled = replace(given, offset=np.roll(given.offset, last))
            np.testing.assert_array_equal(run(kernel, rolled, 3, n, epilogue()), rolled.sums(3, n))


@every_variant
def test_no_rows_touch_nothing(kernel: Any) -> None:
    given = channel(np.random.default_rng(0), Taps(), 3, 5)
    nowhere = guarded(np.empty(0, np.float32)).ctypes.data
    w, offset = given.w.ctypes.data, given.offset.ctypes.data
    kernel(w, offset, given.offset.size, given.bias, nowhere, given.step, 0, 5, nowhere, 5, epilogue())


@every_variant
def test_no_taps_give_the_activated_bias(kernel: Any) -> None:
    given = Channel(np.empty(0, np.float32), -3.5, np.empty(0, np.int32), 20, np.empty(0, np.float32))
    assert (run(kernel, given, 3, 20, epilogue("clip", -2.0, 6.0), gap=1) == -2.0).all()


@every_variant
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("n", [5, 50])
def test_every_activation_within_rounding(kernel: Any, activation: Activation, n: int) -> None:
    rng = np.random.default_rng(n)
    rows = 11
    given = channel(rng, Taps(), rows, n, whole=False)
    a, b = (-1.5, 2.5) if activation == "clip" else (0.25, 0.0)
    sums = given.sums(rows, n)
    expected = activate(sums, activation, a, b)
    bound = 16 * EPS * (given.magnitudes(rows, n) + 1)
    actual = run(kernel, given, rows, n, epilogue(activation, a, b), gap=n % 3)
    if activation in ("thresholded_relu", "shrink"):  # rounding tips a sum at the threshold to the other side
        near = np.abs(np.abs(sums) - a) < bound
        actual, expected, bound = actual[~near], expected[~near], bound[~near]
    assert (np.abs(actual - expected) <= bound).all()


@every_variant
@every_taps
def test_random_floats_stay_within_the_bound_of_their_taps(kernel: Any, taps: Taps) -> None:
    given = channel(np.random.default_rng(7), taps, 13, 61, whole=False)
    difference = np.abs(run(kernel, given, 13, 61, epilogue()) - given.sums(13, 61))
    assert (difference <= (given.w.size + 1) * EPS * given.magnitudes(13, 61)).all()


@every_variant
@every_taps
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_a_nan_or_an_infinity_reaches_the_outputs_that_read_it_and_no_others(
    kernel: Any, taps: Taps, special: float
) -> None:
    rng = np.random.default_rng(5)
    rows, n = 9, 21
    given = channel(rng, taps, rows, n, whole=False)
    clean = run(kernel, given, rows, n, epilogue())
    for place in rng.integers(0, given.x.size, 20):
        x = given.x.copy()
        x[place] = special
        y = run(kernel, replace(given, x=x), rows, n, epilogue())
        reached = (given.read(rows, n) == place).any(axis=1)
        assert not np.isfinite(y[reached]).any()
        np.testing.assert_array_equal(y[~reached], clean[~reached])


@every_variant
@pytest.mark.parametrize("activation", ["none", "relu", "clip", "leaky_relu", "hard_swish", "silu"])
def test_nan_passes_through_activations(kernel: Any, activation: Activation) -> None:
    given = channel(np.random.default_rng(1), Taps(), 9, 21)
    lost = replace(given, x=np.full_like(given.x, np.nan))
    assert np.isnan(run(kernel, lost, 9, 21, epilogue(activation, 0.1, 6.0))).all()


@every_variant
def test_denormals_are_kept(kernel: Any) -> None:
    tiny = np.float32(1e-45)
    given = Channel(np.ones(1, np.float32), 0.0, np.zeros(1, np.int32), 32, np.full(32 * 9, tiny))
    assert (run(kernel, given, 9, 21, epilogue()) == tiny).all()


@every_variant
@every_taps
@pytest.mark.parametrize("activation", ["none", "silu"])
def test_a_sum_does_not_depend_on_how_the_work_is_cut(kernel: Any, taps: Taps, activation: Activation) -> None:
    rng = np.random.default_rng(3)
    rows, n = 17, 70
    given = channel(rng, taps, rows, n, whole=False)
    at_once = run(kernel, given, rows, n, epilogue(activation))
    parts = [(r, j, 3, 37) for r in range(0, rows, 3) for j in range(0, n, 37)]
    parts += [(r, j, 8, 13) for r in range(0, rows, 8) for j in range(0, n, 13)]
    parts += [(int(r), int(j), 1, 1) for r, j in zip(rng.integers(0, rows, 20), rng.integers(0, n, 20), strict=True)]
    for r, j, height, width in parts:
        down, across = min(height, rows - r), min(width, n - j)
        # What the part may read, and that alone.
        first = r * given.step + j
        last = first + (down - 1) * given.step + int(given.offset.max()) + -(-across // MULTIPLE) * MULTIPLE
        part = np.full(last - first, np.nan, np.float32)
        part[: given.x.size - first] = given.x[first:last]
        cut = run(kernel, replace(given, x=part), down, across, epilogue(activation), gap=j % 2)
        np.testing.assert_array_equal(cut, at_once[r : r + down, j : j + across])
