"""The way of the data: load, canonicalise, observe, propose, price, allocate, apply, verify.

Every step is a function here or a module of its own, and they are called in one order.
`Study` is what does not depend on a bound and is made once; `allocate` and `apply` are pure
functions from there to a candidate, called as often as bounds and goals need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from lissom_runtime.errors import UsageError

from lissom.allocate.alds import alds
from lissom.allocate.constant import constant as constant_ratio
from lissom.allocate.minimax import minimax
from lissom.allocate.total import total
from lissom.asked import not_asked_for
from lissom.data import Feeds
from lissom.graph.affine import fold_affine
from lissom.graph.constants import fold_constants, lift_constants
from lissom.graph.count import count_macs, count_parameters, mac_tensors
from lissom.graph.layers import Layer, activations, find_layers
from lissom.graph.model import Model
from lissom.graph.naming import name_nodes
from lissom.graph.shapes import infer_shapes
from lissom.graph.sharing import share_constants, unshare_constants
from lissom.graph.spec import require_legal
from lissom.graph.steps import Outcome, Step, apply_steps
from lissom.kinds import KINDS, Site, offer
from lissom.observe import Moment, observe_shapes
from lissom.options import Menu, Plan, Refusal, Resource
from lissom.parallel import SERIAL, Workers, map_in_parallel, one_blas_thread
from lissom.price.distortion import DistortionTable
from lissom.price.latency import LatencyTable
from lissom.progress import Progress, silent
from lissom.recipe import Recipe
from lissom.recover.fit import Dense, Fit
from lissom.recover.norms import put_norms
from lissom.recover.refit import Judged, Refitted, refit
from lissom.rewrite import Rewrite, in_copy, own_bias, replace_bias, replace_weight
from lissom.sparse.lower import pack_layers, require_native
from lissom.verify import require_same
from lissom.version import __version__

READING: tuple[Step, ...] = (
    Step("name nodes", name_nodes),
    Step("lift constants", lift_constants),
)
"""Makes the weights of a file visible; nothing is counted before."""

CANONICAL: tuple[Step, ...] = (
    Step("un-share constants", unshare_constants),
    Step("fold constants", fold_constants),
    Step("fold batch normalization", fold_affine),
    Step("infer shapes", infer_shapes),
)
"""Exact rewrites that every pass may rely on."""

FINISHING: tuple[Step, ...] = (Step("share constants", share_constants),)
"""Undoes what made the file larger and no pass needs any more."""


@dataclass(frozen=True)
class Totals:
    """A model's size and work.

    Attributes:
        params: non-zero parameters.
        bytes: bytes of the file.
        macs: multiply-accumulates at the observed input shape.
    """

    params: int
    bytes: int
    macs: int


@dataclass(frozen=True)
class Canonical:
    """A model after the exact rewrites.

    Attributes:
        model: the rewritten model.
        original: what the file held as loaded.
        totals: what it holds after the rewrites.
        outcomes: what each rewrite did.
        feeds: the input at whose shape all is counted.
        layers: the sites.
        refusals: what looked like a layer and is none.
    """

    model: Model
    original: Totals
    totals: Totals
    outcomes: Mapping[str, Outcome]
    feeds: Feeds
    layers: Sequence[Layer]
    refusals: Sequence[Refusal]


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
        calibration: samples, batch by batch, when the recipe's refit needs them.
    """

    canonical: Canonical
    recipe: Recipe
    menus: Sequence[Menu]
    refusals: Sequence[Refusal]
    moments: Mapping[str, npt.NDArray[np.float64]]
    means: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    calibration: Sequence[Feeds] = ()


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
    """

    model: Model
    plan: Plan
    totals: Totals
    max_difference: float
    judged: Mapping[str, Judged] = field(default_factory=dict)


def canonicalise(model: Model, feeds: Feeds) -> Canonical:
    """Runs the exact rewrites on a copy of `model` and finds the layers.

    Args:
        model: the model as loaded.
        feeds: one input; its shape is what multiply-accumulates and latency mean.

    Raises:
        LoadError: ONNX Runtime cannot run the model.
        UsageError: a weight is NaN, infinite or empty.
        VerificationError: a rewrite changed what the model computes.
    """
    edited = model.copy()
    outcomes = apply_steps(edited, READING)
    shapes = observe_shapes(edited, mac_tensors(edited), feeds)
    original = replace(totals(edited, shapes), bytes=model.to_proto().ByteSize())
    outcomes |= apply_steps(edited, CANONICAL)
    shapes = observe_shapes(edited, [*activations(edited), *mac_tensors(edited)], feeds)
    census = find_layers(edited, shapes)
    require_same(model, edited, feeds, "the canonical model")
    refusals = [*(refusal for outcome in outcomes.values() for refusal in outcome.refusals), *census.refusals]
    return Canonical(edited, original, _as_written(edited, shapes), outcomes, feeds, census.layers, refusals)


def propose_menus(
    canonical: Canonical,
    recipe: Recipe,
    block: int,
    moments: Mapping[str, Moment],
    include: str | None = None,
    exclude: str | None = None,
    workers: Workers = SERIAL,
    progress: Progress = silent,
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
    """
    refusals = list(canonical.refusals)
    sites = []
    for layer in canonical.layers:
        reason = not_asked_for(layer.name, include, exclude) or _without_moment(layer, recipe, moments)
        if reason is None:
            sites.append(layer)
        else:
            refusals.append(Refusal(layer.name, "layer", reason))
    known = {layer.name: moments[layer.name] for layer in sites if layer.name in moments}
    takes_up = {layer.name for layer in sites if own_bias(layer) is not None}
    means = {name: found.mean for name, found in known.items() if name in takes_up}
    full = {name: found.centred() if name in means else found.about_zero() for name, found in known.items()}
    items = ((Site.of(layer), full.get(layer.name)) for layer in sites)
    menus = map_in_parallel(partial(offer, recipe, block), items, workers)
    shown = progress(sites, "proposing")
    return Study(canonical, recipe, [made for _, made in zip(shown, menus, strict=True)], refusals, full, means)


