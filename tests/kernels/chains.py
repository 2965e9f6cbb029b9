"""Chains of layers as sparse_chain takes them, what they must compute, and running them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from kernels.guarded import guarded
from kernels.planned import PAIR, POINTER, Shape
from kernels.weights import Epilogue, Floats, SparseStruct, Weight, activate, epilogue, sparse
from lissom_runtime import library
from lissom_runtime.contract import Activation

EPS = float(np.finfo(np.float32).eps)


class Plan(ctypes.Structure):
    """`lissom_chain_plan`."""

    _fields_ = (
        ("shape", Shape),
        *((name, ctypes.c_int64) for name in ("tasks", "scratch", "offsets", "band", "bands")),
        ("rest", ctypes.c_int64 * 64),  # how the scratch is laid out; more room than it takes
    )


class ChainStruct(ctypes.Structure):
    """`lissom_f32_chain`."""

    _fields_ = (
        ("expand", ctypes.POINTER(SparseStruct)),
        ("spatial", ctypes.POINTER(SparseStruct)),
        ("depthwise", POINTER),
        ("depthwise_bias", POINTER),
        ("project", ctypes.POINTER(SparseStruct)),
        ("after", Epilogue * 3),
    )


@dataclass(frozen=True)
class After:
    """An activation and its parameters."""

    activation: Activation = "none"
    a: float = 0.0
    b: float = 0.0

    def epilogue(self) -> Epilogue:
        return epilogue(self.activation, self.a, self.b)


CLIP = After("clip", -6.0, 6.0)


@dataclass(frozen=True)
class Chain:
    """Which layers there are, and their sizes.

    Attributes:
        channels: of x.
        expand: block rows and rows of a block, or no such layer.
        spatial: likewise; the layer in the middle is depthwise if there is none.
        project: likewise.
        size: height and width of x.
        kernel: of the layer in the middle, as all that follow.
        pads: top, left, bottom, right.
        density: of every sparse weight.
        after: activations of expand, the layer in the middle, project.
        threads: that a run is cut for.
    """

    channels: int = 5
    expand: tuple[int, int] | None = (3, 4)
    spatial: tuple[int, int] | None = None
    project: tuple[int, int] | None = (2, 4)
    batch: int = 1
    size: tuple[int, int] = (9, 10)
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    density: float = 0.5
    after: tuple[After, After, After] = (CLIP, CLIP, After())
    threads: int = 4

    @property
    def middle(self) -> int:
        """Channels that the layer in the middle reads."""
        return self.channels if self.expand is None else self.expand[0] * self.expand[1]

    @property
    def given(self) -> int:
        """Channels that the layer in the middle gives."""
        return self.middle if self.spatial is None else self.spatial[0] * self.spatial[1]

    @property
    def out_channels(self) -> int:
        """Channels of y."""
        return self.given if self.project is None else self.project[0] * self.project[1]

    @property
    def out(self) -> tuple[int, int]:
        """Height and width of y."""
        reach = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        height = (self.size[0] + self.pads[0] + self.pads[2] - reach[0]) // self.stride[0] + 1
        return height, (self.size[1] + self.pads[1] + self.pads[3] - reach[1]) // self.stride[1] + 1

    def shape(self) -> Shape:
        groups = self.middle if self.spatial is None else 1
        pairs = (self.size, self.out, self.kernel, self.stride, self.dilation, self.pads[:2])
        return Shape(self.batch, groups, self.middle, self.given, *(PAIR(*pair) for pair in pairs))

    def layers(self, rng: np.random.Generator, *, whole: bool = True) -> Layers:
        """Random weights: small whole numbers, or normally distributed."""

        def weight(rows: tuple[int, int] | None, depth: int) -> Weight | None:
            if rows is None:
                return None
            return sparse(rng.random((rows[0], depth)) < self.density, rows[1], rng, whole=whole)

        def draw(*shape: int) -> Floats:
            values = rng.integers(-4, 5, shape) if whole else rng.standard_normal(shape)
            return guarded(values.astype(np.float32), writable=False)

        taps = self.kernel[0] * self.kernel[1]
        return Layers(
            weight(self.expand, self.channels),
            weight(self.spatial, self.middle * taps),
            None if self.spatial else draw(self.middle, taps),
            None if self.spatial else draw(self.middle),
            weight(self.project, self.given),
            self.after,
        )

    def image(self, rng: np.random.Generator, *, whole: bool = True) -> Floats:
        shape = (self.batch, self.channels, *self.size)
        return (rng.integers(-4, 5, shape) if whole else rng.standard_normal(shape)).astype(np.float32)


@dataclass(frozen=True)
class Layers:
    """The weights of a chain."""

    expand: Weight | None
    spatial: Weight | None
    depthwise: Floats | None
    depthwise_bias: Floats | None
    project: Weight | None
    after: tuple[After, After, After]

    def struct(self) -> ChainStruct:
        """What the kernel takes; it points into these arrays."""

        def pointer(weight: Weight | None) -> Any:
            return None if weight is None else ctypes.pointer(weight.struct)

        def data(array: Floats | None) -> int | None:
            return None if array is None else array.ctypes.data

        return ChainStruct(
            pointer(self.expand),
            pointer(self.spatial),
            data(self.depthwise),
            data(self.depthwise_bias),
            pointer(self.project),
            (Epilogue * 3)(*(after.epilogue() for after in self.after)),
        )


@dataclass(frozen=True)
class Expected:
    """What a chain computes in exact arithmetic.

    Attributes:
        value: the values.
        error: how far from them a computation in float32 may be.
        largest: of the terms of any sum, added up without their signs; whole numbers are exact below 2^24.
    """

    value: npt.NDArray[np.float64]
    error: npt.NDArray[np.float64]
    largest: float = 0.0

    def add(self, residual: npt.NDArray[np.float32]) -> Expected:
        value = self.value + residual
        return Expected(value, self.error + EPS * np.abs(value), self.largest + float(np.abs(residual).max()))

    def activate(self, after: After) -> Expected:
        """No activation is steeper than 3/2; those that round make a few errors of their own."""
        value = activate(self.value, after.activation, after.a, after.b)
        if after.activation in ("none", "relu", "clip"):
            return Expected(value, self.error, self.largest)
        return Expected(value, 1.5 * self.error + EPS * (4 * np.abs(value) + np.abs(self.value)), self.largest)


def multiply(w: npt.NDArray[Any], x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """y[batch, rows, ...] = w[rows, channels] x[batch, channels, ...]."""
    return np.moveaxis(np.tensordot(w.astype(np.float64), x, (1, 1)), 0, 1)


def convolve(chain: Chain, w: npt.NDArray[Any], x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The layer in the middle: w[channels, taps] of a depthwise one, or w[rows, channels taps]."""
    top, left, bottom, right = chain.pads
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    height, width = chain.out
    y = np.zeros((chain.batch, chain.given, height, width))
    for tap in range(chain.kernel[0] * chain.kernel[1]):
        i, j = tap // chain.kernel[1] * chain.dilation[0], tap % chain.kernel[1] * chain.dilation[1]
        rows = slice(i, i + (height - 1) * chain.stride[0] + 1, chain.stride[0])
        columns = slice(j, j + (width - 1) * chain.stride[1] + 1, chain.stride[1])
        seen = padded[:, :, rows, columns]
        if chain.spatial is None:
            y += w[:, tap, None, None] * seen
        else:
            y += multiply(w.reshape(chain.given, chain.middle, -1)[:, :, tap], seen)
    return y


