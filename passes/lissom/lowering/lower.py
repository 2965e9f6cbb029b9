"""`lissom.lower`: from a model with sparse weights to one that the runtime's kernels run. The command does the same."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
from lissom_runtime.errors import UsageError
from lissom_runtime.latency import compare
from lissom_runtime.packing import Packed
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.session import open_session, run_session
from lissom_runtime.target import Machine

from lissom import pipeline
from lissom.data import Feeds, first_feeds, input_specs
from lissom.graph.load import from_proto, read_proto
from lissom.graph.model import Model
from lissom.graph.save import require_writable, save
from lissom.graph.spec import require_legal
from lissom.graph.steps import apply_steps
from lissom.lowering.apply import apply
from lissom.lowering.fuse import Shapes, Tail, tail
from lissom.lowering.price import Speed, measure, native, native_obstacle
from lissom.lowering.propose import KIND, Site, propose, sources
from lissom.lowering.report import LoweredLayer, Lowering, SpeedEntry
from lissom.observe import observe_shapes
from lissom.options import Refusal
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
        include: regular expression; only layers whose name it finds are changed.
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
    loaded = from_proto(proto, convert_opset)
    request = provider or ProviderRequest()
    feeds = first_feeds(input_specs(loaded.inputs), None, dict(shapes or {}), seed)
    canonical = pipeline.canonicalise(loaded, feeds)
    edited = canonical.model.copy()
    seen = observe_shapes(edited, sources(edited), feeds)
    proposal = propose(edited, seen, max_density, include, exclude)
    timed = native(request) if measured else None
    decided = [_decide(edited, site, seen, timed) for site in progress(proposal.sites, "lowering")]
    require_legal(edited, after=KIND)
    apply_steps(edited, pipeline.FINISHING)
    difference = require_same(canonical.model, edited, feeds, "the lowered model")
    content = edited.to_proto()
    runs_natively = native(request)
    natively = None
    if runs_natively is not None:
        natively = require_same(canonical.model, edited, feeds, "the lowered model on its kernels", runs_natively)
    paired = None
    if timed is not None and any(layer.decision == "lowered" for layer in decided):
        sessions = open_session(proto.SerializeToString(), timed), open_session(content.SerializeToString(), timed)
        paired = compare(*sessions, feeds)
    affine = [refusal for outcome in canonical.outcomes.values() for refusal in outcome.refusals]
    missed = _missed(decided, None if paired is None else paired.verdict)
    report = Lowering(
        status="missed" if missed else "met",
        model={
            "name": "model" if source is None else source.name,
            "sha256": hashlib.sha256(proto.SerializeToString()).hexdigest(),
        },
        environment=environment(request, Machine.here()),
        input_shapes={name: list(values.shape) for name, values in feeds.items()},
        remarks=[*edited.remarks, *_remarks(request, measured)],
        bytes_before=proto.ByteSize(),
        bytes_after=content.ByteSize(),
        verified=difference,
        verified_natively=natively,
        latency=None if paired is None else latency_entry(paired, feeds),
        layers=decided,
        refusals=[
            RefusalEntry(site=refusal.site, kind=refusal.kind, reason=refusal.reason)
            for refusal in (*affine, *proposal.refusals, *_kept_dense(decided))
        ],
    )
    if target is not None and not missed:
        save(content, target, lambda draft: _require_runs(draft, request, feeds), overwrite)
    return Lowered(content, report, missed)


def _decide(model: Model, site: Site, shapes: Shapes, timed: ProviderRequest | None) -> LoweredLayer:
    """Lowers one layer, unless it is measured to be no faster."""
    behind = tail(model, site.node, len(site.weight), shapes)
    packed = site.packed()
    speed = None if timed is None else measure(model, site, packed, behind, timed)
    entry = _entry(site, packed, behind, speed)
    if speed is not None and speed.verdict != "faster":
        return entry
    node = apply(model, site, packed, behind)
    return entry.model_copy(update={"decision": "lowered", "operator": node.op})


def _entry(site: Site, packed: Packed, behind: Tail, speed: Speed | None) -> LoweredLayer:
    return LoweredLayer(
        site=site.name,
        op=site.node.op,
        weight_shape=list(site.weight.shape),
        density=packed.density,
        block=packed.block,
        orientation=packed.orientation,
        columns=packed.format,
        fused=[node.name for node in behind.nodes],
        decision="dense",
        operator=site.node.op,
        bytes_before=site.weight.nbytes,
        bytes_after=packed.nbytes + 8 * len(packed.shape),
        speed=None if speed is None else SpeedEntry(**asdict(speed)),
    )


def _kept_dense(layers: Sequence[LoweredLayer]) -> list[Refusal]:
    return [
        Refusal(layer.site, KIND, f"measured against the dense layer: {layer.speed.verdict}")
        for layer in layers
        if layer.decision == "dense" and layer.speed is not None
    ]


def _missed(layers: Sequence[LoweredLayer], verdict: str | None) -> str:
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
