"""Where bounds are answered: study, search, measure, report, for one recipe.

What depends on no bound is made once: the study, and of each plan the candidate, its latency and its scores. So a
second goal pays only for the plans that the first did not try. A candidate depends on its plan alone, so an answer is
the same whatever was asked before; only a measured latency is the one taken first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import onnx
from lissom_runtime.accuracy import Score
from lissom_runtime.errors import UsageError
from lissom_runtime.latency import PairedLatency, compare, measure
from lissom_runtime.session import open_session, run_session

from lissom import applying, pipeline, study
from lissom.applying import Candidate
from lissom.favour import for_target
from lissom.graph.model import Model
from lissom.graph.save import save
from lissom.job import RESOURCE_OF, Job, limited
from lissom.lowering.price import native
from lissom.options import Plan, Refusal, Resource
from lissom.pipeline import Study
from lissom.recipe import Bounds, Recipe
from lissom.report.build import accuracy_entries, build_report, latency_entry
from lissom.report.schema import AccuracyEntry, Report, TrainedEntry
from lissom.scoring import Scorer, drop_of
from lissom.search import Budget, Found, Search
from lissom.training_step import train_in_place

KEPT_BYTES = 2**30
"""Candidates that are kept until they are asked for again; beyond this the oldest are built anew when they are."""

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Result:
    """What came of one recipe under one set of bounds.

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


@dataclass(frozen=True)
class _Final:
    """The candidate that is the answer.

    Attributes:
        candidate: the candidate, trained where the recipe asks for it and it helps.
        missed: which bound or goal it misses.
        training: what came of the training.
        remarks: what is to be said of it.
    """

    candidate: Candidate
    missed: str
    training: TrainedEntry | None = None
    remarks: Sequence[str] = ()

    @property
    def trained(self) -> bool:
        """Whether the candidate is a trained one."""
        return self.training is not None and self.training.kept


