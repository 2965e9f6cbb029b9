"""How much a changed copy of a network loses on some samples: its score, and the distortion of its outputs.

The original's outputs are computed once and kept; of the samples and of a copy's outputs there is a batch at a time,
where the samples are `Read`. The score is, by what the samples and the outputs are,

    top1         labels and classes    share of samples whose best class is the label
    agreement    classes, no labels*   share of samples whose best class is the original's
    output       anything else         minus the distortion

(* or labels that are not one whole number a sample). The distortion is that of `price.outputs`, as for all options.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from lissom_runtime.session import open_session, run_session

from lissom.data import Dataset, Feeds
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


@dataclass(frozen=True)
class Read:
    """Samples that are read anew whenever they are gone through.

    Attributes:
        data: where they come from.
        batch: samples of a batch; the last one may have fewer.
    """

    data: Dataset
    batch: int

    def __iter__(self) -> Iterator[Sample]:
        """The batches."""
        return self.data.batches(self.batch)


class Judge:
    """Judges copies of a network.

    Args:
        original: the network.
        samples: what they are judged on, batch by batch, at least one; gone through once for each network.

    Attributes:
        samples: as given.
        metric: what the scores are.
    """

    def __init__(self, original: Model, samples: Iterable[Sample]) -> None:
        proto = original.to_proto()
        self.samples = samples
        self._names = [value.name for value in proto.graph.output]
        self._classifies = classifies(proto)
        self._original: list[Sequence[Array]] = []
        labelled = self._classifies
        for labels, outputs in self._run(original):
            self._original.append(outputs)
            labelled &= _are_classes(labels)
        self.metric: Metric = "top1" if labelled else "agreement" if self._classifies else "output"

    def __call__(self, model: Model) -> Verdict:
        """The verdict on a copy.

        Raises:
            UsageError: an output is NaN or infinite.
        """
        hits = 0

        def pairs() -> Iterator[tuple[Sequence[Array], Sequence[Array]]]:
            """The outputs of the original and of the copy, whose hits are counted on the way."""
            nonlocal hits
            for before, (labels, after) in zip(self._original, self._run(model), strict=True):
                if self.metric != "output":
                    right = before[0].argmax(axis=1) if self.metric == "agreement" else labels
                    hits += int(np.count_nonzero(after[0].argmax(axis=1) == right))
                yield before, after

        lost = distortion(pairs(), self._classifies)
        if self.metric == "output":
            return Verdict(-lost, lost)
        return Verdict(hits / sum(len(outputs[0]) for outputs in self._original), lost)

    def _run(self, model: Model) -> Iterator[tuple[Array | None, Sequence[Array]]]:
        """Labels and outputs, batch by batch."""
        session = open_session(model.to_proto().SerializeToString())
        return ((labels, run_session(session, feeds, self._names)) for feeds, labels in self.samples)


def _are_classes(labels: Array | None) -> bool:
    """Whether labels are one class a sample."""
    return labels is not None and labels.ndim == 1 and labels.dtype.kind in "iu"