def reference(chain: Chain, layers: Layers, x: Floats, residual: Floats | None = None) -> Expected:
    """y[batch, out_channels, height, width] layer after layer, by the definition; project adds the residual."""

    def layer(x: Expected, w: Floats, bias: Floats, terms: int, apply: Any) -> Expected:
        value = apply(w, x.value) + bias[:, None, None]
        magnitude = apply(np.abs(w), np.abs(x.value) + x.error) + np.abs(bias[:, None, None])
        error = apply(np.abs(w), x.error) + (terms + 1) * EPS * magnitude
        return Expected(value, error, max(x.largest, float(magnitude.max())))

    def across(w: npt.NDArray[Any], x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return convolve(chain, w, x)

    y = Expected(x.astype(np.float64), np.zeros(x.shape))
    if layers.expand is not None:
        y = layer(y, layers.expand.dense, layers.expand.bias, chain.channels, multiply).activate(layers.after[0])
    if layers.spatial is not None:
        y = layer(y, layers.spatial.dense, layers.spatial.bias, layers.spatial.struct.depth, across)
    elif layers.depthwise is not None and layers.depthwise_bias is not None:
        y = layer(y, layers.depthwise, layers.depthwise_bias, layers.depthwise.shape[1], across)
    y = y.activate(layers.after[1])
    if layers.project is not None:
        y = layer(y, layers.project.dense, layers.project.bias, chain.given, multiply)
        y = (y if residual is None else y.add(residual)).activate(layers.after[2])
    return y


Schedule = Callable[[int], list[tuple[int, int]]]
"""Of so many tasks: pairs of a task and the scratch that it runs on, in the order in which they run."""


def _by_two_threads(tasks: int) -> list[tuple[int, int]]:
    rng = np.random.default_rng(tasks)
    return [(task, int(rng.integers(2))) for task in range(tasks)]


def _shuffled(tasks: int) -> list[tuple[int, int]]:
    return [(int(task), 0) for task in np.random.default_rng(tasks).permutation(tasks)]


SCHEDULES: dict[str, Schedule] = {
    "ascending": lambda tasks: [(task, 0) for task in range(tasks)],
    "descending": lambda tasks: [(task, 0) for task in reversed(range(tasks))],
    "shuffled": _shuffled,
    "every second, then the others": lambda tasks: [(t, 0) for t in (*range(0, tasks, 2), *range(1, tasks, 2))],
    "two threads": _by_two_threads,
    "fresh scratches": lambda tasks: [(task, task) for task in range(tasks)],
    "fresh scratches, descending": lambda tasks: [(task, task) for task in reversed(range(tasks))],
}


@cache
def kernels() -> Any:
    loaded = library.load()
    plan, offsets, task = (getattr(loaded, f"lissom_f32_sparse_chain_{name}") for name in ("plan", "offsets", "task"))
    plan.restype = ctypes.c_int32
    plan.argtypes = [ctypes.POINTER(Shape), ctypes.POINTER(ChainStruct), ctypes.c_int64, ctypes.POINTER(Plan)]
    offsets.restype, offsets.argtypes = None, [ctypes.POINTER(Plan), ctypes.POINTER(ChainStruct), POINTER]
    task.restype = None
    task.argtypes = [
        *(ctypes.POINTER(Plan), ctypes.POINTER(ChainStruct), POINTER, POINTER, POINTER, POINTER),
        *(ctypes.c_int64, POINTER, ctypes.POINTER(ctypes.c_int64)),
    ]
    return loaded


def plan_of(chain: Chain, layers: Layers) -> Plan:
    plan = Plan()
    assert kernels().lissom_f32_sparse_chain_plan(chain.shape(), layers.struct(), chain.threads, plan) == 0
    return plan


def run(
    chain: Chain,
    layers: Layers,
    x: Floats,
    residual: Floats | None = None,
    schedule: Schedule = SCHEDULES["ascending"],
    *,
    front: bool = False,
    before: Callable[[Floats, Plan, int], None] | None = None,
) -> Floats:
    """y[batch, out_channels, height, width], all arrays guarded; scratches are full of NaN at first.

    Args:
        schedule: which tasks run on which scratch, and in which order.
        front: the arrays begin right after guard pages, not end right before them.
        before: is given x, the plan and the number of a task before that runs, and may write to x.
    """
    plan, struct = plan_of(chain, layers), layers.struct()
    offset = guarded(np.full(plan.offsets, -1, np.int32), front=front)
    kernels().lissom_f32_sparse_chain_offsets(plan, struct, offset.ctypes.data)
    source = guarded(x, front=front, writable=before is not None)
    added = None if residual is None else guarded(residual, front=front, writable=False)
    y = guarded(np.full((chain.batch, chain.out_channels, *chain.out), np.nan, np.float32), front=front)
    scratches: dict[int, tuple[Floats, ctypes.c_int64]] = {}
    for task, number in schedule(plan.tasks):
        if number not in scratches:
            empty = np.full(plan.scratch, np.nan, np.float32)
            scratches[number] = guarded(empty, front=front), ctypes.c_int64(-1)
        scratch, packed = scratches[number]
        if before is not None:
            before(source, plan, task)
        kernels().lissom_f32_sparse_chain_task(
            plan,
            struct,
            offset.ctypes.data,
            source.ctypes.data,
            None if added is None else added.ctypes.data,
            y.ctypes.data,
            task,
            scratch.ctypes.data,
            packed,
        )
        assert packed.value == task
    return y
