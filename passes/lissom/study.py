"""The study of a job under one recipe: everything up to the prices, which no bound changes."""

from __future__ import annotations

from dataclasses import replace

from lissom import pipeline
from lissom.job import Job
from lissom.kinds import KINDS
from lissom.observe import Moment, affordable, observe_moments
from lissom.pipeline import Study
from lissom.price.cache import Cache
from lissom.price.distortion import DistortionTable
from lissom.price.latency import LatencyTable
from lissom.recipe import Recipe
from lissom.recover.refit import held_out


def propose(job: Job, recipe: Recipe) -> Study:
    """The menus of all sites, without prices."""
    canonical = pipeline.canonicalise(job.model, job.feeds)
    canonical = replace(canonical, original=replace(canonical.original, bytes=len(job.original)))
    moments: dict[str, Moment] = {}
    if recipe.needs_moments:
        batches = list(job.samples())
        judges = held_out(len(batches)) if recipe.refit.enabled else []  # options that saw them would look better there
        seen = [batch for number, batch in enumerate(batches) if number not in judges]
        moments = observe_moments(canonical.model, affordable(canonical.layers), seen, job.seed)
    return pipeline.propose_menus(
        canonical, recipe, job.machine.block(), moments, job.include, job.exclude, job.workers, job.progress
    )


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
        table = LatencyTable(job.provider, identity, job.machine.block(), emit, Cache(job.cache))
        study = pipeline.price_latency(study, table, job.progress)
    by_outputs = recipe.allocate.error == "outputs"
    batches = list(job.samples()) if recipe.refit.enabled or by_outputs else []
    if recipe.refit.enabled:
        study = replace(study, calibration=batches)
    if by_outputs:
        approximate = {name: kind.approximate for name, kind in KINDS.items()}
        kept = Cache(job.cache, "distortion")
        distortions = DistortionTable(study.canonical.model, batches, approximate, kept)
        study = pipeline.price_distortion(study, distortions, job.workers, job.progress)
    return study