def price_latency(study: Study, table: LatencyTable, progress: Progress = silent) -> Study:
    """The study with measured latencies; options that are not faster are gone."""
    layers = {layer.name: layer for layer in study.canonical.layers}
    menus, refusals = [], list(study.refusals)
    for offered in progress(study.menus, "measuring latency"):
        priced = table.price(layers[offered.site], offered)
        if not priced.ladders:
            refusals.append(Refusal(offered.site, "layer", "no option was measured to be faster than the layer"))
        menus.append(priced)
    return replace(study, menus=menus, refusals=refusals)


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
    sites = [(layers[offered.site], offered) for offered in study.menus]
    priced = table.price(sites, study.moments, study.means, workers)
    shown = progress(study.menus, "measuring distortion")
    return replace(study, menus=[menu for _, menu in zip(shown, priced, strict=True)])


def fit_latency(study: Study, whole_us: float) -> Study:
    """The study with latencies that the whole network has room for.

    Timed in chains, layers with large weights can add up to more than the network takes (their weights stay in
    the cache there). Then all latencies are scaled down alike, so that the sites take the whole time and not more.
    """
    together = sum(offered.dense.cost.get("latency_us") for offered in study.menus)
    if together <= whole_us:
        return study
    factor = whole_us / together

    def scaled(offered: Menu) -> Menu:
        cost = offered.dense.cost
        dense = replace(offered.dense, cost=replace(cost, latency_us=factor * cost.get("latency_us")))
        ladders = [replace(lad, latency_us=factor * lad.cost("latency_us")) for lad in offered.ladders]
        return Menu(offered.site, dense, ladders)

    return replace(study, menus=[scaled(offered) for offered in study.menus])


def allocate(study: Study, limits: Mapping[Resource, float]) -> Plan:
    """Chooses one option per site, so that the sites together cost at most what `limits` say.

    Raises:
        GoalMissed: a limit cannot be reached; the message names the least that can.
        UsageError: the recipe's objective has no such budget.
    """
    plan = _choose(study, limits)
    return replace(plan, refusals=(*study.refusals, *plan.refusals))


def _choose(study: Study, limits: Mapping[Resource, float]) -> Plan:
    objective = study.recipe.allocate.objective
    if objective == "total":
        chosen = total(study.menus, limits)
        return replace(chosen.plan, distortion=chosen.distortion, bound=chosen.bound)
    if len(limits) != 1:
        raise UsageError(f'expected one budget for the objective "{objective}", but got {", ".join(limits)}')
    ((resource, limit),) = limits.items()
    if objective == "minimax":
        return minimax(study.menus, resource, limit)
    if objective == "constant":
        return constant_ratio(study.menus, resource, limit)
    if resource != "params":
        raise UsageError(f'expected a parameter budget for the objective "alds", but the budget is {resource}')
    return alds(study.menus, limit, study.recipe.allocate.seed)


