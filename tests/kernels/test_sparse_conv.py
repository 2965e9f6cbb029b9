"""sparse_conv: any two-dimensional convolution, exactly, whatever tasks ran before on the same scratch."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kernels.planned import PAIR, Shape, run_tasks
from kernels.weights import Epilogue, Floats, SparseStruct, Weight, epilogue, sparse
from lissom.lowering.emit import Convolution
from lissom.lowering.scratch import of_convolution
from lissom_runtime import library
from lissom_runtime.contract import BLOCKS, MOST_SCRATCH_BYTES

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(not library.available(), reason=library.describe()),
]


class Plan(ctypes.Structure):
    """`lissom_conv_plan`."""

    _fields_ = (
        ("shape", Shape),
        *(
            (name, ctypes.c_int64)
            for name in ("tasks", "scratch", "offsets", "tile", "panels", "row_parts", "phases", "halo", "pitch")
        ),
    )


@dataclass(frozen=True)
class Conv:
    """A convolution: pads are top, left, bottom, right."""

    channels: int = 3
    block_rows: int = 2
    block: int = 4
    groups: int = 1
    batch: int = 1
    size: tuple[int, int] = (9, 10)
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    density: float = 0.5

    @property
    def out(self) -> tuple[int, int]:
        """Rows and columns of the output."""
        reach = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        height = (self.size[0] + self.pads[0] + self.pads[2] - reach[0]) // self.stride[0] + 1
        return height, (self.size[1] + self.pads[1] + self.pads[3] - reach[1]) // self.stride[1] + 1

    def shape(self) -> Shape:
        out_channels = self.groups * self.block_rows * self.block
        pairs = (self.size, self.out, self.kernel, self.stride, self.dilation, self.pads[:2])
        return Shape(
            self.batch, self.groups, self.groups * self.channels, out_channels, *(PAIR(*pair) for pair in pairs)
        )

    def weight(self, rng: np.random.Generator, *, whole: bool = True) -> Weight:
        depth = self.channels * self.kernel[0] * self.kernel[1]
        pattern = rng.random((self.groups * self.block_rows, depth)) < self.density
        return sparse(pattern, self.block, rng, whole=whole)


@cache
def kernels() -> Any:
    loaded = library.load()
    loaded.lissom_f32_sparse_conv_plan.restype = ctypes.c_int32
    loaded.lissom_f32_sparse_conv_plan.argtypes = [
        ctypes.POINTER(Shape),
        ctypes.POINTER(SparseStruct),
        ctypes.POINTER(Plan),
    ]
    return loaded


def plan_of(conv: Conv, weight: Weight) -> Plan:
    plan = Plan()
    assert kernels().lissom_f32_sparse_conv_plan(conv.shape(), weight.struct, plan) == 0
    return plan


def run(
    conv: Conv,
    weight: Weight,
    x: Floats,
    residual: Floats | None = None,
    activation: Epilogue | None = None,
    order: list[int] | None = None,
) -> Floats:
    shape = (conv.batch, weight.struct.rows, *conv.out)
    return run_tasks("sparse_conv", plan_of(conv, weight), weight, x, shape, residual, activation, order)


def reference(conv: Conv, weight: Weight, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """y[batch, out_channels, height, width] by the definition, in x's precision."""
    top, left, bottom, right = conv.pads
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    taps = weight.dense.reshape(conv.groups, -1, conv.channels, *conv.kernel).astype(x.dtype)
    height, width = conv.out
    y = np.zeros((conv.batch, conv.groups, taps.shape[1], height, width), x.dtype)
    grouped = padded.reshape(conv.batch, conv.groups, conv.channels, *padded.shape[2:])
    for i in range(conv.kernel[0]):
        for j in range(conv.kernel[1]):
            first, second = i * conv.dilation[0], j * conv.dilation[1]
            rows = slice(first, first + (height - 1) * conv.stride[0] + 1, conv.stride[0])
            columns = slice(second, second + (width - 1) * conv.stride[1] + 1, conv.stride[1])
            y += np.einsum("goc,bgchw->bgohw", taps[..., i, j], grouped[:, :, :, rows, columns])
    return y.reshape(conv.batch, -1, height, width) + weight.bias[:, None, None]


