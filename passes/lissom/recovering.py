"""`lissom.recover`: a compressed model is trained to give what the original gives. The command does the same.

Training is the matter of `lissom.train`, which needs torch (extra `lissom[recover]`) and is imported when it is called.
Here the models and the data are checked before it, and the result is scored, timed and written after it.

1. The structure of the file stays: the numbers of its constants change, and nothing else. A file with operators of the
   runtime is read with dense weights and comes back so, unless it is asked to be lowered again.
2. A result whose held-out distortion is not lower is the model as it was given, and is not written unasked.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from lissom_runtime.errors import UsageError
from lissom_runtime.latency import compare
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.session import open_session, run_session
from lissom_runtime.target import Machine

from lissom.data import Feeds, InputSpec, first_feeds, input_specs, open_dataset
from lissom.graph.load import from_proto, read_proto
from lissom.graph.model import Model
from lissom.graph.save import require_writable, save
from lissom.graph.spec import require_valid
from lissom.lowering.lower import lower as lower_model
from lissom.lowering.price import provider_of
from lissom.progress import Progress, silent
from lissom.report.build import accuracy_entries, environment, latency_entry
from lissom.report.recovery import Recovery, ScoreEntry
from lissom.report.schema import TrainingEntry
from lissom.scoring import Scorer, batch_size
from lissom.training import Training, require_framework


@dataclass(frozen=True)
class Recovered:
    """What `recover` returns.

    Attributes:
        model: the trained model, or the one that was given where training did not help.
        report: what was trained and measured.
        missed: why the result is not better than what was given; "" when it is.
    """

    model: onnx.ModelProto
    report: Recovery
    missed: str = ""


def recover(
    compressed: str | Path | onnx.ModelProto,
    reference: str | Path | onnx.ModelProto,
    output: str | Path | None = None,
    *,
    calibration: str,
    validation: str | None = None,
    metric: str | None = None,
    training: Mapping[str, Any] | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    device: str = "cpu",
    lower: bool = False,
    provider: ProviderRequest | None = None,
    overwrite: bool = False,
    keep_anyway: bool = False,
    progress: Progress = silent,
) -> Recovered:
    """Trains a compressed model to give the outputs of the original, and proves what came of it.

    Args:
        compressed: path of an `.onnx` file, or a protobuf (which is not changed).
        reference: the original, with the same inputs and outputs.
        output: where to write the result; None writes nothing.
        calibration: data that are trained on (see `lissom.data`); labels are read where `training` asks for them.
        validation: data for scores; default: the calibration data.
        metric: "top1", "top5", "agreement", "output" or "MODULE:FUNCTION".
        training: settings by name (the fields of `lissom.training.Training`).
        checkpoint: file of the state of the run.
        resume: go on from `checkpoint` if it exists.
        device: where torch runs: "cpu" or "cuda".
        lower: turn layers with sparse weights into operators of the runtime again.
        provider: execution provider and threads of scores and latency; default: the CPU, one thread.
        overwrite: replace `output`, and a checkpoint, if they exist.
        keep_anyway: write a result that is not better, with status "missed".
        progress: shows how far long loops are.

    Returns:
        The result. When it is not better than `compressed`, `missed` says so, and nothing was written unless
        `keep_anyway`.

    Raises:
        UsageError: an argument or the data are not acceptable, torch is not installed, a graph cannot be trained, or
            the checkpoint is of another run.
        LoadError: a model or the provider cannot be loaded.
        VerificationError: the result is not valid, or has outputs that are not finite; a defect of lissom.
    """
    written, state = (None if path is None else Path(path) for path in (output, checkpoint))
    sources = [Path(model) for model in (compressed, reference) if not isinstance(model, onnx.ModelProto)]
    if written is not None:
        for source in sources or (None,):
            require_writable(written, overwrite, source)
    _require_checkpoint(state, resume, overwrite, [*sources, *([] if written is None else [written])])
    require_framework(device)
    from lissom.train.distil import distil

    asked = dict(training or {})
    _require_known(asked, [field.name for field in fields(Training)])
    settings = Training(**asked)
    given, original = (_read(model) for model in (compressed, reference))
    loaded = from_proto(given)
    specs = input_specs(loaded.inputs)
    _require_same_inputs(specs, from_proto(original))
    data = open_dataset(calibration, specs)
    judged = data if validation is None else open_dataset(validation, specs)
    feeds = first_feeds(specs, data, {})
    request = provider_of([given, original], provider or ProviderRequest())
    _require_same_outputs(given, original, request, feeds)
    scorer = Scorer(original.SerializeToString(), judged, feeds, request, metric, batch_size(specs), progress)
    scorer.require_original()

    began = time.perf_counter()
    found = distil(original, given, data, settings, state, resume, device, progress)
    seconds = time.perf_counter() - began
    missed = ""
    if found.best_epoch == 0:
        missed = (
            f"expected training to lower the distortion {found.before:.4g} of the held-out outputs, but after "
            f"{found.epochs} epochs it is not lower"
        )
    model, remarks = found.proto, [*loaded.remarks, *found.remarks]
    if lower and not missed:
        model, said = _lowered(model, request, feeds)
        remarks += said
    if validation is None:
        remarks.append("scores are of the calibration samples, which were trained on: --validation names others")
    require_valid(model, given)
    request = provider_of([given, model], request)
    before, after = (open_session(proto.SerializeToString(), request) for proto in (given, model))
    report = Recovery(
        status="missed" if missed else "met",
        model=_identity(compressed, given),
        reference=_identity(reference, original),
        environment=environment(request, Machine.here()),
        input_shapes={name: list(values.shape) for name, values in feeds.items()},
        remarks=remarks,
        training=TrainingEntry(
            settings=settings.settings,
            device=device,
            torch=version("torch"),
            data=data.name,
            samples=data.size,
            epochs=found.epochs,
            best_epoch=found.best_epoch,
            seconds=seconds,
        ),
        distortion_before=found.before,
        distortion_after=found.after,
        bytes_before=given.ByteSize(),
        bytes_after=model.ByteSize(),
        scores=_scores(scorer, given, model),
        latency=latency_entry(compare(before, after, feeds), feeds),
    )
    if written is not None and (keep_anyway or not missed):

        def require_runs(draft: Path) -> None:
            run_session(open_session(draft, request), feeds)

        save(model, written, require_runs, overwrite)
    return Recovered(model, report, missed)


def _require_checkpoint(path: Path | None, resume: bool, overwrite: bool, models: Sequence[Path]) -> None:
    """Refuses a place for the state of the run before any work is done."""
    if path is None:
        if resume:
            raise UsageError("expected --checkpoint FILE to resume from, but got none")
        return
    if path.resolve() in {model.resolve() for model in models}:
        raise UsageError(f"expected a checkpoint apart from the models, but it and a model are both {path}")
    require_writable(path, overwrite=True)
    if path.exists() and not resume and not overwrite:
        raise UsageError(
            f"expected a new checkpoint, but {path} exists (--resume goes on from it, --overwrite replaces it)"
        )


def _require_known(given: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise UsageError(f"expected settings of the training among {', '.join(known)}, but got {name!r}")


def _read(model: str | Path | onnx.ModelProto) -> onnx.ModelProto:
    return model if isinstance(model, onnx.ModelProto) else read_proto(Path(model))


def _identity(model: str | Path | onnx.ModelProto, proto: onnx.ModelProto) -> Mapping[str, str]:
    """Name and SHA-256 of a model."""
    name = "model" if isinstance(model, onnx.ModelProto) else Path(model).name
    return {"name": name, "sha256": hashlib.sha256(proto.SerializeToString()).hexdigest()}


def _require_same_inputs(specs: Sequence[InputSpec], original: Model) -> None:
    """The original takes what the compressed model takes: names, element types, and extents where both fix them."""
    wanted = input_specs(original.inputs)
    alike = len(wanted) == len(specs) and all(
        (a.name, a.dtype, len(a.shape)) == (b.name, b.dtype, len(b.shape))
        and all(x == y or None in (x, y) for x, y in zip(a.shape, b.shape, strict=True))
        for a, b in zip(wanted, specs, strict=True)
    )
    if not alike:
        raise UsageError(f"expected the inputs {_words(wanted)} of the original, but the model has {_words(specs)}")


def _words(specs: Sequence[InputSpec]) -> str:
    shapes = (", ".join("?" if extent is None else str(extent) for extent in spec.shape) for spec in specs)
    return ", ".join(f"{spec.name} {spec.dtype.name}[{shape}]" for spec, shape in zip(specs, shapes, strict=True))


def _require_same_outputs(
    given: onnx.ModelProto, original: onnx.ModelProto, provider: ProviderRequest, feeds: Feeds
) -> None:
    """Both models run, and give outputs of the same names, element types and shapes."""
    wanted, got = (_outputs(proto, provider, feeds) for proto in (original, given))
    if wanted != got:
        raise UsageError(f"expected the outputs {wanted} of the original, but the model has {got}")


def _outputs(proto: onnx.ModelProto, provider: ProviderRequest, feeds: Feeds) -> str:
    """Names, element types and shapes of the outputs, in words."""
    names = [value.name for value in proto.graph.output]
    values = [np.asarray(value) for value in run_session(open_session(proto.SerializeToString(), provider), feeds)]
    return ", ".join(f"{name} {value.dtype.name}{list(value.shape)}" for name, value in zip(names, values, strict=True))


def _lowered(model: onnx.ModelProto, provider: ProviderRequest, feeds: Feeds) -> tuple[onnx.ModelProto, list[str]]:
    """The model with its sparse layers as operators of the runtime, chosen by their density; and what is to be said."""
    shapes = {name: values.shape for name, values in feeds.items()}
    found = lower_model(model, shapes=shapes, provider=provider, measured=False)
    if found.missed:
        return model, [f"the result was not lowered: {found.missed}"]
    count = sum(layer.decision == "lowered" for layer in found.report.layers)
    return found.model, [f"{count} sparse layers were lowered again, chosen by their density"]


def _scores(scorer: Scorer, given: onnx.ModelProto, model: onnx.ModelProto) -> list[ScoreEntry]:
    """Every score of the original, of the model that was given and of the result."""
    before, after = (accuracy_entries(scorer, proto.SerializeToString()) for proto in (given, model))
    return [
        ScoreEntry(
            metric=old.metric, n=old.n, data=old.data, original=old.before, compressed=old.after, recovered=new.after
        )
        for old, new in zip(before, after, strict=True)
    ]
