"""The sparse kernels alone, through their C interface, without ONNX Runtime: one thread.

The arrays of a run are made once and handed over in place; `driver.cc` loops over the tasks, because a call from Python
for each of them would take as long as the task.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from lissom_runtime.contract import ACTIVATIONS
from lissom_runtime.errors import LoadError
from lissom_runtime.latency import Feeds
from lissom_runtime.packing import Packed, block_columns

from benchmarks.kernels.compiler import compiled
from benchmarks.kernels.shapes import ConvShape
from benchmarks.kernels.sparsity import FloatArray

RELU6 = (0.0, 6.0)
"""Limits of the activation "clip" in every benchmark."""

_Pair = ctypes.c_int64 * 2


class Sparse(ctypes.Structure):
    """`lissom_f32_sparse` of runtime/kernels/sparse.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "depth", "block")),
        *((name, ctypes.c_void_p) for name in ("row_ptr", "columns", "values", "bias")),
    )


class Epilogue(ctypes.Structure):
    """`lissom_epilogue` of runtime/kernels/sparse.h."""

    _fields_ = (("activation", ctypes.c_int32), ("a", ctypes.c_float), ("b", ctypes.c_float))


class Conv2d(ctypes.Structure):
    """`lissom_conv2d` of runtime/kernels/sparse_conv/sparse_conv.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "groups", "in_channels", "out_channels")),
        *((name, _Pair) for name in ("in", "out", "kernel", "stride", "dilation", "pad")),
    )


@dataclass(frozen=True, eq=False)
class Weight:
    """A packed weight as the kernels read it; keeps the arrays that `struct` points to alive."""

    struct: Sparse
    arrays: tuple[npt.NDArray[Any], ...]

    @classmethod
    def of(cls, packed: Packed, bias: FloatArray) -> Weight:
        """The weight of a `Packed` of orientation "output".

        Raises:
            ValueError: the packed weight is of the other orientation.
        """
        if packed.orientation != "output":
            raise ValueError(f"expected blocks along output channels, but got orientation {packed.orientation}")
        columns = block_columns(packed).astype(np.int32)
        arrays = (packed.row_ptr, columns, np.ascontiguousarray(packed.values), bias)
        rows, depth = packed.shape[0], prod(packed.shape[1:])
        return cls(Sparse(rows, depth, packed.block, *(array.ctypes.data for array in arrays)), arrays)


class Kernels:
    """Copies of one operator on given arrays, run one after the other, as `chains` has them in a model.

    `latency.compare_many` times it as it times a session.
    """

    def __init__(
        self, handles: Sequence[int | None], x: FloatArray, residual: FloatArray | None, y: FloatArray, keep: object
    ) -> None:
        self._library, self._count, self._keep = _driver(), len(handles), keep
        self._handles = (ctypes.c_void_p * len(handles))(*handles)
        self._arrays, self._y = (x, residual), y
        self._pointers = (x.ctypes.data, None if residual is None else residual.ctypes.data, y.ctypes.data)
        for handle in handles:
            weakref.finalize(self, self._library.bench_delete, handle)
        if not all(handles):
            raise ValueError("expected the kernel to take the shape, but it refused the plan")

    def run(self, output_names: Sequence[str] | None, input_feed: Feeds) -> list[npt.NDArray[Any]]:
        """The last copy's output, in the same memory each time; the input is what the constructor was given."""
        self._library.bench_run(self._handles, self._count, *self._pointers)
        return [self._y]


def conv(
    library: ctypes.CDLL,
    shape: ConvShape,
    weights: Sequence[Weight],
    x: FloatArray,
    residual: FloatArray | None = None,
) -> Kernels:
    """Convolutions of `shape` on x[1, in_channels, height, width], one for each weight.

    Raises:
        LoadError: the library lacks the kernel, or there is no C++ compiler.
        ValueError: the kernel refuses the shape.
    """
    geometry = Conv2d(1, shape.group, shape.in_channels, shape.out_channels)
    for name, pair in (
        *(("in", (shape.height, shape.width)), ("out", shape.out_spatial)),
        *((name, (size, size)) for name, size in (("kernel", shape.kernel), ("stride", shape.stride))),
        *((name, (size, size)) for name, size in (("dilation", 1), ("pad", shape.pad))),
    ):
        setattr(geometry, name, _Pair(*pair))
    functions, epilogue = _functions(library, "conv"), _epilogue(shape.activation)
    new, plan = _driver().bench_conv_new, ctypes.byref(geometry)
    handles = [new(functions, plan, ctypes.byref(weight.struct), ctypes.byref(epilogue)) for weight in weights]
    y = np.zeros((1, shape.out_channels, *shape.out_spatial), np.float32)
    return Kernels(handles, x, residual, y, weights)


def gemm(library: ctypes.CDLL, weight: Weight, x: FloatArray) -> Kernels:
    """One y[m, rows] = x[m, depth] W^T + bias.

    Raises:
        LoadError: the library lacks the kernel, or there is no C++ compiler.
        ValueError: the kernel refuses the shape.
    """
    functions, epilogue = _functions(library, "gemm"), _epilogue("none")
    handle = _driver().bench_gemm_new(functions, len(x), ctypes.byref(weight.struct), ctypes.byref(epilogue))
    return Kernels([handle], x, None, np.zeros((len(x), weight.struct.rows), np.float32), weight)


def _epilogue(activation: str) -> Epilogue:
    low, high = RELU6 if activation == "clip" else (0.0, 0.0)
    return Epilogue(ACTIVATIONS.index(activation), low, high)


def _functions(library: ctypes.CDLL, operator: str) -> Any:
    """Addresses of plan, offsets and task of an operator."""
    names = [f"lissom_f32_sparse_{operator}_{name}" for name in ("plan", "offsets", "task")]
    try:
        addresses = [ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in names]
    except AttributeError as error:
        raise LoadError(f"expected {', '.join(names)} in the kernel library, but got: {error}") from error
    return (ctypes.c_void_p * len(names))(*addresses)


@cache
def _driver() -> ctypes.CDLL:
    driver = ctypes.CDLL(str(compiled("driver", shared=True)))
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    driver.bench_conv_new.argtypes = [pointer] * 4
    driver.bench_gemm_new.argtypes = [pointer, integer, pointer, pointer]
    driver.bench_conv_new.restype = driver.bench_gemm_new.restype = pointer
    driver.bench_run.argtypes, driver.bench_run.restype = [pointer, integer, *[pointer] * 3], None
    driver.bench_delete.argtypes, driver.bench_delete.restype = [pointer], None
    return driver