def image(conv: Conv, rng: np.random.Generator) -> Floats:
    return rng.integers(-4, 5, (conv.batch, conv.groups * conv.channels, *conv.size)).astype(np.float32)


def require_exact(conv: Conv) -> None:
    rng = np.random.default_rng(0)
    weight, x = conv.weight(rng), image(conv, rng)
    np.testing.assert_array_equal(run(conv, weight, x), reference(conv, weight, x))


GEOMETRIES = {
    "1x1": Conv(kernel=(1, 1), pads=(0, 0, 0, 0)),
    "1x1 stride 2": Conv(kernel=(1, 1), stride=(2, 2), pads=(0, 0, 0, 0), size=(7, 9)),
    "1x1 padded": Conv(kernel=(1, 1)),
    "3x3": Conv(),
    "3x3 stride 2": Conv(stride=(2, 2)),
    "3x3 stride 2 even": Conv(stride=(2, 2), size=(8, 12), pads=(0, 0, 1, 1)),
    "3x3 stride 3, 2": Conv(stride=(3, 2), size=(11, 13)),
    "3x3 unpadded": Conv(pads=(0, 0, 0, 0)),
    "3x3 dilated": Conv(dilation=(2, 2), pads=(2, 2, 2, 2)),
    "3x3 dilated, strided": Conv(dilation=(2, 3), stride=(2, 2), pads=(2, 3, 2, 3)),
    "3x3 asymmetric pads": Conv(pads=(0, 2, 3, 1)),
    "5x5": Conv(kernel=(5, 5), pads=(2, 2, 2, 2)),
    "7x7 stride 2": Conv(kernel=(7, 7), stride=(2, 2), pads=(3, 3, 3, 3), size=(21, 19)),
    "1x7": Conv(kernel=(1, 7), pads=(0, 3, 0, 3)),
    "7x1": Conv(kernel=(7, 1), pads=(3, 0, 3, 0)),
    "kernel wider than the image": Conv(kernel=(3, 5), size=(2, 2), pads=(1, 2, 1, 2)),
    "dilation beyond the image": Conv(size=(3, 3), dilation=(4, 4), pads=(4, 4, 4, 4)),
    "one pixel": Conv(kernel=(1, 1), size=(1, 1), pads=(0, 0, 0, 0)),
    "a batch": Conv(batch=3),
    "groups": Conv(groups=3),
    "groups and a batch": Conv(groups=2, batch=2, stride=(2, 1)),
    "one column": Conv(size=(40, 1), pads=(1, 1, 1, 1)),
    "no rows": Conv(size=(0, 6), pads=(2, 1, 2, 1)),
    "no columns": Conv(size=(5, 0), pads=(1, 3, 1, 2), stride=(2, 2)),
    "no pixels": Conv(size=(0, 0), pads=(2, 1, 1, 2), batch=2, groups=2),
    "many tiles": Conv(channels=40, size=(30, 31)),
    "many tiles, strided": Conv(channels=40, size=(41, 43), stride=(2, 2)),
    "no weights": Conv(density=0.0),
    "all weights": Conv(density=1.0),
}


@pytest.mark.parametrize("conv", GEOMETRIES.values(), ids=GEOMETRIES)
def test_every_geometry_is_exact(conv: Conv) -> None:
    require_exact(conv)


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_is_exact(block: int) -> None:
    require_exact(Conv(block=block, channels=5, size=(13, 11)))


@st.composite
def convs(draw: st.DrawFn) -> Conv:
    def pair(low: int, high: int) -> tuple[int, int]:
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    conv = Conv(
        channels=draw(st.integers(1, 6)),
        block_rows=draw(st.integers(1, 3)),
        block=draw(st.sampled_from(BLOCKS)),
        groups=draw(st.integers(1, 3)),
        batch=draw(st.integers(1, 2)),
        size=pair(0, 20),
        kernel=pair(1, 5),
        stride=pair(1, 3),
        dilation=pair(1, 3),
        pads=(*pair(0, 4), *pair(0, 4)),
        density=draw(st.sampled_from([0.1, 0.5, 1.0])),
    )
    assume(min(conv.out) >= 1)
    return conv


