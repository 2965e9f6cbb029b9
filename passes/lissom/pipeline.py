"""The way of the data up to a plan: load, canonicalise, observe, propose, price, allocate.

Every step is a function here or a module of its own, and they are called in one order.
`Study` is what does not depend on a bound and is made once; `allocate`, and `apply` behind it
(`applying.py`), are pure functions from there to a candidate, called as often as bounds and goals need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from lissom.activations.judge import Sample
from lissom.activations.plan import Activations
from lissom.activations.survey import survey as find_activations
from lissom.activations.worth import Compare
from lissom.allocate.choose import choose as chosen
from lissom.allocate.successive import successive
from lissom.asked import not_asked_for
from lissom.canonical import Canonical
from lissom.data import Feeds
from lissom.graph.layers import Layer
from lissom.graph.model import Model
from lissom.kinds import Site, offer
from lissom.nodes.price import price_widths
from lissom.nodes.survey import Found, offer_widths
from lissom.nodes.widths import Widths, untimed, without_node
from lissom.observe import Moment
from lissom.options import Menu, Option, Plan, Refusal, Resource
from lissom.parallel import SERIAL, Workers, map_in_parallel
from lissom.price.distortion import DistortionTable
from lissom.price.latency import LatencyTable
from lissom.progress import Progress, silent
from lissom.recipe import Recipe
from lissom.rewrite import own_bias
from lissom.surgery import cut as cut_layers


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
    full, means = known_moments(sites, moments)
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
    node_us, widths = 0.0, study.widths
    if widths is not None:
        node_us, network = table.node(), study.canonical.model.to_proto()
        widths = widths.timed(table.dense, node_us, table.between(network, study.canonical.feeds, widths.untimed))
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


def known_moments(
    layers: Sequence[Layer], moments: Mapping[str, Moment]
) -> tuple[dict[str, npt.NDArray[np.float64]], dict[str, npt.NDArray[np.float64]]]:
    """The second moment of the input of each layer that has one, and the mean of those that it is about."""
    known = {layer.name: moments[layer.name] for layer in layers if layer.name in moments}
    takes_up = {layer.name for layer in layers if own_bias(layer) is not None}
    means = {name: found.mean for name, found in known.items() if name in takes_up}
    return {name: found.centred() if name in means else found.about_zero() for name, found in known.items()}, means


def _without_moment(layer: Layer, recipe: Recipe, moments: Mapping[str, Moment]) -> str | None:
    if not recipe.needs_moments or layer.name in moments:
        return None
    return f"its second moment of {layer.geometry.columns} columns squared is beyond the memory for all of them"
