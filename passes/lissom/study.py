"""The study of a job under one recipe: everything up to the prices, which no bound changes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from lissom_runtime.latency import PairedLatency, Schedule, compare
from lissom_runtime.session import open_session

from lissom import pipeline
from lissom.canonical import canonicalise
from lissom.favour import only_favoured
from lissom.graph.model import Model
from lissom.job import Job
from lissom.kinds import KINDS
from lissom.nodes.survey import survey
from lissom.observe import Moment, affordable, observe_moments
from lissom.pipeline import Study
from lissom.price.cache import Cache
from lissom.price.distortion import DistortionTable
from lissom.price.latency import LatencyTable
from lissom.recipe import Recipe
from lissom.refitting.refit import fitted

MASK_SCHEDULE = Schedule(max_seconds=5.0)
"""How long two networks are timed that differ in one mask."""


def propose(job: Job, recipe: Recipe) -> Study:
    """The menus of all sites, without prices."""
    canonical = canonicalise(job.model, job.feeds)
    canonical = replace(canonical, original=replace(canonical.original, bytes=len(job.original)))
    groups = survey(canonical, job.include, job.exclude) if recipe.nodes.enabled else None
    moments: dict[str, Moment] = {}
    if recipe.needs_moments:
        batches = list(job.samples())
        seen = fitted(batches) if recipe.refit.enabled else batches  # the others judge the refit, against the options
        layers = list(canonical.layers)
        if groups is not None:
            layers += [layer for layer in groups.layers if layer.name not in {known.name for known in layers}]
        moments = observe_moments(canonical.model, affordable(layers), seen, job.seed)
    study = pipeline.propose_menus(
        canonical, recipe, job.block, moments, job.include, job.exclude, job.workers, job.progress, groups
    )
    return study if job.target is None or not recipe.by_target else only_favoured(study, job.target)


def price(job: Job, study: Study, timed: bool) -> Study:
    """The study with what the recipe asks to be measured.

    Args:
        job: the model and its data.
        study: what `propose` made.
        timed: whether latencies are measured too, as a bound on latency or a goal that cuts it needs.
    """
    recipe = study.recipe
    if timed:
        identity = {key: value for key, value in job.machine.to_json().items() if key != "isa"}
        emit = {name: kind.emit_random for name, kind in KINDS.items()}
        table = LatencyTable(job.provider, identity, job.block, emit, Cache(job.cache))
        study = pipeline.price_latency(study, table, job.progress)
    by_outputs = recipe.allocate.error == "outputs"
    batches = list(job.samples()) if recipe.refit.enabled or by_outputs else []
    if recipe.refit.enabled or recipe.nodes.enabled:
        study = replace(study, calibration=batches)
    if by_outputs:
        approximate = {name: kind.approximate for name, kind in KINDS.items()}
        kept = Cache(job.cache, "distortion")
        distortions = DistortionTable(study.canonical.model, batches, approximate, kept)
        study = pipeline.price_distortion(study, distortions, job.workers, job.progress)
    if recipe.winners.enabled:
        compare = None if recipe.winners.keep_thresholds else partial(_compare, job)
        study = pipeline.price_activations(study, list(job.labelled()), compare)
    return study


def _compare(job: Job, without: Model, masked: Model) -> PairedLatency:
    """Two models in turn on the asked-for provider, the masked one second."""
    first, second = (open_session(model.to_proto().SerializeToString(), job.provider) for model in (without, masked))
    return compare(first, second, job.feeds, schedule=MASK_SCHEDULE)
