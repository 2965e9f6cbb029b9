"""How good a model's outputs are, batch by batch; memory does not grow with the number of samples.

| metric | value | needs |
|---|---|---|
| `top1`, `top5` | share of samples whose label is (among) the best classes | labels |
| `agreement` | share of samples whose best class is the reference model's | reference |
| `output` | signal-to-noise of the outputs against the reference's, dB; of several outputs the worst | reference |
| `MODULE:FUNCTION` | mean of the scores that `FUNCTION(outputs by name, labels)` returns, one a sample | (its own) |

More is better for all. The first three read the first output as scores [n, classes]; ties go to the lower class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lissom_runtime.errors import UsageError, VerificationError
from lissom_runtime.functions import load_function
from lissom_runtime.latency import Feeds, Runnable
from lissom_runtime.ort_errors import reported

Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]
Batch = tuple[Feeds, Array | None]
"""Arrays by input name, with the sample along axis 0, and one label a sample (or none)."""

COMPARING = frozenset({"agreement", "output"})
"""Metrics that compare with the reference's outputs and need no labels."""

IDENTICAL_DB = 200.0
"""Signal-to-noise that stands for equal outputs; float32 rounding alone leaves about 150 dB."""


class Model(Runnable, Protocol):
    """A session whose outputs have names; `onnxruntime.InferenceSession` is one."""

    def get_outputs(self) -> Sequence[Any]:
        """Descriptions of the outputs, each with a `name`."""
        ...


@dataclass(frozen=True)
class Score:
    """The value of a metric over `n` samples; `name` is the metric's."""

    value: float
    n: int
    name: str

    def to_json(self) -> dict[str, Any]:
        """All fields, for a report."""
        return asdict(self)


class Meter(Protocol):
    """Accumulates one metric."""

    def add(self, outputs: Outputs, labels: Array | None, reference: Outputs) -> None:
        """Takes in a batch; `reference` is empty when there is no reference model."""
        ...

    def value(self) -> float:
        """The metric over all samples so far (at least one)."""
        ...


def evaluate(model: Model, batches: Iterable[Batch], metric: str, reference: Model | None = None) -> Score:
    """The value of one metric for `model` over `batches`; see `evaluate_all`."""
    return evaluate_all(model, batches, [metric], reference)[0]


def evaluate_all(
    model: Model, batches: Iterable[Batch], metrics: Sequence[str], reference: Model | None = None
) -> list[Score]:
    """The values of several metrics for `model` over `batches`, in one pass.

    Args:
        model: what is judged.
        batches: feeds and labels; read once, one at a time.
        metrics: some of the table above.
        reference: the original model, for the metrics that compare with it; it runs only when one of them is asked.

    Raises:
        UsageError: a metric is unknown, lacks its labels or its reference, does not fit the outputs, or there is no
            batch.
        VerificationError: an output is not finite.
    """
    meters = [_meter(metric) for metric in metrics]
    compared = [metric for metric in metrics if metric in COMPARING]
    if compared and reference is None:
        raise UsageError(f"expected a reference model for the metric {compared[0]!r}, got none")
    count = 0
    for feeds, labels in batches:
        outputs = _run(model, feeds)
        expected = _run(reference, feeds) if compared and reference is not None else {}
        for meter in meters:
            meter.add(outputs, labels, expected)
        count += len(next(iter(feeds.values())))
    if count == 0:
        raise UsageError(f"expected at least one sample for {', '.join(metrics)}, got none")
    return [Score(meter.value(), count, metric) for meter, metric in zip(meters, metrics, strict=True)]


def require_metric(metric: str) -> None:
    """Checks the name of a metric before long work is done for it.

    Raises:
        UsageError: there is no such metric, or its function cannot be imported.
    """
    _meter(metric)


def _meter(metric: str) -> Meter:
    if ":" in metric:
        return _Mean(_user_scores(metric, load_function(metric)))
    meters: dict[str, Callable[[], Meter]] = {
        "top1": lambda: _Mean(lambda outputs, labels, _: _hits(outputs, labels, 1)),
        "top5": lambda: _Mean(lambda outputs, labels, _: _hits(outputs, labels, 5)),
        "agreement": lambda: _Mean(lambda outputs, _, reference: _best(outputs, 1) == _best(reference, 1)),
        "output": _SignalToNoise,
    }
    if metric not in meters:
        raise UsageError(f"expected a metric among {', '.join(meters)} and MODULE:FUNCTION, got {metric!r}")
    return meters[metric]()


class _Mean:
    """Mean of one score a sample."""

    def __init__(self, scores: Callable[[Outputs, Array | None, Outputs], Array]) -> None:
        self._scores = scores
        self._total = 0.0
        self._count = 0

    def add(self, outputs: Outputs, labels: Array | None, reference: Outputs) -> None:
        scores = self._scores(outputs, labels, reference)
        self._total += float(scores.sum(dtype=np.float64))
        self._count += scores.size

    def value(self) -> float:
        return self._total / self._count


