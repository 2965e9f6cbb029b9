"""Scores of the original and of candidates on the same samples and the same provider."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from lissom_runtime.accuracy import Score, evaluate_all, require_metric
from lissom_runtime.errors import UsageError, VerificationError
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.session import open_session, run_session

from lissom.data import Dataset, Feeds, InputSpec, random_like
from lissom.progress import Progress, silent

BATCH = 32
"""Most samples per run where the model leaves the batch free."""

BATCH_BYTES = 512 * 2**20
"""Memory for what the layers read and give in one run, where fewer samples take less."""

RANDOM_INPUTS = 16
"""Inputs that stand for data when there are none."""


class Scorer:
    """Scores models on one data set, or on random inputs when there is none.

    Args:
        original: the original model, serialized or its path.
        data: validation samples, or None for seeded random inputs shaped like `feeds`.
        feeds: one input of the model.
        provider: where the models run.
        metric: the first score; None chooses "top1" with labels and "agreement" without.
        batch: samples per run.
        progress: shows how far scoring is.
    """

    def __init__(
        self,
        original: bytes | Path,
        data: Dataset | None,
        feeds: Feeds,
        provider: ProviderRequest,
        metric: str | None,
        batch: int,
        progress: Progress = silent,
    ) -> None:
        self._original = open_session(original, provider)
        self._data = data
        self._feeds = feeds
        self._provider = provider
        self._batch = batch
        self._progress = progress
        self.metrics = self._choose(metric)
        self._before: dict[str, Score] = {}

    @property
    def source(self) -> str:
        """Where the samples come from."""
        return "seeded random inputs" if self._data is None else self._data.name

    def goal(self, compressed: bytes | Path) -> tuple[Score, Score]:
        """Score of the original and of `compressed` in the first metric."""
        return self._score(compressed, self.metrics[:1])[0]

    def all(self, compressed: bytes | Path) -> list[tuple[Score, Score]]:
        """Scores of the original and of `compressed` in every metric."""
        return self._score(compressed, self.metrics)

    def require_original(self) -> None:
        """Scores the original, so that labels or outputs that are wrong show before long work.

        Raises:
            UsageError: labels are no classes of the model, or an output of the original is NaN or infinite.
        """
        self._score_original(self.metrics)

    def _choose(self, metric: str | None) -> Sequence[str]:
        labelled = self._data is not None and self._data.read(0, 1)[1] is not None
        if metric is not None:
            require_metric(metric)
            if metric in ("top1", "top5") and not labelled:
                raise UsageError(f"expected labels for the metric {metric!r}, but {self.source} has none")
            return (metric,)
        if labelled and self._classifies:
            return ("top1", "agreement", "output")
        # On random inputs most networks name one class whatever they are given: agreement would say nothing.
        return ("agreement", "output") if self._classifies and self._data is not None else ("output",)

    @cached_property
    def _classifies(self) -> bool:
        """Whether the first output is scores[n, classes] of more than one class."""
        shape = np.shape(run_session(self._original, self._feeds)[0])
        return len(shape) == 2 and shape[1] > 1

    def _score(self, compressed: bytes | Path, metrics: Sequence[str]) -> list[tuple[Score, Score]]:
        self._score_original(metrics)
        session = open_session(compressed, self._provider)
        after = evaluate_all(session, self._samples(), metrics, self._original)
        return [(self._before[score.name], score) for score in after]

    def _score_original(self, metrics: Sequence[str]) -> None:
        """Scores the original in the metrics in which it was not scored before."""
        missing = [metric for metric in metrics if metric not in self._before]
        if not missing:
            return
        try:
            scores = evaluate_all(self._original, self._samples(), missing, self._original)
        except VerificationError as error:
            raise UsageError(
                f"expected a model that can be scored on {self.source}, but the original is not: {error}"
            ) from error
        self._before |= dict(zip(missing, scores, strict=True))

    def _samples(self) -> Iterator[tuple[Feeds, npt.NDArray[Any] | None]]:
        if self._data is None:
            for seed in range(RANDOM_INPUTS):
                yield random_like(self._feeds, seed), None
        else:
            starts = range(0, self._data.size, self._batch)
            for start in self._progress(starts, "scoring"):
                yield self._data.read(start, min(start + self._batch, self._data.size))


def drop_of(before: float, after: float, kind: Literal["absolute", "relative"]) -> float:
    """What was lost: the difference of the scores, or its share of the original's."""
    return before - after if kind == "absolute" else (before - after) / abs(before) if before else 0.0


def batch_size(specs: Sequence[InputSpec], sample_bytes: int = 0) -> int:
    """Samples per run: what the first input fixes, or a power of two up to `BATCH`.

    Args:
        specs: the inputs of the model.
        sample_bytes: what one sample takes; as many as fit into `BATCH_BYTES` are run at once, at least one.
    """
    fixed = specs[0].shape[0] if specs and specs[0].shape else None
    most = max(BATCH_BYTES // max(sample_bytes, 1), 1)
    return fixed or min(BATCH, 1 << (most.bit_length() - 1))