@settings(max_examples=150, deadline=None, derandomize=True)
@given(conv=convs())
def test_any_geometry_is_exact(conv: Conv) -> None:
    require_exact(conv)


def test_a_residual_and_an_activation_are_fused() -> None:
    rng = np.random.default_rng(1)
    conv = Conv(batch=2, size=(15, 14))
    weight, x = conv.weight(rng), image(conv, rng)
    expected = reference(conv, weight, x)
    residual = rng.integers(-9, 9, expected.shape).astype(np.float32)
    np.testing.assert_array_equal(
        run(conv, weight, x, residual, epilogue("clip", 0, 6)), np.clip(expected + residual, 0, 6)
    )


def test_tasks_may_run_in_any_order_on_one_scratch() -> None:
    rng = np.random.default_rng(2)
    conv = Conv(channels=40, block_rows=8, size=(30, 31))
    weight, x = conv.weight(rng, whole=False), image(conv, rng)
    tasks = plan_of(conv, weight).tasks
    assert tasks > 3
    shuffled = rng.permutation(tasks).tolist()
    np.testing.assert_array_equal(run(conv, weight, x, order=shuffled), run(conv, weight, x))


def test_random_floats_stay_within_the_bound_of_their_depth() -> None:
    rng = np.random.default_rng(3)
    conv = Conv(channels=24, size=(12, 12))
    weight = conv.weight(rng, whole=False)
    x = rng.standard_normal((1, 24, 12, 12)).astype(np.float32)
    expected = reference(conv, weight, x.astype(np.float64))
    absolute = replace(weight, dense=np.abs(weight.dense), bias=np.abs(weight.bias))
    magnitude = reference(conv, absolute, np.abs(x).astype(np.float64))
    terms = 24 * 9 + 1
    assert (np.abs(run(conv, weight, x) - expected) <= terms * np.finfo(np.float32).eps * magnitude).all()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(conv=convs(), reach=st.integers(1, 3000))
def test_lowering_knows_the_least_scratch(conv: Conv, reach: int) -> None:
    height, pad = conv.kernel[0], reach * (conv.kernel[0] - 1)
    tall = replace(conv, dilation=(reach, 1), pads=(pad, conv.pads[1] + 5, pad, conv.pads[3]))
    plan = plan_of(tall, tall.weight(np.random.default_rng(0)))
    geometry = Convolution(tall.stride, tall.pads, tall.dilation, tall.groups)
    rows = tall.groups * tall.block_rows * tall.block
    least = of_convolution(geometry, (rows, tall.channels, height, tall.kernel[1]), tall.size)
    if plan.tile == min(24, tall.out[0] * tall.out[1]):
        assert least == 4 * plan.scratch
    else:
        assert least <= 4 * plan.scratch < MOST_SCRATCH_BYTES // 100


@pytest.mark.parametrize(
    "changes",
    [
        {"batch": 0},
        {"groups": 0},
        {"in_channels": -3},
        {"in_channels": 4},
        {"out_channels": 9},
        {"input": PAIR(-1, 5)},
        {"input": PAIR(5, -1)},
        {"out": PAIR(1 << 31, 1)},
        {"out": PAIR(1 << 20, 1 << 20)},
        {"kernel": PAIR(3, 4)},
        {"kernel": PAIR(1 << 62, 4)},
        {"stride": PAIR(1, 0)},
        {"stride": PAIR(1 << 62, 1)},
        {"dilation": PAIR(1, -1)},
        {"dilation": PAIR(1 << 40, 1)},
        {"pad": PAIR(-1, 0)},
        {"batch": 1 << 40},
    ],
    ids=lambda changes: " ".join(
        f"{name}={value if isinstance(value, int) else list(value)}" for name, value in changes.items()
    ),
)
def test_a_shape_that_cannot_be_counted_is_refused(changes: dict[str, Any]) -> None:
    conv = Conv()
    weight = conv.weight(np.random.default_rng(0))
    shape = conv.shape()
    for name, value in changes.items():
        setattr(shape, name, value)
    assert kernels().lissom_f32_sparse_conv_plan(shape, weight.struct, Plan()) == -1