class _SignalToNoise:
    """10·log10(Σ reference² / Σ (output - reference)²) of the worst output, dB."""

    def __init__(self) -> None:
        self._energy: dict[str, tuple[float, float]] = {}

    def add(self, outputs: Outputs, labels: Array | None, reference: Outputs) -> None:
        if outputs.keys() != reference.keys():
            raise UsageError(f"expected the reference's outputs {sorted(reference)}, got {sorted(outputs)}")
        for name, expected in reference.items():
            if outputs[name].shape != expected.shape:
                raise UsageError(f"expected {name} of shape {expected.shape}, got {outputs[name].shape}")
            wide = expected.astype(np.float64)
            signal, noise = self._energy.get(name, (0.0, 0.0))
            noise += float(np.sum((outputs[name].astype(np.float64) - wide) ** 2))
            self._energy[name] = signal + float(np.sum(wide**2)), noise

    def value(self) -> float:
        return min(_decibel(signal, noise) for signal, noise in self._energy.values())


def _decibel(signal: float, noise: float) -> float:
    if noise == 0:
        return IDENTICAL_DB
    if signal == 0:
        return -IDENTICAL_DB
    return float(np.clip(10 * (math.log10(signal) - math.log10(noise)), -IDENTICAL_DB, IDENTICAL_DB))


def _run(model: Model, feeds: Feeds) -> dict[str, Array]:
    """Outputs by name, all finite."""
    names = [output.name for output in model.get_outputs()]
    with reported("expected the model to run on the data"):
        outputs = dict(zip(names, model.run(names, feeds), strict=True))
    for name, array in outputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise VerificationError(f"expected finite outputs, got NaN or infinity in {name}")
    return outputs


def _class_scores(outputs: Outputs) -> Array:
    """The first output as scores[n, classes].

    Raises:
        UsageError: it has another shape than [n, classes] with axes of extent 1.
    """
    name, array = next(iter(outputs.items()))
    if array.ndim < 2 or array[:1].size != max(array.shape[1:]) or array.shape[1:] == (1,) * (array.ndim - 1):
        raise UsageError(f"expected class scores [n, classes] in the first output, got {name} of shape {array.shape}")
    return array.reshape(len(array), -1)


def _best(outputs: Outputs, k: int) -> npt.NDArray[np.int64]:
    """The best `k` classes of each sample [n, k], best first."""
    scores = _class_scores(outputs)
    if scores.shape[1] <= k:
        raise UsageError(f"expected more than {k} classes for the best {k}, got {scores.shape[1]}")
    # A stable sort of the reversed classes, reversed, gives descending scores with ties to the lower class.
    reverse = np.argsort(scores[:, ::-1], axis=1, kind="stable")[:, ::-1]
    best: npt.NDArray[np.int64] = scores.shape[1] - 1 - reverse[:, :k]
    return best


def _hits(outputs: Outputs, labels: Array | None, k: int) -> Array:
    """Whether the label of each sample is among its best `k` classes [n].

    Raises:
        UsageError: labels are missing or are no class numbers of this classifier.
    """
    best = _best(outputs, k)
    if labels is None:
        raise UsageError(f"expected labels for the metric top{k}, got data without them")
    if labels.size != len(best) or labels.dtype.kind not in "iu":
        raise UsageError(
            f"expected {len(best)} whole-number labels for that many outputs, got {labels.dtype} of {labels.shape}"
        )
    classes = next(iter(outputs.values()))[:1].size
    if labels.min() < 0 or labels.max() >= classes:
        raise UsageError(f"expected labels from 0 to {classes - 1}, got {labels.min()} to {labels.max()}")
    hits: Array = (best == labels.reshape(-1, 1)).any(axis=1)
    return hits


def _user_scores(name: str, function: Callable[..., Any]) -> Callable[[Outputs, Array | None, Outputs], Array]:
    """Calls the user's function; what it raises, and what is not one finite score a sample, is a `UsageError`."""

    def scores(outputs: Outputs, labels: Array | None, _: Outputs) -> Array:
        try:
            returned = np.asarray(function(dict(outputs), labels))
        except Exception as error:  # the user's code may raise anything
            raise UsageError(f"expected scores from {name}, but got {type(error).__name__}: {error}") from error
        samples = len(next(iter(outputs.values())))
        if returned.shape != (samples,) or returned.dtype.kind not in "fiub" or not np.isfinite(returned).all():
            raise UsageError(
                f"expected {samples} finite scores from {name}, one a sample, got {returned.dtype} {returned.shape}"
            )
        return returned

    return scores
