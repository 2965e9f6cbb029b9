"""What the user said of the model, the data and the machine, checked and opened before any long work."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx
from lissom_runtime.errors import UsageError
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.target import Machine

from lissom.data import Array, Dataset, Feeds, InputSpec, first_feeds, input_specs, open_dataset, samples_of
from lissom.graph.load import from_proto, read_proto
from lissom.graph.model import Model
from lissom.lowering.price import provider_of
from lissom.observe import layer_bytes
from lissom.options import Resource
from lissom.parallel import SERIAL, Workers
from lissom.progress import Progress, silent
from lissom.recipe import Bounds, Recipe
from lissom.scoring import Scorer, batch_size
from lissom.target.schema import Target, read_target, require_here

RESOURCE_OF: Mapping[str, Resource] = {
    "keep_params": "params",
    "keep_macs": "macs",
    "max_bytes": "bytes",
    "latency_ratio": "latency_us",
}
"""What each bound limits."""

CALIBRATION_SAMPLES = 512
"""Samples that statistics are taken of."""


@dataclass(frozen=True)
class Job:
    """A model with all that is needed to compress it, whatever recipe and bounds are asked for.

    Attributes:
        name: name and SHA-256 of the input file.
        model: the model as loaded.
        original: the same, serialized; what results are compared with.
        specs: what its inputs accept.
        calibration: samples that statistics are taken of.
        validation: samples that scores are taken of.
        feeds: one input; its shape is what work and latency mean.
        provider: where the models run.
        metric: the first score, or None for the default.
        seed: of random inputs, samples and starts.
        include, exclude: regular expressions on the names of layers.
        cache: folder for measurements, or None for the user's.
        machine: what this runs on.
        target: the processor that options are made for, where the user told it.
        progress: shows how far long loops are.
        workers: who looks at the layers.
    """

    name: Mapping[str, str]
    model: Model
    original: bytes
    specs: Sequence[InputSpec]
    calibration: Dataset | None
    validation: Dataset | None
    feeds: Feeds
    provider: ProviderRequest
    metric: str | None
    seed: int
    include: str | None
    exclude: str | None
    cache: Path | None
    machine: Machine
    progress: Progress
    target: Target | None = None
    workers: Workers = SERIAL

    @cached_property
    def batch(self) -> int:
        """Samples per run."""
        return batch_size(self.specs, layer_bytes(self.model, self.feeds) // samples_of(self.feeds))

    @property
    def block(self) -> int:
        """Channels come in multiples of this."""
        return self.machine.block() if self.target is None else self.target.channel_block

    def samples(self) -> Iterator[Feeds]:
        """The samples that statistics are taken of, batch by batch."""
        return (feeds for feeds, _ in self.labelled())

    def labelled(self) -> Iterator[tuple[Feeds, Array | None]]:
        """The same with one label a sample, or none."""
        assert self.calibration is not None
        starts = range(0, min(CALIBRATION_SAMPLES, self.calibration.size), self.batch)
        for start in self.progress(starts, "observing"):
            yield self.calibration.read(start, min(start + self.batch, self.calibration.size))

    def scorer(self, data: Dataset | None) -> Scorer:
        """A scorer of this model on some data.

        Raises:
            UsageError: the metric needs labels that the data have not.
        """
        return Scorer(self.original, data, self.feeds, self.provider, self.metric, self.batch, self.progress)


def open_job(
    model: str | Path | onnx.ModelProto,
    *,
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
    cache: Path | None = None,
    progress: Progress = silent,
) -> Job:
    """Opens what `lissom.compress` and `lissom.sweep` are given; the arguments are theirs.

    Raises:
        UsageError: an argument or the data are not acceptable.
        LoadError: the model or the provider cannot be loaded.
    """
    proto = model if isinstance(model, onnx.ModelProto) else read_proto(Path(model))
    loaded = from_proto(proto, convert_opset)
    for pattern in (include, exclude):
        _require_pattern(pattern)
    specs = input_specs(loaded.inputs)
    opened = None if calibration is None else open_dataset(calibration, specs)
    original = (proto if convert_opset is None else loaded.to_proto()).SerializeToString()
    name = "model" if isinstance(model, onnx.ModelProto) else Path(model).name
    return Job(
        name={"name": name, "sha256": hashlib.sha256(original).hexdigest()},
        model=loaded,
        original=original,
        specs=specs,
        calibration=opened,
        validation=opened if validation is None else open_dataset(validation, specs),
        feeds=first_feeds(specs, opened, dict(shapes or {}), seed),
        provider=provider_of([proto], provider or ProviderRequest()),
        metric=metric,
        seed=seed,
        include=include,
        exclude=exclude,
        cache=cache,
        machine=Machine.here(),
        target=target if target is None or isinstance(target, Target) else read_target(str(target)),
        progress=progress,
    )


def require_fit(recipe: Recipe, bounds: Bounds) -> None:
    """Refuses bounds that the objective of the recipe does not know.

    Raises:
        UsageError: there are more budgets than the objective takes, or another than it takes.
    """
    objective = recipe.allocate.objective
    if len(bounds.budgets) > 1 and objective != "total":
        raise UsageError(
            f'expected one budget (and a goal, if you like) for the objective "{objective}", but got '
            f"{', '.join(bounds.budgets)}"
        )
    if objective == "alds" and set(bounds.budgets) - {"keep_params"}:
        raise UsageError(f'expected keep_params for the objective "alds", but got {", ".join(bounds.budgets)}')


def limited(recipe: Recipe, bounds: Bounds) -> list[Resource]:
    """The resources that are limited, or the one that is cut to reach a goal."""
    return [RESOURCE_OF[name] for name in bounds.budgets] or [recipe.allocate.budget]


def require_data(job: Job, recipe: Recipe, bounds: Bounds) -> None:
    """Refuses a recipe or a goal that needs data, or a target, that were not given.

    Raises:
        UsageError: there are none; the message says what needs them. Or latency is to be cut, which is measured here,
            for a target that is another machine.
    """
    if bounds.max_drop is not None and job.validation is None:
        raise UsageError("expected --validation or --calibration data for the goal max_drop, but got none")
    if recipe.by_target and job.target is None:
        raise UsageError(
            f"expected --target NAME|FILE for the recipe {recipe.name!r} (`lissom target` writes one), but got none"
        )
    if job.target is not None and "latency_us" in limited(recipe, bounds):
        require_here(job.target, job.machine, job.provider)
    needs = {f"the metric {recipe.metric}": recipe.needs_moments} | {
        "the error outputs": recipe.allocate.error == "outputs",
        "the refit": recipe.refit.enabled,
    }
    for what, is_needed in needs.items():
        if is_needed and job.calibration is None:
            raise UsageError(f"expected --calibration data for {what}, but got none")


def require_scale(scorer: Scorer, bounds: Bounds) -> None:
    """Refuses a goal on a score that has no scale of its own.

    Raises:
        UsageError: the first metric is a signal-to-noise ratio.
    """
    if bounds.max_drop is not None and scorer.metrics[0] == "output":
        raise UsageError(
            "expected a score with a scale of its own for the goal max_drop (--metric top1, top5, agreement or "
            "MODULE:FUNCTION), but this model's is a signal-to-noise ratio in dB"
        )


def _require_pattern(pattern: str | None) -> None:
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise UsageError(f"expected a regular expression, but got {pattern!r}: {error}") from error
