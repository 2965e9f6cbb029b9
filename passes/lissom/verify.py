"""Whether two models compute the same, within what float32 sums in another order explain."""

from __future__ import annotations

from typing import Any

import numpy as np
from lissom_runtime.errors import LoadError, UsageError, VerificationError
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.session import open_session, run_session

from lissom.data import Feeds
from lissom.graph.model import Model
from lissom.graph.random import random_outputs
from lissom.graph.spec import require_valid

TOLERANCE = 1e-3
"""Largest accepted difference between what a graph computes and what it must, relative to
the largest output. Float32 sums in another order stay two orders of magnitude below."""

LEAST_SCALE = 1e-3
"""Outputs that stay below this everywhere are compared with it: a saturated sigmoid leaves rounding only."""


def require_same(
    expected: Model, actual: Model, feeds: Feeds, what: str, provider: ProviderRequest | None = None
) -> float:
    """Compares two models on one input.

    Args:
        expected: what is right, run on the CPU.
        actual: what is compared with it.
        feeds: the input.
        what: names `actual` in messages.
        provider: where `actual` runs; default: the CPU.

    Returns:
        The largest difference of any output, relative to the largest value of that output.

    Raises:
        LoadError: ONNX Runtime cannot run `expected`.
        UsageError: they differ in an output that is random.
        VerificationError: `actual` is not a valid model, does not run, or differs by more than `TOLERANCE`.
    """
    original, proto = expected.to_proto(), actual.to_proto()
    require_valid(proto, original)
    wanted = run_session(open_session(original.SerializeToString()), feeds)
    try:
        got = run_session(open_session(proto.SerializeToString(), provider), feeds)
    except LoadError as error:
        raise VerificationError(f"expected {what} to run like what it was made from, but: {error}") from error
    drawn = random_outputs(expected)
    worst = 0.0
    for value, other, declared in zip(wanted, got, actual.outputs, strict=True):
        alike = np.shape(value) == np.shape(other)
        difference = _difference(value, other) if alike else float("inf")
        if difference > TOLERANCE and declared.name in drawn:
            node = drawn[declared.name]
            raise UsageError(
                f"expected outputs that are the same in every run, but {declared.name!r} depends on the random "
                f"numbers of node {node.name or node.outputs[0].name!r} ({node.op})"
            )
        if not alike:
            raise VerificationError(
                f"expected output {declared.name!r} of shape {list(np.shape(value))}, but {what} gives "
                f"{list(np.shape(other))}"
            )
        worst = max(worst, difference)
    if worst > TOLERANCE:
        raise VerificationError(
            f"expected {what} to compute what was planned within {TOLERANCE:g} of the largest output, "
            f"but it is off by {worst:.3g}"
        )
    return worst


def _difference(value: Any, other: Any) -> float:
    """How far two outputs are apart.

    Numbers: the largest difference over the largest value (at least `LEAST_SCALE`); positions that are equal,
    infinities and NaN included, count as 0. Whole numbers and truth values are decisions, which rounding may
    tip: the share of positions that differ. Strings must be equal.
    """
    a, b = np.asarray(value), np.asarray(other)
    if a.size == 0 or a.dtype == object or a.dtype.kind in "SU":
        return 0.0 if np.array_equal(a, b) else float("inf")
    if a.dtype.kind in "biu":
        return float(np.mean(a != b))
    a, b = a.astype(np.float64), b.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0
    scale = np.abs(a[np.isfinite(a)]).max(initial=LEAST_SCALE)
    gap = float(np.abs(a - b)[~same].max())
    return gap / float(scale) if np.isfinite(gap) else float("inf")
