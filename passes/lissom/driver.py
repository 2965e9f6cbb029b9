"""`lissom.compress`: from what the user said to a proven result. The command line does exactly this."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
from lissom_runtime.providers import ProviderRequest

from lissom.graph.save import require_writable
from lissom.job import open_job, require_data, require_fit, require_scale
from lissom.parallel import open_workers
from lissom.progress import Progress, silent
from lissom.recipe import Bounds, Recipe, make_bounds, read_recipe
from lissom.target.schema import Target
from lissom.training_step import require_training
from lissom.workbench import Result, Workbench


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
    target: str | Path | Target | None = None,
    convert_opset: int | None = None,
    seed: int = 0,
    train: float | None = None,
    keep_thresholds: bool | None = None,
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
        target: the processor: a preset's name, a file that `lissom target` wrote, or a target. Options that it cannot
            use are not offered; a recipe may let it decide between kinds.
        convert_opset: opset to convert the model up to first.
        seed: of random inputs, samples and starts.
        train: minutes that the result is trained at most before it is written; default: as the recipe says.
        keep_thresholds: whether masks behind activations stay that do not make the network faster; default: as the
            recipe says.
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
    path = None if output is None else Path(output)
    if path is not None:
        require_writable(path, overwrite, None if isinstance(model, onnx.ModelProto) else Path(model))
    chosen = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
    if train is not None:
        chosen = chosen.trained_for(train)
    if keep_thresholds is not None:
        chosen = chosen.keeping_thresholds(keep_thresholds)
    wanted = bounds if isinstance(bounds, Bounds) else make_bounds(**dict(bounds or {}))
    require_fit(chosen, wanted)
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
    require_data(job, chosen, wanted)
    if chosen.train.enabled and not dry_run:
        require_training(job, chosen.train)
    scorer = None if dry_run else job.scorer(job.validation)
    if scorer is not None:
        require_scale(scorer, wanted)
    with open_workers(job.machine.cores, jobs, cluster) as workers:
        bench = Workbench(replace(job, workers=workers), chosen, scorer)
        if dry_run:
            return bench.dry_run(wanted)
        result = bench.answer(wanted)
        if path is not None and result.model is not None and (keep_anyway or not result.missed):
            bench.write(result.model, path, overwrite)
    return result