def apply(study: Study, plan: Plan) -> Candidate:
    """Puts the plan's options into a copy of the model, refits it, and proves that the copy computes them.

    Raises:
        UsageError: an activation of the network is NaN or infinite on the calibration data.
        VerificationError: the result is not legal, not valid, or computes something else.
    """
    cut, refitted = _cut(study, plan, {}), Refitted()
    if study.recipe.refit.enabled:
        refitted = _refit(study, plan, cut.numbers)
        if refitted.fits:
            cut = _cut(study, plan, refitted.fits)
        for model in (cut.edited, cut.expected):
            put_norms(model, refitted.norms)
    edited = cut.edited
    require_legal(edited, after="apply")
    dense_where_sparse = pack_layers(edited, study.canonical.layers, plan.options, refitted.fits, study.canonical.feeds)
    apply_steps(edited, FINISHING)
    difference = require_same(cut.expected, edited, study.canonical.feeds, "the compressed model")
    require_native(cut.expected, edited, study.canonical.feeds)
    shapes = observe_shapes(edited, mac_tensors(edited), study.canonical.feeds)
    plan = replace(plan, refusals=(*plan.refusals, *refitted.refusals, *dense_where_sparse))
    return Candidate(edited, plan, totals(edited, shapes), difference, refitted.judged)


@dataclass(frozen=True)
class _Cut:
    """The model after surgery.

    Attributes:
        edited: with the options in the place of the layers.
        expected: the original graph with the weights and biases that the options stand for.
        numbers: those weights and biases, by layer.
    """

    edited: Model
    expected: Model
    numbers: Mapping[str, Dense]


def _cut(study: Study, plan: Plan, fits: Mapping[str, Fit]) -> _Cut:
    """Surgery on every layer that the plan changes or that was refitted."""
    edited, expected = study.canonical.model.copy(), study.canonical.model.copy()
    numbers: dict[str, Dense] = {}
    for layer in study.canonical.layers:
        option, found = plan.options.get(layer.name), fits.get(layer.name)
        if option is None or (option.kind == "dense" and found is None):
            continue
        target, moment, mean = in_copy(edited, layer), study.moments.get(layer.name), study.means.get(layer.name)
        if found is not None:
            target, moment, mean = replace(target, weight=found.target.weight), found.moment, found.mean
            replace_weight(target, found.target.weight)
            if found.target.bias is not None:
                replace_bias(target, found.target.bias)
        if option.kind == "dense":
            rewrite = Rewrite([target.node], target.weight, None if found is None else found.target.bias)
        else:
            with one_blas_thread():
                rewrite = KINDS[option.kind].apply(edited, target, option.parameters, moment, mean)
        done: dict[str, Any] = {"kind": option.kind, "from": layer.name, "parameters": dict(option.parameters)}
        if found is not None:
            done["refit"] = True
        for node in rewrite.nodes:
            edited.set_provenance(node, {**done, "lissom": __version__})
        dense = in_copy(expected, layer)
        replace_weight(dense, rewrite.weight)
        if rewrite.bias is not None:
            replace_bias(dense, rewrite.bias)
        numbers[layer.name] = Dense(rewrite.weight, rewrite.bias)
    return _Cut(edited, expected, numbers)


def _refit(study: Study, plan: Plan, start: Mapping[str, Dense]) -> Refitted:
    """What the layers should hold instead of what they have after surgery alone."""
    asked, canonical = study.recipe.refit, study.canonical
    approximate = {name: kind.approximate for name, kind in KINDS.items()}
    return refit(
        canonical.model,
        canonical.layers,
        plan.options,
        start,
        study.calibration,
        approximate,
        asked.rounds,
        asked.ridge,
    )


def _without_moment(layer: Layer, recipe: Recipe, moments: Mapping[str, Moment]) -> str | None:
    if not recipe.needs_moments or layer.name in moments:
        return None
    return f"its second moment of {layer.geometry.columns} columns squared is beyond the memory for all of them"


def _as_written(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> Totals:
    """What `model` would hold in a file, where equal constants are one."""
    finished = model.copy()
    apply_steps(finished, FINISHING)
    return totals(finished, shapes)


def totals(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> Totals:
    """What `model` holds; `shapes` are those of the tensors that `mac_tensors` names."""
    return Totals(count_parameters(model), model.to_proto().ByteSize(), count_macs(model, shapes))
