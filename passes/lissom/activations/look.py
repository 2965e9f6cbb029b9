"""What can be pruned of a model's activations, without changing it: curves, chosen rates, and what is left as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lissom_runtime.errors import UsageError

from lissom.activations.accounting import Account, account
from lissom.activations.finish import counted
from lissom.activations.judge import Judge, Metric, Sample
from lissom.activations.price import mask_maker
from lissom.activations.sensitivity import Curve, check_sensitivity
from lissom.activations.survey import survey
from lissom.activations.thresholds import observe_magnitudes
from lissom.canonical import Canonical
from lissom.options import Refusal
from lissom.progress import Progress, silent
from lissom.recipe_tables import Winners


@dataclass(frozen=True)
class Looked:
    """What was found.

    Attributes:
        metric: of the scores of the curves.
        curves: the sensitivity of each group.
        account: what is left of the layers without any mask.
        refusals: activations that cannot be pruned.
    """

    metric: Metric
    curves: Sequence[Curve]
    account: Account
    refusals: Sequence[Refusal]


def look(
    canonical: Canonical,
    asked: Winners,
    calibration: Sequence[Sample],
    validation: Iterable[Sample],
    progress: Progress = silent,
) -> Looked:
    """Sweeps every group of activations of a model.

    Args:
        canonical: the model.
        asked: which rates and masks.
        calibration: samples that thresholds are found from and multiplications counted on, batch by batch.
        validation: samples that judge, batch by batch; gone through once for each point of the curves.
        progress: shows the groups as they are done.

    Raises:
        UsageError: the model has no layer, or an activation or an output is NaN or infinite.
    """
    if not canonical.layers:
        raise UsageError("expected a model with layers for a sensitivity check, but it has none")
    found, model = survey(canonical), canonical.model
    batches = [feeds for feeds, _ in calibration]
    judge = Judge(model, validation)
    mask_at = mask_maker(asked, observe_magnitudes(model, found.sites.sites, batches, asked.per_channel))
    groups = progress(list(found.groups.values()), "sweeping winner rates")
    curves = check_sensitivity(model, groups, found.shapes, mask_at, judge, asked.rates, asked.most_drop)
    left = account(model, canonical.layers, found.sites, counted(batches))
    return Looked(judge.metric, curves, left, found.refusals)