class Workbench:
    """Answers bounds on one model with one recipe.

    Args:
        job: the model, its data and the machine.
        recipe: how options are made and one is chosen.
        scorer: scores candidates on the validation data; None where only dry runs are asked for.
    """

    def __init__(self, job: Job, recipe: Recipe, scorer: Scorer | None) -> None:
        self._job = replace(job, provider=native(job.provider) or job.provider) if recipe.sparse.enabled else job
        self._recipe = recipe if job.target is None else for_target(recipe, job.target)
        self._scorer = scorer
        self._studies: dict[bool, Study] = {}
        self._built: OrderedDict[Hashable, tuple[Candidate, Sequence[Refusal]]] = OrderedDict()
        self._paired: dict[Hashable, PairedLatency] = {}
        self._goals: dict[Hashable, tuple[Score, Score]] = {}
        self._scored: dict[Hashable, list[AccuracyEntry]] = {}
        self._plans: dict[Hashable, Plan] = {}
        self._trained: dict[Hashable, _Final] = {}

    def prepare(self, bounds: Bounds) -> Study:
        """The study that `bounds` are answered from, made when it is first asked for."""
        timed = "latency_us" in limited(self._recipe, bounds)
        if timed not in self._studies:
            priced = study.price(self._job, self._proposed, timed)
            self._studies[timed] = pipeline.fit_latency(priced, self._original_us) if timed else priced
        return self._studies[timed]

    def dry_run(self, bounds: Bounds) -> Result:
        """The plan for the bounds; for a goal, the first that its search would try."""
        search = self._search(bounds)
        share = search.main.share
        plan = search.plan(share if share is not None else (search.least_share + 1) / 2)
        return Result(None, plan, build_report(status="dry-run", plan=plan, **self._common(search, bounds)))

    def answer(self, bounds: Bounds) -> Result:
        """The candidate that the bounds and the goal ask for, scored and measured.

        A goal that cuts latency is met by a model that is measured to be faster, and by no other.

        Raises:
            GoalMissed: no plan is as small as the bounds ask.
            UsageError: the model has nothing of what is to be cut, or its activations are not finite.
            VerificationError: a result is not what was planned; a defect of lissom.
        """
        search = self._search(bounds)
        found = self._find(search, bounds)
        final = self._train(search, found, bounds)
        candidate, missed = final.candidate, final.missed
        paired = self._latency(candidate)
        if not missed and search.main.share is None and search.main.resource == "latency_us":
            missed = _not_faster(paired)
        content = candidate.model.to_proto()
        status: Literal["met", "missed"] = "missed" if missed else "met"
        report = build_report(
            status=status,
            plan=candidate.plan,
            candidate=candidate,
            accuracy=self._scores(candidate, content, final.trained),
            latency=latency_entry(paired, self._job.feeds),
            training=final.training,
            **self._common(search, bounds, final.remarks),
        )
        return Result(content, candidate.plan, report, missed)

    def write(self, model: onnx.ModelProto, target: Path, overwrite: bool) -> None:
        """Writes a result beside `target`, runs the file as written on the asked-for provider, and renames it."""

        def require_runs(draft: Path) -> None:
            run_session(open_session(draft, self._job.provider), self._job.feeds)

        save(model, target, require_runs, overwrite)

    @cached_property
    def _proposed(self) -> Study:
        proposed = study.propose(self._job, self._recipe)
        if self._scorer is not None:
            self._scorer.require_original()
        return proposed

    @cached_property
    def _original_us(self) -> float:
        """Latency of the original, microseconds."""
        return measure(open_session(self._job.original, self._job.provider), self._job.feeds).median

    def _search(self, bounds: Bounds) -> Search:
        """The search, with what the original has of the limited resources."""
        priced = self.prepare(bounds)
        budgets = []
        for resource in limited(self._recipe, bounds):
            if resource == "latency_us":
                budgets.append(Budget(resource, self._original_us, lambda c: self._latency(c).interval.high))
            else:
                budgets.append(_counted(priced, resource))
        budgets = [replace(budget, share=_share(bounds, budget)) for budget in budgets]
        return Search(priced, budgets, lambda plan: self._build(priced, plan))

    def _find(self, search: Search, bounds: Bounds) -> Found:
        """The candidate that the bounds and the goal ask for."""
        if bounds.max_drop is not None:
            allowed = bounds.max_drop + (self._recipe.train.slack if self._recipe.train.enabled else 0.0)
            return search.smallest_within(allowed, lambda c: self._drop(c, bounds), self._job.progress)
        assert search.main.share is not None
        return search.candidate(search.main.share)

    def _train(self, search: Search, found: Found, bounds: Bounds) -> _Final:
        """The candidate that was found, trained if that is asked for, helps, and costs neither the goal nor a bound."""
        if not self._recipe.train.enabled:
            return _Final(found.candidate, found.missed)
        final, goal = self._learn(search.study, found.candidate), bounds.max_drop
        if final.trained and not found.bound and (broken := search.broken(final.candidate)):
            final = _taken_back(final, found.candidate, broken)
        if goal is None:
            return replace(final, missed=found.bound)
        loss = self._drop(final.candidate, bounds, final.trained)
        before = self._drop(found.candidate, bounds)
        if final.training is not None and loss > goal >= before:
            final, loss = _taken_back(final, found.candidate, f"with it the model loses {loss:.4g}"), before
        reason = f"expected to lose at most {goal:g}, but the candidate loses {loss:.4g} after its training"
        return replace(final, missed=reason if loss > goal else found.bound)

    def _learn(self, priced: Study, candidate: Candidate) -> _Final:
        """Builds a candidate again and trains it on the way, each plan once."""
        told: list[tuple[TrainedEntry, Sequence[str]]] = []

        def train(model: Model) -> None:
            told.append(train_in_place(model, self._job, self._recipe.train))

        def learn() -> _Final:
            made = applying.apply(priced, self._plans[_key(candidate.plan)], train)
            ((training, remarks),) = told
            return _Final(replace(made, plan=candidate.plan) if training.kept else candidate, "", training, remarks)

        return _once(self._trained, _key(candidate.plan), learn)

    def _common(self, search: Search, bounds: Bounds, remarks: Sequence[str] = ()) -> dict[str, Any]:
        """What every report says."""
        job = self._job
        return {
            "model": job.name,
            "study": search.study,
            "search": search,
            "bounds": bounds.model_dump(),
            "provider": job.provider,
            "machine": job.machine,
            "target": job.target,
            "seed": job.seed,
            "remarks": [*job.model.remarks, *remarks],
        }

    def _build(self, priced: Study, plan: Plan) -> Candidate:
        """The finished candidate of a plan: one that was built from the same options, if it is still there."""
        key = _key(plan)
        if key in self._built:
            kept, declined = self._built.pop(key)
            options = {
                site: replace(option, parameters=kept.plan.options[site].parameters)
                for site, option in plan.options.items()
            }
            candidate = replace(kept, plan=replace(plan, options=options, refusals=(*plan.refusals, *declined)))
        else:
            candidate = applying.apply(priced, plan)
            declined = candidate.plan.refusals[len(plan.refusals) :]
        self._plans[_key(candidate.plan)] = plan
        self._built[key] = candidate, declined
        while len(self._built) > 1 and sum(kept.totals.bytes for kept, _ in self._built.values()) > KEPT_BYTES:
            self._built.popitem(last=False)
        return candidate

    def _latency(self, candidate: Candidate) -> PairedLatency:
        """Original and candidate, interleaved in this process, each plan once: what decides is what is reported."""

        def paired() -> PairedLatency:
            job = self._job
            compressed = open_session(candidate.model.to_proto().SerializeToString(), job.provider)
            return compare(open_session(job.original, job.provider), compressed, job.feeds)

        return _once(self._paired, _key(candidate.plan), paired)

    def _drop(self, candidate: Candidate, bounds: Bounds, trained: bool = False) -> float:
        """What a candidate loses on the validation data."""
        assert self._scorer is not None
        scorer = self._scorer
        key = _key(candidate.plan), trained
        before, after = _once(self._goals, key, lambda: scorer.goal(candidate.model.to_proto().SerializeToString()))
        return drop_of(before.value, after.value, bounds.drop)

    def _scores(self, candidate: Candidate, content: onnx.ModelProto, trained: bool) -> list[AccuracyEntry]:
        """Every score of a candidate on the validation data."""
        assert self._scorer is not None
        scorer = self._scorer
        key = _key(candidate.plan), trained
        return _once(self._scored, key, lambda: accuracy_entries(scorer, content.SerializeToString()))


