"""The sensitivity check: how far the activations of one site, or of one stage, can be pruned by themselves.

One group of sites at a time is masked at each winner rate of a sweep, and the network is judged before any recovery.
The rate that is chosen is the least at which the score has dropped by less than a limit, there and at all milder rates
of the sweep: a lucky point behind a collapse is not trusted. The curve itself is a result.

Source: Integral Pruning on Activations and Weights for Efficient Neural Networks (ICLR 2019 submission): on the network
whose weights are pruned, on validation samples that are drawn from the training data, with a limit of 2 points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any

from lissom_runtime.contract import SAMPLE_SHARE
from lissom_runtime.errors import UsageError

from lissom.activations.insert import Dynamic, Mask, Static, insert
from lissom.activations.judge import Verdict
from lissom.activations.sites import ActivationSite
from lissom.activations.thresholds import Magnitudes
from lissom.graph.model import Model

RATES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05)
"""Winner rates of a sweep, mildest first."""

MOST_DROP = 0.02
"""Share by which the score may drop before recovery: 2 points of accuracy."""

MaskAt = Callable[[str, float], Mask]
"""The mask of a tensor at a winner rate."""


@dataclass(frozen=True)
class Point:
    """A winner rate, and the score and the distortion with the sites of one group pruned to it."""

    rate: float
    score: float
    distortion: float


@dataclass(frozen=True)
class Curve:
    """The sensitivity of one group of sites.

    Attributes:
        tensors: the sites.
        before: what the network without masks is worth.
        points: the sweep, mildest rate first.
        rate: the winner rate that is chosen; 1 where no pruning stays below the limit.
    """

    tensors: Sequence[str]
    before: Verdict
    points: Sequence[Point]
    rate: float

    def to_json(self) -> dict[str, Any]:
        """All figures, for a report."""
        return {**asdict(self), "tensors": list(self.tensors), "points": [asdict(point) for point in self.points]}


def check_sensitivity(
    model: Model,
    groups: Iterable[Sequence[ActivationSite]],
    shapes: Mapping[str, tuple[int, ...]],
    mask_at: MaskAt,
    judge: Callable[[Model], Verdict],
    rates: Sequence[float] = RATES,
    most_drop: float = MOST_DROP,
) -> list[Curve]:
    """Sweeps the winner rate of each group of sites, the others being whole.

    Args:
        model: the model, its weights pruned already; it is not changed.
        groups: what is pruned together (`sites.by_stage`).
        shapes: shape of each site's tensor.
        mask_at: makes the masks (`static_masks`, `dynamic_masks`).
        judge: says what a model is worth (`judge.Judge`).
        rates: winner rates in (0, 1).
        most_drop: the drop of the score stays below it.

    Returns:
        A curve for each group.

    Raises:
        UsageError: a rate is not in (0, 1), or there is none.
    """
    swept = sorted(set(rates), reverse=True)
    if not swept or not 0 < swept[-1] <= swept[0] < 1:
        raise UsageError(f"expected winner rates above 0 and below 1, got {list(rates)}")
    before = judge(model)
    curves = []
    for group in groups:
        names = [site.tensor for site in group]
        points = []
        for rate in swept:
            pruned = model.copy()
            declined = insert(pruned, group, {name: mask_at(name, rate) for name in names}, shapes)
            found = before if len(declined) == len(names) else judge(pruned)
            points.append(Point(rate, found.score, found.distortion))
        safe = list(takewhile(lambda point: before.score - point.score < most_drop, points))
        curves.append(Curve(tuple(names), before, tuple(points), safe[-1].rate if safe else 1.0))
    return curves


def static_masks(magnitudes: Mapping[str, Magnitudes], keeps_nan: bool = False) -> MaskAt:
    """Masks whose thresholds are quantiles of calibration activations."""
    return lambda name, rate: Static(magnitudes[name].thresholds(rate), keeps_nan)


def dynamic_masks(alpha: float = SAMPLE_SHARE) -> MaskAt:
    """Masks that find their thresholds from a share `alpha` of each sample's activations."""
    return lambda _, rate: Dynamic(rate, alpha)


def chosen_masks(curves: Iterable[Curve], mask_at: MaskAt) -> dict[str, Mask]:
    """The masks of all sites at the rates that were chosen, by name of the tensor; whole ones are left out."""
    return {name: mask_at(name, curve.rate) for curve in curves if curve.rate < 1 for name in curve.tensors}
