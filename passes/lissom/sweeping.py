"""`lissom.sweep`: one model, some recipes, many bounds, and which of the results are worth a look.

Each row is what `lissom.compress` finds for its recipe and bound. What does not depend on the bound is made once for
each recipe, and what was built and scored for one goal serves the others (`lissom.workbench`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from lissom_runtime.errors import GoalMissed, UsageError
from lissom_runtime.providers import ProviderRequest

from lissom.data import open_dataset
from lissom.graph.save import require_writable
from lissom.job import Job, open_job, require_data, require_fit, require_scale
from lissom.parallel import open_workers
from lissom.pareto import Point, front
from lissom.progress import Progress, silent
from lissom.recipe import Bounds, Recipe, make_bounds, read_recipe
from lissom.report.build import accuracy_entries, environment
from lissom.report.schema import AccuracyEntry, Report
from lissom.report.sweep import RowEntry, StudyEntry, Sweep
from lissom.scoring import Scorer
from lissom.target.schema import Target
from lissom.training_step import require_training
from lissom.workbench import Result, Workbench


@dataclass(frozen=True)
class Swept:
    """What `sweep` returns.

    Attributes:
        models: the model of each row of the report; None where no plan is as small as the bound.
        report: what was decided and measured.
        missed: which rows miss their bound; "" when none does.
    """

    models: Sequence[onnx.ModelProto | None]
    report: Sweep
    missed: str = ""


def sweep(
    model: str | Path | onnx.ModelProto,
    recipes: Sequence[str | Recipe],
    bounds: Sequence[Bounds | Mapping[str, Any]],
    output: str | Path | None = None,
    *,
    calibration: str | None = None,
    validation: str | None = None,
    test: str | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    provider: ProviderRequest | None = None,
    metric: str | None = None,
    include: str | None = None,
    exclude: str | None = None,
    target: str | Path | Target | None = None,
    convert_opset: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    keep_anyway: bool = False,
    cache: Path | None = None,
    jobs: int | None = None,
    cluster: str | Executor | None = None,
    progress: Progress = silent,
) -> Swept:
    """Compresses a model by each recipe within each of the bounds.

    Args:
        model: path of an `.onnx` file, or a protobuf (which is not changed).
        recipes: presets by name, paths to TOML, or recipes.
        bounds: one a row, each as for `compress`.
        output: folder for the results, made where there is none, one file a row, MODEL-RECIPE-BOUND.onnx; None writes
            nothing.
        calibration: data for statistics (see `lissom.data`).
        validation: data that goals are held on; default: the calibration data.
        test: data that no decision sees; every result is scored on it.
        shapes: shape of inputs, by name, at which work and latency are meant.
        provider: execution provider and threads; default: the CPU, one thread.
        metric: "top1", "top5", "agreement", "output" or "MODULE:FUNCTION".
        include: regular expression; only layers whose name it finds are changed.
        exclude: regular expression; layers whose name it finds are not.
        target: the processor: a preset's name, a file that `lissom target` wrote, or a target. Options that it cannot
            use are not offered; a recipe may let it decide between kinds.
        convert_opset: opset to convert the model up to first.
        seed: of random inputs, samples and starts.
        overwrite: replace files that exist.
        keep_anyway: write results that miss their bound, with status "missed".
        cache: folder for measurements; default: the user's cache folder.
        jobs: layers that are worked on at once; default: one a core. Does not change the results.
        cluster: who works on them: the address of a Dask scheduler or any executor; default: threads of this process.
        progress: shows how far long loops are.

    Returns:
        All rows. Those that miss their bound say why; of them nothing was written unless `keep_anyway`.

    Raises:
        UsageError: an argument or the data are not acceptable.
        LoadError: the model or the provider cannot be loaded.
        VerificationError: a result is not what was planned; a defect of lissom.
    """
    chosen = [recipe if isinstance(recipe, Recipe) else read_recipe(recipe) for recipe in recipes]
    wanted = [asked if isinstance(asked, Bounds) else make_bounds(**asked) for asked in bounds]
    _require_distinct("recipe", [recipe.name for recipe in chosen])
    _require_distinct("bound", [words_of(asked) for asked in wanted])
    source = None if isinstance(model, onnx.ModelProto) else Path(model)
    stem = "model" if source is None else source.stem
    paths = {
        (recipe.name, words_of(asked)): None if output is None else Path(output) / _file_name(stem, recipe, asked)
        for recipe in chosen
        for asked in wanted
    }
    if output is not None:
        _require_folder(Path(output), [path for path in paths.values() if path], overwrite, source)
    for recipe in chosen:
        for asked in wanted:
            require_fit(recipe, asked)
    job = open_job(
        model,
        calibration=calibration,
        validation=validation,
        shapes=shapes,
        provider=provider,
        metric=metric,
        include=include,
        exclude=exclude,
        target=target,
        convert_opset=convert_opset,
        seed=seed,
        cache=cache,
        progress=progress,
    )
    tested = None if test is None else job.scorer(open_dataset(test, job.specs))
    scorer = job.scorer(job.validation)
    for asked in wanted:
        require_scale(scorer, asked)
        for recipe in chosen:
            require_data(job, recipe, asked)
    for recipe in chosen:
        if recipe.train.enabled:
            require_training(job, recipe.train)
    if tested is not None:
        tested.require_original()
    if output is not None:
        Path(output).mkdir(exist_ok=True)
    studies, rows, models = [], [], []
    with open_workers(job.machine.cores, jobs, cluster) as workers:
        for recipe in chosen:
            bench = Workbench(replace(job, workers=workers), recipe, scorer)
            began = time.perf_counter()
            for asked in wanted:
                bench.prepare(asked)
            studies.append(StudyEntry(recipe=recipe.name, seconds=time.perf_counter() - began))
            for asked in wanted:
                path = paths[recipe.name, words_of(asked)]
                row, found = _row(bench, recipe, asked, tested, path, overwrite, keep_anyway)
                rows.append(row)
                models.append(found)
    return _swept(job, studies, _with_front(rows), models)


def words_of(bounds: Bounds) -> str:
    """Bounds as the flags that ask for them, without dashes in front: "keep-params 0.5", "max-drop 0.01"."""
    asked = {**bounds.budgets, **({} if bounds.max_drop is None else {"max_drop": bounds.max_drop})}
    words = " ".join(f"{name.replace('_', '-')} {value:.10g}" for name, value in asked.items())
    return f"{words} {bounds.drop}" if bounds.max_drop is not None and bounds.drop != "absolute" else words


def _file_name(stem: str, recipe: Recipe, bounds: Bounds) -> str:
    """MODEL-RECIPE-BOUND.onnx, without what a file name cannot hold."""
    return re.sub(r"[^\w.+-]+", "-", f"{stem}-{recipe.name}-{words_of(bounds)}") + ".onnx"


def _require_distinct(what: str, words: Sequence[str]) -> None:
    """Refuses an empty list, and one that names something twice: rows and files are told apart by these words."""
    if not words:
        raise UsageError(f"expected at least one {what}, but got none")
    twice = [word for word in words if words.count(word) > 1]
    if twice:
        raise UsageError(f"expected each {what} once, but got {twice[0]!r} {words.count(twice[0])} times")


def _require_folder(folder: Path, paths: Sequence[Path], overwrite: bool, source: Path | None) -> None:
    """Refuses outputs that cannot be written, or that would replace a file, before any work is done."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"expected a folder for the results, but {folder} is a file")
    if not folder.exists():
        require_writable(folder, overwrite)
        return
    for path in paths:
        require_writable(path, overwrite, source)


