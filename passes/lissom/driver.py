"""`lissom.compress`: from what the user said to a proven result. The command line does exactly this."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import onnx
from lissom_runtime.errors import UsageError
from lissom_runtime.latency import PairedLatency, compare, measure
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.session import open_session, run_session
from lissom_runtime.target import Machine

from lissom import pipeline
from lissom.data import Dataset, Feeds, first_feeds, input_specs, open_dataset
from lissom.graph.load import from_proto, read_proto
from lissom.graph.model import Model
from lissom.graph.save import require_writable, save
from lissom.kinds import KINDS
from lissom.lowering.price import provider_of
from lissom.observe import Moment, affordable, observe_moments
from lissom.options import Plan, Resource
from lissom.parallel import SERIAL, Workers, open_workers
from lissom.pipeline import Candidate, Study
from lissom.price.cache import Cache
from lissom.price.distortion import DistortionTable
from lissom.price.latency import LatencyTable
from lissom.progress import Progress, silent
from lissom.recipe import Bounds, Recipe, make_bounds, read_recipe
from lissom.report.build import accuracy_entries, build_report, latency_entry
from lissom.report.schema import Report
from lissom.scoring import Scorer, batch_size, drop_of
from lissom.search import Budget, Found, Search

CALIBRATION_SAMPLES = 512
"""Samples that statistics are taken of."""

_RESOURCES: Mapping[str, Resource] = {
    "keep_params": "params",
    "keep_macs": "macs",
    "max_bytes": "bytes",
    "latency_ratio": "latency_us",
}


@dataclass(frozen=True)
class Result:
    """What `compress` returns.

    Attributes:
        model: the compressed model; None after a dry run.
        plan: the option of each site.
        report: what was decided and measured.
        missed: which bound or goal the result misses; "" when it meets all.
    """

    model: onnx.ModelProto | None
    plan: Plan
    report: Report
    missed: str = ""


def compress(
    model: str | Path | onnx.ModelProto,
    output: str | Path | None = None,
    *,
    recipe: str | Recipe = "minimax",
    bounds: Bounds | Mapping[str, Any] | None = None,
    calibration: str | None = None,
    validation: str | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    provider: ProviderRequest | None = None,
    metric: str | None = None,
    include: str | None = None,
    exclude: str | None = None,
    convert_opset: int | None = None,
    seed: int = 0,
    dry_run: bool = False,
    overwrite: bool = False,
    keep_anyway: bool = False,
    cache: Path | None = None,
    jobs: int | None = None,
    cluster: str | Executor | None = None,
    progress: Progress = silent,
) -> Result:
    """Compresses a model and proves what came of it.

    Args:
        model: path of an `.onnx` file, or a protobuf (which is not changed).
        output: where to write the result; None writes nothing.
        recipe: a preset's name, a path to TOML, or a recipe.
        bounds: upper limits and at most one goal (the fields of `Bounds`).
        calibration: data for statistics (see `lissom.data`).
        validation: data for scores; default: the calibration data.
        shapes: shape of inputs, by name, at which work and latency are meant.
        provider: execution provider and threads; default: the CPU, one thread.
        metric: "top1", "top5", "agreement", "output" or "MODULE:FUNCTION".
        include: regular expression; only layers whose name it finds are changed.
        exclude: regular expression; layers whose name it finds are not.
        convert_opset: opset to convert the model up to first.
        seed: of random inputs, samples and starts.
        dry_run: stop after the plan; for a goal, after the first plan that would be tried.
        overwrite: replace `output` if it exists.
        keep_anyway: write a result that misses a bound or goal, with status "missed".
        cache: folder for latency measurements; default: the user's cache folder.
        jobs: layers that are worked on at once; default: one a core. Does not change the result.
        cluster: who works on them: the address of a Dask scheduler or any executor; default: threads of this process.
        progress: shows how far long loops are.

    Returns:
        The result. When it misses a bound or goal, `missed` says which, and nothing was
        written unless `keep_anyway`.

    Raises:
        UsageError: an argument or the data are not acceptable.
        LoadError: the model or the provider cannot be loaded.
        GoalMissed: no plan is as small as the bounds ask.
        VerificationError: the result is not what was planned; a defect of lissom.
    """
    source = None if isinstance(model, onnx.ModelProto) else Path(model)
    target = None if output is None else Path(output)
    if target is not None:
        require_writable(target, overwrite, source)
    chosen = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
    wanted = bounds if isinstance(bounds, Bounds) else make_bounds(**dict(bounds or {}))
    if len(wanted.budgets) > 1 and chosen.allocate.objective != "total":
        raise UsageError(
            f'expected one budget (and a goal, if you like) for the objective "{chosen.allocate.objective}", but got '
            f"{', '.join(wanted.budgets)}"
        )
    proto = model if isinstance(model, onnx.ModelProto) else read_proto(Path(model))
    loaded = from_proto(proto, convert_opset)
    if chosen.allocate.objective == "alds" and set(wanted.budgets) - {"keep_params"}:
        raise UsageError(f'expected keep_params for the objective "alds", but got {", ".join(wanted.budgets)}')
    for pattern in (include, exclude):
        _require_pattern(pattern)
    specs = input_specs(loaded.inputs)
    opened = None if calibration is None else open_dataset(calibration, specs)
    job = _Job(
        model=loaded,
        original=(proto if convert_opset is None else loaded.to_proto()).SerializeToString(),
        recipe=chosen,
        bounds=wanted,
        calibration=opened,
        validation=opened if validation is None else open_dataset(validation, specs),
        feeds=first_feeds(specs, opened, dict(shapes or {}), seed),
        provider=provider_of([proto], provider or ProviderRequest()),
        metric=metric,
        seed=seed,
        include=include,
        exclude=exclude,
        batch=batch_size(specs),
        cache=cache,
        machine=Machine.here(),
        progress=progress,
    )
    name = {"name": "model" if source is None else source.name, "sha256": hashlib.sha256(job.original).hexdigest()}
    with open_workers(job.machine.cores, jobs, cluster) as workers:
        return _finish(replace(job, workers=workers), name, target, dry_run, keep_anyway, overwrite)


def _require_pattern(pattern: str | None) -> None:
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise UsageError(f"expected a regular expression, but got {pattern!r}: {error}") from error


@dataclass(frozen=True)
class _Job:
    """Everything that the user said, checked and opened."""

    model: Model
    original: bytes
    recipe: Recipe
    bounds: Bounds
    calibration: Dataset | None
    validation: Dataset | None
    feeds: Feeds
    provider: ProviderRequest
    metric: str | None
    seed: int
    include: str | None
    exclude: str | None
    batch: int
    cache: Path | None
    machine: Machine
    progress: Progress
    workers: Workers = SERIAL

    @property
    def resources(self) -> list[Resource]:
        """The resources that are limited, or the one that is cut to reach the goal."""
        return [_RESOURCES[name] for name in self.bounds.budgets] or [self.recipe.allocate.budget]


class _Stopwatch:
    """Measures candidates against the original, each once: what decides is what is reported."""

    def __init__(self, job: _Job) -> None:
        self._job = job
        self._measured: dict[int, tuple[Candidate, PairedLatency]] = {}

    def paired(self, candidate: Candidate) -> PairedLatency:
        """Original and candidate, interleaved in this process."""
        if id(candidate) not in self._measured:
            job = self._job
            compressed = open_session(candidate.model.to_proto().SerializeToString(), job.provider)
            paired = compare(open_session(job.original, job.provider), compressed, job.feeds)
            self._measured[id(candidate)] = candidate, paired
        return self._measured[id(candidate)][1]


def _finish(
    job: _Job, name: Mapping[str, str], target: Path | None, dry_run: bool, keep_anyway: bool, overwrite: bool
) -> Result:
    """Study, search, measure, write."""
    scorer = None if dry_run else _scorer(job)
    study = _study(job)
    stopwatch = _Stopwatch(job)
    search = _search(job, study, stopwatch)
    share = _share(job, search.main)
    common: dict[str, Any] = {
        "model": name,
        "study": search.study,
        "search": search,
        "bounds": job.bounds.model_dump(),
        "provider": job.provider,
        "machine": job.machine,
        "seed": job.seed,
        "remarks": list(job.model.remarks),
    }
    if scorer is None:
        first = share if share is not None else (search.least_share + 1) / 2
        plan = search.plan(first)
        return Result(None, plan, build_report(status="dry-run", plan=plan, **common))
    found = _find(job, search, share, scorer)
    content = found.candidate.model.to_proto()
    status: Literal["met", "missed"] = "missed" if found.missed else "met"
    report = build_report(
        status=status,
        plan=found.candidate.plan,
        candidate=found.candidate,
        accuracy=accuracy_entries(scorer, content.SerializeToString()),
        latency=latency_entry(stopwatch.paired(found.candidate), job.feeds),
        **common,
    )
    if target is not None and (keep_anyway or not found.missed):
        save(content, target, lambda draft: _require_runs(draft, job), overwrite)
    return Result(content, found.candidate.plan, report, found.missed)


def _scorer(job: _Job) -> Scorer:
    """The scorer, after the checks that must come before long work.

    Raises:
        UsageError: the goal, the recipe or the metric needs data that were not given.
    """
    if job.bounds.max_drop is not None and job.validation is None:
        raise UsageError("expected --validation or --calibration data for the goal max_drop, but got none")
    scorer = Scorer(job.original, job.validation, job.feeds, job.provider, job.metric, job.batch, job.progress)
    if job.bounds.max_drop is not None and scorer.metrics[0] == "output":
        raise UsageError(
            "expected a score with a scale of its own for the goal max_drop (--metric top1, top5, agreement or "
            "MODULE:FUNCTION), but this model's is a signal-to-noise ratio in dB"
        )
    return scorer


def _study(job: _Job) -> Study:
    """The menus of all sites, with what the recipe and the bounds ask to be measured."""
    needs = {f"the metric {job.recipe.metric}": job.recipe.needs_moments} | {
        "the error outputs": job.recipe.allocate.error == "outputs",
        "the refit": job.recipe.refit.enabled,
    }
    for what, is_needed in needs.items():
        if is_needed and job.calibration is None:
            raise UsageError(f"expected --calibration data for {what}, but got none")
    canonical = pipeline.canonicalise(job.model, job.feeds)
    canonical = replace(canonical, original=replace(canonical.original, bytes=len(job.original)))
    moments: dict[str, Moment] = {}
    if job.recipe.needs_moments:
        moments = observe_moments(canonical.model, affordable(canonical.layers), _calibration(job), job.seed)
    block = job.machine.block()
    study = pipeline.propose_menus(
        canonical, job.recipe, block, moments, job.include, job.exclude, job.workers, job.progress
    )
    if "latency_us" in job.resources:
        identity = {key: value for key, value in job.machine.to_json().items() if key != "isa"}
        emit = {name: kind.emit_random for name, kind in KINDS.items()}
        table = LatencyTable(job.provider, identity, block, emit, Cache(job.cache))
        study = pipeline.price_latency(study, table, job.progress)
    batches = list(_calibration(job)) if job.recipe.refit.enabled or job.recipe.allocate.error == "outputs" else []
    if job.recipe.refit.enabled:
        study = replace(study, calibration=batches)
    if job.recipe.allocate.error == "outputs":
        approximate = {name: kind.approximate for name, kind in KINDS.items()}
        kept = Cache(job.cache, "distortion")
        study = pipeline.price_distortion(
            study, DistortionTable(canonical.model, batches, approximate, kept), job.progress
        )
    return study


def _calibration(job: _Job) -> Iterator[Feeds]:
    """The samples that statistics are taken of, batch by batch."""
    assert job.calibration is not None
    starts = range(0, min(CALIBRATION_SAMPLES, job.calibration.size), job.batch)
    for start in job.progress(starts, "observing"):
        yield job.calibration.read(start, min(start + job.batch, job.calibration.size))[0]


def _search(job: _Job, study: Study, stopwatch: _Stopwatch) -> Search:
    """The search, with what the original has of the limited resources."""
    budgets = []
    for resource in job.resources:
        if resource == "latency_us":
            original = measure(open_session(job.original, job.provider), job.feeds).median
            study = pipeline.fit_latency(study, original)
            budgets.append(Budget(resource, original, lambda candidate: stopwatch.paired(candidate).interval.high))
        else:
            budgets.append(_counted(study, resource))
    return Search(study, [replace(budget, share=_share(job, budget) or 1.0) for budget in budgets])


def _counted(study: Study, resource: Resource) -> Budget:
    """The budget of a resource that a model has, whoever runs it."""
    amount = float(getattr(study.canonical.original, resource))
    if amount == 0:
        raise UsageError(f"expected a model with {resource} to cut, but it has none")
    return Budget(resource, amount, lambda candidate: float(getattr(candidate.totals, resource)) / amount)


def _share(job: _Job, budget: Budget) -> float | None:
    """The bound on a resource as a share of the original, or None when only a goal was given."""
    for name, value in job.bounds.budgets.items():
        if _RESOURCES[name] == budget.resource:
            return min(1.0, value / budget.original) if name == "max_bytes" else value
    return None


def _find(job: _Job, search: Search, share: float | None, scorer: Scorer) -> Found:
    """The candidate that the bounds and the goal ask for."""
    goal = job.bounds.max_drop
    if goal is None:
        assert share is not None
        return search.candidate(share)

    def drop(candidate: Candidate) -> float:
        before, after = scorer.goal(candidate.model.to_proto().SerializeToString())
        return drop_of(before.value, after.value, job.bounds.drop)

    return search.smallest_within(goal, drop, share, job.progress)


def _require_runs(draft: Path, job: _Job) -> None:
    """The file as written loads and runs on the asked-for provider."""
    run_session(open_session(draft, job.provider), job.feeds)
