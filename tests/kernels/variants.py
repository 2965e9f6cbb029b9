"""The tables of kernel variants that the library exports, as pytest parameters: no variant escapes a test."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
from lissom_runtime import library


class Variant(ctypes.Structure):
    """`lissom_variant` of runtime/kernels/abi.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("supported", ctypes.CFUNCTYPE(ctypes.c_int32)),
        ("function", ctypes.c_void_p),
    )


def variants(operator: str, signature: Any) -> list[Any]:
    """One parameter for each variant of `operator` and one for its dispatcher.

    Args:
        operator: the name without prefix, "f32_sparse_product".
        signature: a ctypes function type.
    """
    if not library.available():
        skip = pytest.mark.skip(reason=library.describe())
        return [pytest.param(None, id=operator, marks=skip)]
    loaded = library.load()
    table = getattr(loaded, f"lissom_{operator}_variants")
    table.restype, table.argtypes = ctypes.POINTER(Variant), [ctypes.POINTER(ctypes.c_int64)]
    count = ctypes.c_int64()
    rows = table(ctypes.byref(count))
    listed = [pytest.param(signature((f"lissom_{operator}", loaded)), id="dispatcher")]
    for row in rows[: count.value]:
        unsupported = pytest.mark.skip(reason="this processor lacks the instruction set")
        marks = () if row.supported() else unsupported
        listed.append(pytest.param(signature(row.function), id=row.name.decode(), marks=marks))
    return listed
