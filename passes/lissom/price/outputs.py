"""How far the outputs of a changed network are from the original's: what is called its *distortion*.

    classifier (first output [n, classes])   mean over n of Σ_c p log(p / q) in nats, p and q the classes'
                                             probabilities in the original and in the changed network
    anything else                            Σ (ŷ − y)² / Σ y² over all outputs

Sums are taken batch by batch in float64, so that outputs of any size need no second copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from lissom_runtime.errors import UsageError
from scipy.special import log_softmax

from lissom.options import FloatArray

FLOOR = 1e-12
"""A distortion below this is rounding."""

Array = npt.NDArray[Any]


def distortion(batches: Iterable[tuple[Sequence[Array], Sequence[Array]]], classifies: bool) -> float:
    """The distortion of the outputs over all samples.

    Args:
        batches: the outputs of the original and those of the changed network, batch by batch.
        classifies: the first output is scores or probabilities [n, classes].

    Raises:
        UsageError: an output is NaN or infinite.
    """
    missed = scale = 0.0
    for original, changed in batches:
        for values in (*original, *changed):
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise UsageError("expected finite outputs on the calibration data, but got a NaN or an infinity")
        if classifies:
            before, after = (_log_probabilities(outputs[0].astype(np.float64)) for outputs in (original, changed))
            missed += float((np.exp(before) * (before - after)).sum())
            scale += len(before)
        else:
            for value, other in zip(original, changed, strict=True):
                exact = value.astype(np.float64)
                scale += float(np.vdot(exact, exact))
                exact -= other
                missed += float(np.vdot(exact, exact))
    return missed / scale if scale else 0.0


def classifies(proto: onnx.ModelProto) -> bool:
    """Whether the first output of a network is declared as the scores [n, classes] of more than one class."""
    declared = proto.graph.output[0].type.tensor_type
    classes = declared.shape.dim[1].dim_value if len(declared.shape.dim) == 2 else 0
    return classes != 1 and len(declared.shape.dim) == 2


def _log_probabilities(scores: FloatArray) -> FloatArray:
    """Log probabilities[n, classes] of scores, or of what is a probability already."""
    if (scores >= 0).all() and np.allclose(scores.sum(axis=1), 1, atol=1e-3):
        return np.asarray(np.log(np.maximum(scores, FLOOR)))
    return np.asarray(log_softmax(scores, axis=1))