def _row(
    bench: Workbench,
    recipe: Recipe,
    bounds: Bounds,
    tested: Scorer | None,
    path: Path | None,
    overwrite: bool,
    keep_anyway: bool,
) -> tuple[RowEntry, onnx.ModelProto | None]:
    """One row and its model."""
    began = time.perf_counter()
    result: Result | None = None
    written, test = None, []
    try:
        result = bench.answer(bounds)
        reason = result.missed
    except GoalMissed as unreachable:
        reason = str(unreachable)
    found = None if result is None else result.model
    if found is not None:
        test = [] if tested is None else accuracy_entries(tested, found.SerializeToString())
        if path is not None and (keep_anyway or not reason):
            bench.write(found, path, overwrite)
            written = str(path)
    row = RowEntry(
        recipe=recipe.name,
        bound=words_of(bounds),
        status="missed" if reason else "met",
        reason=reason,
        seconds=time.perf_counter() - began,
        on_front=False,
        file=written,
        test=test,
        report=None if result is None else result.report,
    )
    return row, found


def _with_front(rows: Sequence[RowEntry]) -> list[RowEntry]:
    """The rows, those marked that are on the front of all that met their bounds and of the original itself."""
    points = {index: _point(row) for index, row in enumerate(rows) if row.status == "met"}
    originals = [_original(rows[index]) for index in list(points)[:1]]
    marked = dict(zip(points, front([*points.values(), *originals]), strict=False))
    return [row.model_copy(update={"on_front": marked.get(index, False)}) for index, row in enumerate(rows)]


def _point(row: RowEntry) -> Point:
    """What a result is judged by: the score on the test data, where there are any."""
    report, score = _measured(row)
    assert report.latency is not None
    assert report.after is not None
    return Point(score.after, report.latency.low, report.latency.high, report.after.bytes)


def _original(row: RowEntry) -> Point:
    """What the original is judged by."""
    report, score = _measured(row)
    return Point(score.before, 1.0, 1.0, report.before.bytes)


def _measured(row: RowEntry) -> tuple[Report, AccuracyEntry]:
    assert row.report is not None
    return row.report, (row.test or row.report.accuracy)[0]


def _swept(
    job: Job, studies: Sequence[StudyEntry], rows: Sequence[RowEntry], models: Sequence[onnx.ModelProto | None]
) -> Swept:
    missed = [row for row in rows if row.status == "missed"]
    report = Sweep(
        status="missed" if missed else "met",
        model=job.name,
        environment=environment(job.provider, job.machine),
        studies=studies,
        rows=rows,
    )
    if not missed:
        return Swept(models, report)
    first = missed[0]
    told = f"{len(missed)} of {len(rows)} rows miss their bound; {first.recipe}, {first.bound}: {first.reason}"
    return Swept(models, report, told)
