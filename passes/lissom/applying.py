"""The end of the way of the data: a plan becomes a finished model, which is proven to compute what the plan says.

Surgery, the refit, training if it is asked for, masks, packing, and the comparison, in that order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from lissom.activations.finish import Masked
from lissom.activations.prove import like, on_some
from lissom.canonical import FINISHING, Totals, totals
from lissom.graph.count import mac_tensors
from lissom.graph.model import Model
from lissom.graph.spec import require_legal
from lissom.graph.steps import apply_steps
from lissom.kinds import KINDS
from lissom.nodes.narrow import Narrow, narrow
from lissom.observe import affordable, observe_moments, observe_shapes
from lissom.options import Plan, Refusal
from lissom.pipeline import Study, known_moments
from lissom.refitting.fit import Fit
from lissom.refitting.norms import put_norms
from lissom.refitting.refit import Judged, Refitted, fitted, refit
from lissom.sparse.lower import pack_layers, require_native
from lissom.sparse.storage import Storage
from lissom.surgery import Cut, storage_of
from lissom.surgery import cut as cut_layers
from lissom.verify import require_same


@dataclass(frozen=True)
class Candidate:
    """A compressed model and what was decided for it.

    Attributes:
        model: the compressed model.
        plan: the option of each site.
        totals: the size of the model as it would be written.
        max_difference: largest difference to the plan's weights put into the original graph,
            relative to the largest output.
        judged: what came of the refit of each layer that was tried.
        storage: what each sparse layer takes to store, as the Scalpel paper counts.
        masked: the masks behind its activations and what is left of it, when the recipe offers masks.
    """

    model: Model
    plan: Plan
    totals: Totals
    max_difference: float
    judged: Mapping[str, Judged] = field(default_factory=dict)
    storage: Mapping[str, Storage] = field(default_factory=dict)
    masked: Masked | None = None


def apply(study: Study, plan: Plan, train: Callable[[Model], None] | None = None) -> Candidate:
    """Puts the plan's options into a copy of the model, refits it, and proves that the copy computes them.

    `train` gives the constants of the copy other numbers before layers are packed; packing alone is proven then.

    Raises:
        UsageError: an activation of the network is NaN or infinite on the calibration data.
        VerificationError: the result is not legal, not valid, or computes something else.
    """
    study, plan, narrowed = _narrow(study, plan)
    cut, refitted = _cut(study, plan, {}), Refitted()
    slow = _slow_masks(study, plan, cut)
    if study.recipe.refit.enabled:
        refitted = _refit(study, plan, cut, slow)
        if refitted.fits:
            cut = _cut(study, plan, refitted.fits)
        for model in (cut.edited, cut.expected):
            put_norms(model, refitted.norms)
    if train is not None:
        train(cut.edited)
        cut = replace(cut, expected=cut.edited.copy())

    finish = partial(_finish, study, plan, refitted.fits)
    masked: Masked | None = None
    if study.activations is None:
        edited, expected, inputs = cut.edited, cut.expected, [study.canonical.feeds]
        unpacked = finish(edited)
    else:
        masked = study.activations.put(plan, slow, cut.edited, cut.expected, finish)
        edited, expected, unpacked = masked.edited, masked.expected, masked.refusals
        inputs = list(like(study.canonical.feeds, study.activations.batches))
    difference = on_some(lambda feeds: require_same(expected, edited, feeds, "the compressed model"), inputs)
    on_some(lambda feeds: require_native(expected, edited, feeds), inputs)
    judged, refusals = dict(refitted.judged), [*refitted.refusals, *unpacked]
    if narrowed is not None:
        difference = max(difference, narrowed.max_difference)
        judged, refusals = {**narrowed.judged, **judged}, [*narrowed.refusals, *refusals]
    plan = replace(plan, refusals=(*plan.refusals, *refusals))
    weights = {name: dense.weight for name, dense in cut.numbers.items()}
    if masked is not None:
        weights |= {layer.name: layer.weight for layer in masked.layers}
    stored = storage_of(study.canonical.layers, plan.options, weights)
    return Candidate(edited, plan, _size(study, edited, masked), difference, judged, stored, masked)


def _finish(study: Study, plan: Plan, fits: Mapping[str, Fit], edited: Model) -> Sequence[Refusal]:
    """What is done to a network behind surgery, in place; gives what was declined."""
    require_legal(edited, after="apply")
    declined = pack_layers(edited, study.canonical.layers, plan.options, fits, study.canonical.feeds)
    apply_steps(edited, FINISHING)
    return declined


def _slow_masks(study: Study, plan: Plan, cut: Cut) -> Mapping[str, Sequence[Refusal]]:
    """The groups of activations whose masks are to be left out, by site, and why."""
    if study.activations is None:
        return {}
    return study.activations.slow(plan, cut.edited, cut.expected, partial(_finish, study, plan, {}))


def _size(study: Study, edited: Model, masked: Masked | None) -> Totals:
    """The size of a finished model; with masks the multiply-accumulates of its layers are as the paper counts."""
    size = totals(edited, observe_shapes(edited, mac_tensors(edited), study.canonical.feeds))
    if masked is None:
        return size
    layers = masked.account.layers
    outside = study.canonical.totals.macs - sum(layer.macs for layer in layers)
    return replace(size, macs=outside + math.ceil(sum(layer.paper * layer.macs for layer in layers)))


def _narrow(study: Study, plan: Plan) -> tuple[Study, Plan, Narrow | None]:
    """The study of the model without the channels that the plan removes, and the plan's options for what is left."""
    if study.widths is None or not study.widths.kept(plan):
        return study, plan, None
    asked, before = study.recipe.refit, study.canonical
    batches = study.calibration if asked.enabled else ()
    narrowed = narrow(before, study.widths, plan, batches, asked.rounds, asked.ridge)
    canonical = narrowed.canonical
    geometries = {layer.name: layer.geometry for layer in canonical.layers}
    options, changed = dict(plan.options), []
    for layer in before.layers:
        option = plan.options.get(layer.name)
        rule = None if option is None or option.kind == "dense" else KINDS[option.kind].narrowed
        if option is not None and rule is not None:
            parameters = rule(option.parameters, layer.geometry, geometries[layer.name])
            options[layer.name] = replace(option, parameters=parameters)
            changed.append(layer.name)
    layers = affordable([layer for layer in canonical.layers if layer.name in changed])
    seen = fitted(batches) if asked.enabled else study.calibration
    moments = observe_moments(canonical.model, layers, seen) if layers else {}
    full, means = known_moments(layers, moments)
    return replace(study, canonical=canonical, moments=full, means=means), replace(plan, options=options), narrowed


def _cut(study: Study, plan: Plan, fits: Mapping[str, Fit]) -> Cut:
    """Surgery on every layer that the plan changes or that was refitted."""
    return cut_layers(study.canonical, plan.options, study.moments, study.means, fits)


def _refit(study: Study, plan: Plan, cut: Cut, without: Collection[str]) -> Refitted:
    """What the layers should hold instead of what they have after surgery alone; some groups have no masks."""
    asked, canonical = study.recipe.refit, study.canonical
    base: Model | None = None
    elsewhere: Sequence[str] = ()
    if study.activations is not None:
        base, elsewhere = study.activations.masked(plan, cut.expected, without)
    approximate = {name: kind.approximate for name, kind in KINDS.items() if not kind.keeps_zeros}
    return refit(
        canonical.model,
        canonical.layers,
        plan.options,
        cut.numbers,
        study.calibration,
        approximate,
        asked.rounds,
        asked.ridge,
        base,
        elsewhere,
    )
