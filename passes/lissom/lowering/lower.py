"""`lissom.lower`: from a model with sparse weights to one that the runtime's kernels run. The command does the same."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from lissom_runtime.errors import UsageError
from lissom_runtime.latency import PairedLatency, compare_many
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.session import open_session, run_session
from lissom_runtime.target import Machine

from lissom.canonical import FINISHING, canonicalise
from lissom.data import Feeds, first_feeds, input_specs
from lissom.graph.load import read_proto
from lissom.graph.model import Model
from lissom.graph.save import require_writable, save
from lissom.graph.spec import require_legal
from lissom.graph.steps import apply_steps
from lissom.lowering.decide import Decisions, decide
from lissom.lowering.price import native, native_obstacle
from lissom.lowering.propose import KIND, propose, sources
from lissom.lowering.reading import is_sparse, read_with_masks, with_names
from lissom.lowering.report import LoweredLayer, Lowering
from lissom.observe import observe_shapes
from lissom.progress import Progress, silent
from lissom.report.build import environment, latency_entry
from lissom.report.schema import RefusalEntry
from lissom.verify import require_same


@dataclass(frozen=True)
class Lowered:
    """What `lower` returns.

    Attributes:
        model: the lowered model.
        report: what was decided and measured.
        missed: why the result is not better than the original; "" when it is.
    """

    model: onnx.ModelProto
    report: Lowering
    missed: str = ""


def lower(
    model: str | Path | onnx.ModelProto,
    output: str | Path | None = None,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    provider: ProviderRequest | None = None,
    max_density: float | None = None,
    measured: bool = True,
    include: str | None = None,
    exclude: str | None = None,
    convert_opset: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Lowered:
    """Turns the layers with sparse weights into operators of the runtime, and proves that they compute the same.

    Args:
        model: path of an `.onnx` file, or a protobuf (which is not changed).
        output: where to write the result; None writes nothing.
        shapes: shape of inputs, by name, at which latency is meant.
        provider: execution provider and threads; default: the CPU, one thread.
        max_density: largest density of a weight, in its blocks, that is lowered; default: by operator and block.
        measured: keep the layers dense that are not measured to be faster, where the kernel library can be timed.
        include: regular expression; only layers whose name it finds are changed; sparse operators stay sparse.
        exclude: regular expression; layers whose name it finds are not.
        convert_opset: opset to convert the model up to first.
        seed: of random inputs.
        overwrite: replace `output` if it exists.
        progress: shows how far long loops are.

    Returns:
        The result. When it is no better than the original, `missed` says why, and nothing was written.

    Raises:
        UsageError: an argument is not acceptable, or a weight is not finite.
        LoadError: the model or the provider cannot be loaded.
        VerificationError: the result does not compute what the original does; a defect of lissom.
    """
    source = None if isinstance(model, onnx.ModelProto) else Path(model)
    target = None if output is None else Path(output)
    if target is not None:
        require_writable(target, overwrite, source)
    if max_density is not None and not 0 <= max_density <= 1:
        raise UsageError(f"expected a density between 0 and 1, but got {max_density}")
    for pattern in (include, exclude):
        _require_pattern(pattern)
    proto = model if isinstance(model, onnx.ModelProto) else read_proto(Path(model))
    named = with_names(proto)
    loaded = read_with_masks(named, convert_opset)
    sparse = frozenset(node.name for node in named.graph.node if is_sparse(node))
    request = provider or ProviderRequest()
    feeds = first_feeds(input_specs(loaded.inputs), None, dict(shapes or {}), seed)
    canonical = canonicalise(loaded, feeds)
    timed = native(request) if measured else None

    def lowered(timed: ProviderRequest | None) -> _Draft:
        edited = canonical.model.copy()
        seen = observe_shapes(edited, sources(edited), feeds)
        proposal = propose(edited, seen, max_density, include, exclude, sparse)
        decided = decide(edited, proposal, seen, timed, progress)
        require_legal(edited, after=KIND)
        apply_steps(edited, FINISHING)
        return _Draft(edited, decided)

    draft, paired, remarks = lowered(timed), None, _remarks(request, measured)
    if timed is not None:
        every = lowered(None)
        better, paired = _time_whole(proto, draft, every, timed, feeds)
        if better:
            draft = every.with_speeds(draft)
            remarks.append("lowering every candidate was faster than deciding layer by layer: the whole model decided")
    edited, decided = draft.model, draft.decisions
    difference = require_same(canonical.model, edited, feeds, "the lowered model")
    content = edited.to_proto()
    runs_natively = native(request)
    natively = None
    if runs_natively is not None:
        natively = require_same(canonical.model, edited, feeds, "the lowered model on its kernels", runs_natively)
    affine = [refusal for outcome in canonical.outcomes.values() for refusal in outcome.refusals]
    missed = _missed(_asked(decided.layers), None if paired is None else paired.verdict)
    report = Lowering(
        status="missed" if missed else "met",
        model={
            "name": "model" if source is None else source.name,
            "sha256": hashlib.sha256(proto.SerializeToString()).hexdigest(),
        },
        environment=environment(request, Machine.here()),
        input_shapes={name: list(values.shape) for name, values in feeds.items()},
        remarks=[*edited.remarks, *remarks],
        bytes_before=proto.ByteSize(),
        bytes_after=content.ByteSize(),
        verified=difference,
        verified_natively=natively,
        latency=None if paired is None else latency_entry(paired, feeds),
        layers=decided.layers,
        refusals=[
            RefusalEntry(site=refusal.site, kind=refusal.kind, reason=refusal.reason)
            for refusal in (*affine, *decided.refusals)
        ],
    )
    if target is not None and not missed:
        save(content, target, lambda draft: _require_runs(draft, request, feeds), overwrite)
    return Lowered(content, report, missed)


@dataclass(frozen=True)
class _Draft:
    """A lowered model, and what was decided for it."""

    model: Model
    decisions: Decisions

    def with_speeds(self, other: _Draft) -> _Draft:
        """The draft with what was measured of the layers for another one of the same candidates."""
        measured = {layer.site: layer for layer in other.decisions.layers}
        layers = [_with_speeds(layer, measured[layer.site]) for layer in self.decisions.layers]
        return replace(self, decisions=replace(self.decisions, layers=layers))


def _with_speeds(layer: LoweredLayer, other: LoweredLayer) -> LoweredLayer:
    """A layer with what was measured of it; the same chains are looked at whether they are timed or not."""
    chain = layer.chain
    if chain is not None and other.chain is not None:
        chain = chain.model_copy(update={"speed": other.chain.speed, "singly": other.chain.singly})
    return layer.model_copy(update={"speed": other.speed, "chain": chain})


def _time_whole(
    original: onnx.ModelProto, decided: _Draft, every: _Draft, provider: ProviderRequest, feeds: Feeds
) -> tuple[bool, PairedLatency | None]:
    """Times the whole model, since layers add up to a network only roughly.

    Args:
        original: the model as it was read.
        decided: with the layers lowered that were measured to be faster.
        every: with every candidate lowered.
        provider: where, with the kernel library.
        feeds: the input.

    Returns:
        Whether `every` is significantly faster than the original and has the lower median, and the latency of the draft
        to take against the original's (None for one that lowers nothing).
    """
    contents = [
        original.SerializeToString(),
        *(draft.model.to_proto().SerializeToString() for draft in (decided, every)),
    ]
    lowers = any(layer.decision == "lowered" for layer in _asked(decided.decisions.layers))
    if not _asked(every.decisions.layers):
        return False, None
    sessions = [open_session(content, provider) for content in contents]
    before, *after = compare_many([(session, feeds) for session in sessions])
    of_decided, of_every = after[0] if lowers else before, after[-1]
    better = PairedLatency(before, of_every).verdict == "faster" and of_every.median < of_decided.median
    taken = of_every if better else of_decided
    return better, PairedLatency(before, taken) if better or lowers else None


def _asked(layers: Sequence[LoweredLayer]) -> list[LoweredLayer]:
    """The layers that were asked for."""
    return [layer for layer in layers if layer.asked]


def _missed(layers: Sequence[LoweredLayer], verdict: str | None) -> str:
    """What is expected of the layers that were asked for and did not come, or nothing."""
    if not any(layer.decision == "lowered" for layer in layers):
        if not layers:
            return "expected at least 1 layer that is sparse enough to lower, but got 0"
        return f"expected at least 1 layer to be faster sparse, but none of {len(layers)} was measured to be"
    if verdict == "slower":
        return "expected a model that is not slower than the original, but the lowered one is"
    return ""


def _remarks(provider: ProviderRequest, measured: bool) -> list[str]:
    if (obstacle := native_obstacle(provider)) is not None:
        return [f"latency was not measured, the operators do not run natively here: {obstacle}"]
    return [] if measured else ["latency was not measured (--no-measure): the layers were chosen by their density"]


def _require_pattern(pattern: str | None) -> None:
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise UsageError(f"expected a regular expression, but got {pattern!r}: {error}") from error


def _require_runs(draft: Path, provider: ProviderRequest, feeds: Feeds) -> None:
    """The file as written loads and runs."""
    run_session(open_session(draft, provider), feeds)
