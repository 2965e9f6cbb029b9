"""Tensors of torch beside the arrays of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

TOLERANCE = 1e-5
"""Largest difference to ONNX Runtime, relative to the value or to the largest one of its output."""

HALF_TOLERANCE = 2e-3
"""The same for float16."""


def tensors(feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Copies of the arrays, for torch."""
    return {name: torch.from_numpy(np.array(values)) for name, values in feeds.items()}


def require_close(wanted: Sequence[Any], got: Mapping[str, Any]) -> None:
    """Whether outputs have the types, shapes and numbers (integers exactly) that they should have."""
    for right, (name, tensor) in zip(map(np.asarray, wanted), got.items(), strict=True):
        other = tensor.detach().numpy()
        assert (right.shape, right.dtype) == (other.shape, other.dtype), name
        if right.dtype.kind != "f":
            np.testing.assert_array_equal(other, right)
            continue
        largest = np.abs(right[np.isfinite(right)].astype(np.float64)).max(initial=0.0)
        share = HALF_TOLERANCE if right.dtype == np.float16 else TOLERANCE
        np.testing.assert_allclose(other, right, rtol=share, atol=share * largest)
