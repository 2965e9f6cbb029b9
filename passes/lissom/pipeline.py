"""The way of the data: load, canonicalise, observe, propose, price, allocate, apply, verify.

Every step is a function here or a module of its own, and they are called in one order.
`Study` is what does not depend on a bound and is made once; `allocate` and `apply` are pure
functions from there to a candidate, called as often as bounds and goals need.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from lissom.activations.finish import Masked
from lissom.activations.judge import Sample
from lissom.activations.plan import Activations
from lissom.activations.prove import like, on_some
from lissom.activations.survey import survey as find_activations
from lissom.activations.worth import Compare
from lissom.allocate.choose import choose as chosen
from lissom.allocate.successive import successive
from lissom.asked import not_asked_for
from lissom.canonical import FINISHING, Canonical, Totals, totals
from lissom.data import Feeds
from lissom.graph.count import mac_tensors
from lissom.graph.layers import Layer
from lissom.graph.model import Model
from lissom.graph.spec import require_legal
from lissom.graph.steps import apply_steps
from lissom.kinds import KINDS, Site, offer
from lissom.nodes.narrow import Narrow, narrow
from lissom.nodes.price import price_widths
from lissom.nodes.survey import Found, offer_widths
from lissom.nodes.widths import Widths, untimed, without_node
from lissom.observe import Moment, affordable, observe_moments, observe_shapes
from lissom.options import Menu, Option, Plan, Refusal, Resource
from lissom.parallel import SERIAL, Workers, map_in_parallel
from lissom.price.distortion import DistortionTable
from lissom.price.latency import LatencyTable
from lissom.progress import Progress, silent
from lissom.recipe import Recipe
from lissom.refitting.fit import Fit
from lissom.refitting.norms import put_norms
from lissom.refitting.refit import Judged, Refitted, fitted, refit
from lissom.rewrite import own_bias
from lissom.sparse.lower import pack_layers, require_native
from lissom.sparse.storage import Storage
from lissom.surgery import Cut, storage_of
from lissom.surgery import cut as cut_layers
from lissom.verify import require_same


@dataclass(frozen=True)
class Study:
    """All that is known before a bound is looked at.

    Attributes:
        canonical: the model that plans are made for.
        recipe: how options were made and one is chosen.
        menus: the options of each site, in the order of the layers.
        refusals: what was declined, with reasons.
        moments: second moment[columns, columns] of each layer's input, when the recipe's metric needs it; about the
            mean where `means` has that.
        means: mean[columns] of the input of each layer whose bias can take up a mean error.
        calibration: samples, batch by batch, when the recipe's refit or its channels need them.
        widths: the channel groups, when the recipe offers narrower layers.
        activations: the activations, when the recipe offers masks.
    """

    canonical: Canonical
    recipe: Recipe
    menus: Sequence[Menu]
    refusals: Sequence[Refusal]
    moments: Mapping[str, npt.NDArray[np.float64]]
    means: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    calibration: Sequence[Feeds] = ()
    widths: Widths | None = None
    activations: Activations | None = None

    def cost(self, resource: Resource) -> float:
        """What the sites cost together before anything is changed."""
        return sum(menu.dense.cost.get(resource) for menu in self.menus)

    def least(self, resource: Resource) -> float:
        """The least that any choice of options makes the sites cost together."""
        if self.widths is not None:
            return self.widths.least(resource)
        if self.activations is not None:
            return self.activations.rates.least(resource)
        return sum(menu.least(resource) for menu in self.menus)


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


def propose_menus(
    canonical: Canonical,
    recipe: Recipe,
    block: int,
    moments: Mapping[str, Moment],
    include: str | None = None,
    exclude: str | None = None,
    workers: Workers = SERIAL,
    progress: Progress = silent,
    groups: Found | None = None,
) -> Study:
    """Offers every site its options.

    Args:
        canonical: the model.
        recipe: which options.
        block: the target's channel block, for recipes that ask for it.
        moments: second moments of the layers' inputs, for metrics that need them.
        include: regular expression; only layers whose name it finds are sites.
        exclude: regular expression; layers whose name it finds are none.
        workers: who looks at the layers; the menus are the same whoever does.
        progress: shows the layers as they are done.
        groups: the channel groups, for recipes that offer narrower layers.
    """
    refusals = list(canonical.refusals)
    sites = []
    for layer in canonical.layers:
        reason = not_asked_for(layer.name, include, exclude) or _without_moment(layer, recipe, moments)
        if reason is None:
            sites.append(layer)
        else:
            refusals.append(Refusal(layer.name, "layer", reason))
    full, means = _known(sites, moments)
    items = ((Site.of(layer), full.get(layer.name)) for layer in sites)
    menus = map_in_parallel(partial(offer, recipe, block), items, workers)
    shown = progress(sites, "proposing")
    offered = [made for _, made in zip(shown, menus, strict=True)]
    if recipe.winners.enabled:
        found = find_activations(canonical, include, exclude)
        masks = Activations.of(canonical, recipe.winners, found, offered)
        refusals += found.refusals
        return Study(canonical, recipe, masks.rates.menus, refusals, full, means, activations=masks)
    if groups is None:
        return Study(canonical, recipe, offered, refusals, full, means)
    multiple = block if recipe.nodes.multiple == "target" else recipe.nodes.multiple
    widths, declined = offer_widths(
        canonical, groups, offered, moments, recipe.nodes.method, multiple, workers, progress
    )
    return Study(canonical, recipe, widths.menus, [*refusals, *declined], full, means, widths=widths)


def price_latency(study: Study, table: LatencyTable, progress: Progress = silent) -> Study:
    """The study with measured latencies; options that are not faster are gone."""
    layers = {layer.name: layer for layer in study.canonical.layers}
    node_us = 0.0 if study.widths is None else table.node()
    widths = None if study.widths is None else study.widths.timed(table.dense, node_us)
    menus, refusals = [], list(study.refusals)
    for offered in progress(study.menus, "measuring latency"):
        if offered.site in layers:
            priced = table.price(layers[offered.site], offered)
            if offered.ladders and not priced.ladders:
                refusals.append(Refusal(offered.site, "layer", "no option was measured to be faster than the layer"))
            menus.append(without_node(priced, node_us))
        else:
            menus.append(untimed(offered) if widths is None else widths.with_times(offered))
    return replace(with_menus(replace(study, widths=widths), menus), refusals=refusals)


def price_distortion(
    study: Study, table: DistortionTable, workers: Workers = SERIAL, progress: Progress = silent
) -> Study:
    """The study with measured distortions in the place of the errors of weights.

    Args:
        study: the options.
        table: measures their distortions.
        workers: who runs the network; the menus are the same whoever does.
        progress: shows the layers as they are done.
    """
    layers = {layer.name: layer for layer in study.canonical.layers}
    sites = [(layers[offered.site], offered) for offered in study.menus if offered.site in layers]
    priced = table.price(sites, study.moments, study.means, workers)
    shown = progress(sites, "measuring distortion")
    menus = [menu for _, menu in zip(shown, priced, strict=True)]
    if study.widths is not None:
        menus += price_widths(study.canonical, study.widths, table.batches, table.cache, workers, progress)
    return with_menus(study, [*menus, *(offered for offered in study.menus if _is_masked(study, offered))])


def price_activations(study: Study, samples: Sequence[Sample], compare: Compare | None = None) -> Study:
    """The study with winner rates and their measured distortions; the layers are priced already.

    Args:
        study: the options.
        samples: calibration samples, batch by batch, with labels where there are some.
        compare: times two models, where masks that are not faster are to be left out.
    """
    if study.activations is None:
        return study
    measured = study.activations.measured(samples, compare)
    return replace(study, menus=measured.rates.menus, activations=measured)


def _is_masked(study: Study, menu: Menu) -> bool:
    return study.activations is not None and menu.site in study.activations.found.groups


def fit_latency(study: Study, whole_us: float) -> Study:
    """The study with latencies that the whole network has room for.

    Timed in chains, layers with large weights can add up to more than the network takes (their weights stay in
    the cache there). Then all latencies are scaled down alike, so that the sites take the whole time and not more.
    """
    together = study.cost("latency_us")
    if together <= whole_us:
        return study
    factor = whole_us / together

    def scaled(offered: Menu) -> Menu:
        cost = offered.dense.cost
        dense = replace(offered.dense, cost=replace(cost, latency_us=factor * cost.get("latency_us")))
        ladders = [replace(lad, latency_us=factor * lad.cost("latency_us")) for lad in offered.ladders]
        return Menu(offered.site, dense, ladders)

    widths = None if study.widths is None else study.widths.faster(factor)
    return with_menus(replace(study, widths=widths), [scaled(offered) for offered in study.menus])


def with_menus(study: Study, menus: Sequence[Menu]) -> Study:
    """The study with other menus of the same sites."""
    widths = None if study.widths is None else study.widths.priced(menus)
    activations = None if study.activations is None else study.activations.priced(menus)
    return replace(study, menus=menus, widths=widths, activations=activations)


def allocate(study: Study, limits: Mapping[Resource, float]) -> Plan:
    """Chooses one option per site, so that the sites together cost at most what `limits` say.

    Raises:
        GoalMissed: a limit cannot be reached; the message names the least that can.
        UsageError: the recipe's objective has no such budget.
    """
    choose = partial(chosen, study.recipe.allocate)
    if study.activations is not None:
        plan = study.activations.plan(choose, limits, partial(_pruned, study))
    elif study.widths is None:
        plan = choose(study.menus, limits)
    else:
        dense = {resource: study.cost(resource) for resource in limits}
        plan = successive(study.widths, choose, limits, dense)
    return replace(plan, refusals=(*study.refusals, *plan.refusals))


def _pruned(study: Study, options: Mapping[str, Option]) -> Model:
    """The canonical model with the weights that some options stand for."""
    return cut_layers(study.canonical, options, study.moments, study.means, {}).expected


def apply(study: Study, plan: Plan, train: Callable[[Model], None] | None = None) -> Candidate:
    """Puts the plan's options into a copy of the model, refits it, and proves that the copy computes them.

    `train` gives the constants of the copy other numbers before layers are packed; packing alone is proven then.

    Raises:
        UsageError: an activation of the network is NaN or infinite on the calibration data.
        VerificationError: the result is not legal, not valid, or computes something else.
    """
    study, plan, narrowed = _narrow(study, plan)
    cut, refitted = _cut(study, plan, {}), Refitted()
    if study.recipe.refit.enabled:
        refitted = _refit(study, plan, cut)
        if refitted.fits:
            cut = _cut(study, plan, refitted.fits)
        for model in (cut.edited, cut.expected):
            put_norms(model, refitted.norms)
    if train is not None:
        train(cut.edited)
        cut = replace(cut, expected=cut.edited.copy())

    def finish(edited: Model) -> Sequence[Refusal]:
        require_legal(edited, after="apply")
        declined = pack_layers(edited, study.canonical.layers, plan.options, refitted.fits, study.canonical.feeds)
        apply_steps(edited, FINISHING)
        return declined

    masked: Masked | None = None
    if study.activations is None:
        edited, expected, inputs = cut.edited, cut.expected, [study.canonical.feeds]
        unpacked = finish(edited)
    else:
        masked = study.activations.put(plan, cut.edited, cut.expected, finish)
        edited, expected, unpacked = masked.edited, masked.expected, masked.refusals
        inputs = list(like(study.canonical.feeds, study.activations.batches))
    difference = on_some(lambda feeds: require_same(expected, edited, feeds, "the compressed model"), inputs)
    on_some(lambda feeds: require_native(expected, edited, feeds), inputs)
    judged, refusals = dict(refitted.judged), [*refitted.refusals, *unpacked]
    if narrowed is not None:
        difference = max(difference, narrowed.max_difference)
        judged, refusals = {**narrowed.judged, **judged}, [*narrowed.refusals, *refusals]
    plan = replace(plan, refusals=(*plan.refusals, *refusals))
    stored = storage_of(study.canonical.layers, plan.options, cut.numbers)
    return Candidate(edited, plan, _size(study, edited, masked), difference, judged, stored, masked)


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
    full, means = _known(layers, moments)
    return replace(study, canonical=canonical, moments=full, means=means), replace(plan, options=options), narrowed


def _known(
    layers: Sequence[Layer], moments: Mapping[str, Moment]
) -> tuple[dict[str, npt.NDArray[np.float64]], dict[str, npt.NDArray[np.float64]]]:
    """The second moment of the input of each layer that has one, and the mean of those that it is about."""
    known = {layer.name: moments[layer.name] for layer in layers if layer.name in moments}
    takes_up = {layer.name for layer in layers if own_bias(layer) is not None}
    means = {name: found.mean for name, found in known.items() if name in takes_up}
    return {name: found.centred() if name in means else found.about_zero() for name, found in known.items()}, means


def _cut(study: Study, plan: Plan, fits: Mapping[str, Fit]) -> Cut:
    """Surgery on every layer that the plan changes or that was refitted."""
    return cut_layers(study.canonical, plan.options, study.moments, study.means, fits)


def _refit(study: Study, plan: Plan, cut: Cut) -> Refitted:
    """What the layers should hold instead of what they have after surgery alone."""
    asked, canonical = study.recipe.refit, study.canonical
    base: Model | None = None
    elsewhere: Sequence[str] = ()
    if study.activations is not None:
        base, elsewhere = study.activations.masked(plan, cut.expected)
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


def _without_moment(layer: Layer, recipe: Recipe, moments: Mapping[str, Moment]) -> str | None:
    if not recipe.needs_moments or layer.name in moments:
        return None
    return f"its second moment of {layer.geometry.columns} columns squared is beyond the memory for all of them"
