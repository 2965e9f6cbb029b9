"""Sparse weights and epilogues as the kernels take them (runtime/kernels/sparse.h), and what they must compute."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from kernels.guarded import guarded
from lissom_runtime.contract import ACTIVATIONS, Activation

Floats = npt.NDArray[np.float32]


class SparseStruct(ctypes.Structure):
    """`lissom_f32_sparse`."""

    _fields_ = (
        ("rows", ctypes.c_int64),
        ("depth", ctypes.c_int64),
        ("block", ctypes.c_int64),
        ("row_ptr", ctypes.c_void_p),
        ("columns", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    )


class Epilogue(ctypes.Structure):
    """`lissom_epilogue`."""

    _fields_ = (("activation", ctypes.c_int32), ("a", ctypes.c_float), ("b", ctypes.c_float))


EPS = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Weight:
    """A sparse weight in guarded, read-only arrays.

    Attributes:
        dense: weight[rows, depth].
        bias: bias[rows].
        struct: what a kernel takes.
        arrays: what the struct points into.
    """

    dense: Floats
    bias: Floats
    struct: SparseStruct
    arrays: Sequence[npt.NDArray[Any]]


def sparse(pattern: npt.NDArray[np.bool_], block: int, rng: np.random.Generator, *, whole: bool = True) -> Weight:
    """A weight whose stored blocks are those of pattern[rows / block, depth], with random values.

    Args:
        pattern: where blocks are stored.
        block: rows that share a row of the pattern.
        rng: where the values come from.
        whole: small whole numbers, whose sums are exact; otherwise normally distributed.
    """

    def draw(*shape: int) -> Floats:
        values = rng.integers(-4, 5, shape) if whole else rng.standard_normal(shape)
        return values.astype(np.float32)

    block_rows, depth = pattern.shape
    row, column = np.nonzero(pattern)
    values = draw(len(row), block)
    dense = np.zeros((block_rows, block, depth), np.float32)
    dense[row, :, column] = values
    bias = draw(block_rows * block)
    pointers = np.concatenate([[0], np.cumsum(pattern.sum(axis=1))])
    arrays = [
        guarded(array, writable=False) for array in (pointers.astype(np.int32), column.astype(np.int32), values, bias)
    ]
    struct = SparseStruct(block_rows * block, depth, block, *(array.ctypes.data for array in arrays))
    return Weight(dense.reshape(-1, depth), bias, struct, arrays)


def epilogue(activation: Activation = "none", a: float = 0.0, b: float = 0.0) -> Epilogue:
    return Epilogue(ACTIVATIONS.index(activation), a, b)


def within_rounding(got: Floats, weight: Weight, x: Floats, activation: Activation, a: float, b: float) -> bool:
    """Whether got[rows] is activation(bias + W x) up to what float32 sums of K = columns terms may be off by."""
    expected = activate(weight.dense.astype(np.float64) @ x + weight.bias, activation, a, b)
    magnitude = np.abs(weight.dense).astype(np.float64) @ np.abs(x) + np.abs(weight.bias)
    terms = weight.dense.shape[1] + 1
    return bool((np.abs(got - expected) <= terms * EPS * (magnitude + 1)).all())


def activate(v: npt.NDArray[Any], activation: Activation, a: float, b: float) -> npt.NDArray[Any]:
    """What an activation makes of v, in v's precision."""
    match activation:
        case "none":
            return v
        case "relu":
            return np.where(v < 0, 0, v)
        case "clip":
            return np.clip(v, a, b)
        case "leaky_relu":
            return np.where(v < 0, np.float32(a) * v, v)
        case "hard_swish":
            return v * np.clip(v / 6 + 0.5, 0, 1)
        case "silu":
            return v / (1 + np.exp(-v))
        case "thresholded_relu":
            return np.where(v > a, v, 0)
        case "shrink":
            return np.where(np.abs(v) > a, v, 0)