def _taken_back(final: _Final, candidate: Candidate, reason: str) -> _Final:
    """The candidate as it was before a training, and why."""
    assert final.training is not None
    kept = final.training.model_copy(update={"kept": False})
    return _Final(candidate, "", kept, (*final.remarks, f"training was taken back: {reason}"))


def _key(plan: Plan) -> Hashable:
    """Two plans with equal keys have equal candidates."""
    return tuple((site, o.kind, tuple(sorted(o.parameters.items()))) for site, o in plan.changed.items())


def _once(known: dict[Hashable, _Value], key: Hashable, find: Callable[[], _Value]) -> _Value:
    """What is known of a candidate, found out the first time."""
    if key not in known:
        known[key] = find()
    return known[key]


def _counted(priced: Study, resource: Resource) -> Budget:
    """The budget of a resource that a model has, whoever runs it."""
    amount = float(getattr(priced.canonical.original, resource))
    if amount == 0:
        raise UsageError(f"expected a model with {resource} to cut, but it has none")
    return Budget(resource, amount, lambda candidate: float(getattr(candidate.totals, resource)) / amount)


def _share(bounds: Bounds, budget: Budget) -> float | None:
    """The bound on a resource as a share of the original, or None when only a goal was given."""
    for name, value in bounds.budgets.items():
        if RESOURCE_OF[name] == budget.resource:
            return min(1.0, value / budget.original) if name == "max_bytes" else value
    return None


def _not_faster(paired: PairedLatency) -> str:
    """Why a model that was to be fast is not, or ""."""
    if paired.verdict == "faster":
        return ""
    interval = paired.interval
    return (
        f"expected a faster model, but the smallest that holds the goal takes {interval.ratio:.3f} "
        f"[{interval.low:.3f}, {interval.high:.3f}] of the latency ({paired.verdict})"
    )
