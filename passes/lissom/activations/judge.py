"""How much a changed copy of a network loses on some samples: its score, and the distortion of its outputs.

The original's outputs are computed once. The score is, by what the samples and the outputs are,

    top1         labels and classes    share of samples whose best class is the label
    agreement    classes, no labels*   share of samples whose best class is the original's
    output       anything else         minus the distortion

(* or labels that are not one whole number a sample). The distortion is that of `price.outputs`, as for all options.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from lissom_runtime.session import open_session, run_session

from lissom.data import Feeds
from lissom.graph.model import Model
from lissom.observe import Array
from lissom.price.outputs import classifies, distortion

Sample = tuple[Feeds, Array | None]
"""A batch, with one label a sample or none."""

Metric = Literal["top1", "agreement", "output"]


@dataclass(frozen=True)
class Verdict:
    """What a network is worth.

    Attributes:
        score: in the metric of the judge; more is better.
        distortion: of the outputs, against the original's.
    """

    score: float
    distortion: float


class Judge:
    """Judges copies of a network.

    Args:
        original: the network.
        samples: what they are judged on, batch by batch, at least one.

    Attributes:
        samples: as given.
        metric: what the scores are.
    """

    def __init__(self, original: Model, samples: Sequence[Sample]) -> None:
        proto = original.to_proto()
        self.samples = samples
        self._names = [value.name for value in proto.graph.output]
        self._classifies = classifies(proto)
        self._original = self._run(original)
        self.metric: Metric = "output"
        if self._classifies:
            self.metric = "top1" if all(_are_classes(labels) for _, labels in samples) else "agreement"

    def __call__(self, model: Model) -> Verdict:
        """The verdict on a copy.

        Raises:
            UsageError: an output is NaN or infinite.
        """
        outputs = self._run(model)
        lost = distortion(zip(self._original, outputs, strict=True), self._classifies)
        if self.metric == "output":
            return Verdict(-lost, lost)
        hits = 0
        for (_, labels), before, after in zip(self.samples, self._original, outputs, strict=True):
            right = before[0].argmax(axis=1) if self.metric == "agreement" else labels
            hits += int(np.count_nonzero(after[0].argmax(axis=1) == right))
        return Verdict(hits / sum(len(outputs[0]) for outputs in self._original), lost)

    def _run(self, model: Model) -> list[Sequence[Array]]:
        session = open_session(model.to_proto().SerializeToString())
        return [run_session(session, feeds, self._names) for feeds, _ in self.samples]


def _are_classes(labels: Array | None) -> bool:
    """Whether labels are one class a sample."""
    return labels is not None and labels.ndim == 1 and labels.dtype.kind in "iu"
