"""Operators that are planned and run in tasks: sparse_conv and sparse_gemm take the same arguments but for the plan.

sparse_chain has the shape in common with sparse_conv.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from kernels.guarded import guarded
from kernels.weights import Epilogue, Floats, SparseStruct, Weight, epilogue
from lissom_runtime import library

PAIR = ctypes.c_int64 * 2
POINTER = ctypes.c_void_p


class Shape(ctypes.Structure):
    """`lissom_conv2d`."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "groups", "in_channels", "out_channels")),
        *((name, PAIR) for name in ("input", "out", "kernel", "stride", "dilation", "pad")),
    )


@cache
def _functions(name: str, plan: type[ctypes.Structure]) -> tuple[Any, Any]:
    """The functions that fill the offsets and run a task of the operator `name`."""
    loaded = library.load()
    offsets = getattr(loaded, f"lissom_f32_{name}_offsets")
    offsets.restype, offsets.argtypes = None, [ctypes.POINTER(plan), POINTER]
    task = getattr(loaded, f"lissom_f32_{name}_task")
    task.restype = None
    task.argtypes = [
        *(ctypes.POINTER(plan), ctypes.POINTER(SparseStruct), POINTER, POINTER, POINTER, POINTER),
        *(ctypes.POINTER(Epilogue), ctypes.c_int64, POINTER, ctypes.POINTER(ctypes.c_int64)),
    ]
    return offsets, task


def run_tasks(
    name: str,
    plan: Any,
    weight: Weight,
    x: Floats,
    shape: Sequence[int],
    residual: Floats | None = None,
    activation: Epilogue | None = None,
    order: Iterable[int] | None = None,
) -> npt.NDArray[np.float32]:
    """y[shape], all arrays guarded, of the tasks in `order` (default: ascending) on one scratch."""
    fill_offsets, run_task = _functions(name, type(plan))
    offset = guarded(np.zeros(plan.offsets, np.int32))
    fill_offsets(plan, offset.ctypes.data)
    scratch = guarded(np.full(plan.scratch, np.nan, np.float32))
    source = guarded(x, writable=False)
    y = guarded(np.full(tuple(shape), np.nan, np.float32))
    added = None if residual is None else guarded(residual, writable=False)
    packed = ctypes.c_int64(-1)
    for task in range(plan.tasks) if order is None else order:
        run_task(
            plan,
            weight.struct,
            offset.ctypes.data,
            source.ctypes.data,
            None if added is None else added.ctypes.data,
            y.ctypes.data,
            activation or epilogue(),
            task,
            scratch.ctypes.data,
            packed,
        )
    return y
