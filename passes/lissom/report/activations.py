"""Masks, sensitivity curves and what is left of the multiply-accumulates, as report data."""

from __future__ import annotations

from lissom.activations.accounting import Account
from lissom.activations.finish import Masked
from lissom.activations.insert import Static
from lissom.activations.judge import Metric
from lissom.activations.rates import rate_of
from lissom.activations.sensitivity import Curve
from lissom.options import Plan
from lissom.pipeline import Study
from lissom.report.schema import AccountEntry, ActivationsEntry, CurveEntry, MaskEntry


def activations_entry(study: Study, plan: Plan, masked: Masked | None) -> ActivationsEntry | None:
    """What was done to the activations; None where the recipe offers no masks."""
    if study.activations is None or masked is None:
        return None
    return ActivationsEntry(
        masks=[
            _mask(masked, site, member.tensor, rate_of(plan.options[site]), study.recipe.winners.form)
            for site, group in study.activations.found.groups.items()
            if site in plan.changed
            for member in group
        ],
        sensitivity=[CurveEntry.model_validate(curve) for curve in plan.sensitivity],
        account=account_entry(masked.account),
    )


def account_entry(account: Account) -> AccountEntry:
    """What is left of all layers."""
    return AccountEntry.model_validate(account.to_json())


def curve_entry(curve: Curve, metric: Metric) -> CurveEntry:
    """The sensitivity of one group."""
    return CurveEntry.model_validate({"metric": metric, **curve.to_json()})


def _mask(masked: Masked, group: str, tensor: str, rate: float, form: str) -> MaskEntry:
    mask = masked.masks.get(tensor)
    shared = isinstance(mask, Static) and len(mask.thresholds) == 1
    return MaskEntry(
        tensor=tensor,
        group=group,
        form=form,
        rate=rate,
        threshold=float(mask.thresholds[0]) if isinstance(mask, Static) and shared else None,
        inserted=mask is not None,
    )
