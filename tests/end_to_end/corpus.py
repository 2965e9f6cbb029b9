"""The ONNX backend test corpus, every model taken through lissom's lossless steps.

A model is loaded (converted up to `LEAST_OPSET` where it is older), canonicalised, given low-rank
pairs of full rank wherever it has layers, saved and run. One `Verdict` a model:

    equal         ONNX Runtime gives the corpus's outputs for the result, within the corpus's tolerance
    declined      lissom says in one sentence why not; the reason is one of `REASONS`
    ort cannot    ONNX Runtime does not run the model itself, neither as it is nor converted up
    ort differs   ONNX Runtime runs it and gives other outputs than the corpus
    failed        anything else: other outputs, any exception but a `LissomError`, a step that
                  lissom's own verification refused, a reason that nobody foresaw

The models that ONNX Runtime cannot run go through lissom all the same: it may decline, not crash.
The node models have all their tensors as inputs; their *frozen* twins keep the first input and hold
the others as constants, so that there is something to fold and to factorise.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test.case.node
import onnx.version_converter
from lissom import applying, pipeline
from lissom.canonical import CANONICAL, FINISHING, READING, Canonical, canonicalise
from lissom.graph.load import LEAST_OPSET, from_proto
from lissom.graph.model import LEAST_IR, Model
from lissom.graph.save import save
from lissom.graph.steps import apply_steps
from lissom.lowrank import propose
from lissom.lowrank.foldings import Scheme, divisors, foldings_of
from lissom.lowrank.pairs import max_rank, pair, sliced_channels
from lissom.options import Cost, Option, Plan
from lissom.recipe import read_recipe
from lissom_runtime.errors import LissomError, VerificationError
from lissom_runtime.session import open_session
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

FOLDERS = ("simple", "pytorch-converted", "pytorch-operator")
"""The families that onnx ships as files."""

NODE_SHARDS = 8
"""The node models are made by running onnx's test modules, which takes a while: each shard runs its own."""

STATUSES = ("equal", "declined", "ort cannot", "ort differs", "failed")

LOW_RANK = "low rank"

STEPS = (*(step.name for step in (*READING, *CANONICAL, *FINISHING)), LOW_RANK)

REASONS = (
    r"expected tensors as inputs and outputs, but .* is of (sequence|optional)_type",
    r"expected an import of the standard ONNX operators, but the model names no opset",
)
"""Why lissom may decline a model that ONNX Runtime runs."""

CONVERTED_REASONS = (r"expected the model to (load|run) in onnxruntime",)
"""Why it may decline one that had to be converted up: onnx's converter does not get everything right."""

_ALWAYS_FROZEN = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "If", "Loop", "Scan"})
"""Small models of these are all frozen; of other small ones every fourth, of large ones every twelfth."""

_SMALL = 4
"""Nodes from which a model is large: an operator expanded into its function."""


@dataclass(frozen=True)
class Case:
    """A model with inputs and the outputs that are right for them.

    Attributes:
        data: pairs of feeds by input name and outputs in order.
        largest: layers with more weights than this stay dense.
        is_network: the outputs are those of plain ONNX Runtime, and no run is spent on checking them; one plan
            gives each layer another scheme. Else all schemes of every layer are tried, one plan each.
    """

    family: str
    name: str
    model: onnx.ModelProto
    data: Sequence[tuple[Mapping[str, Any], Sequence[Any]]]
    rtol: float
    atol: float
    largest: int = 1 << 30
    is_network: bool = False

    @property
    def is_old(self) -> bool:
        """Whether the model has to be converted up."""
        versions = [entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")]
        return bool(versions) and max(versions) < LEAST_OPSET


@dataclass(frozen=True)
class Verdict:
    """What became of a case; `changed` counts the edits of each step."""

    family: str
    name: str
    status: str
    reason: str = ""
    changed: Mapping[str, int] = field(default_factory=dict)


def folder_cases(family: str) -> Iterator[Case]:
    """The cases of one of `FOLDERS`, in order of their names."""
    for case in sorted(load_model_tests(kind=family), key=lambda case: str(case.name)):
        folder = Path(case.model_dir)
        model = onnx.load(folder / "model.onnx")
        data = [
            (_feeds(model, _stored(part, "input", model.graph.input)), _stored(part, "output", model.graph.output))
            for part in sorted(folder.glob("test_data_set_*"))
        ]
        yield Case(family, case.name, model, data, case.rtol, case.atol)


@cache
def node_cases(shard: int) -> tuple[Case, ...]:
    """The node cases of one shard: those that the modules make whose names hash to it."""
    package = onnx.backend.test.case.node
    names = sorted(name for _, name, _ in pkgutil.walk_packages(package.__path__, package.__name__ + "."))
    made: list[Any] = package._NodeTestCases
    before = len(made)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnx's own: overflows in casts, logarithms of zero
        for name in names:
            if zlib.crc32(name.encode()) % NODE_SHARDS == shard:
                importlib.import_module(name)
    return tuple(
        Case(
            "node",
            case.name,
            case.model,
            [(_feeds(case.model, [_array(x) for x in xs]), [_array(y) for y in ys]) for xs, ys in case.data_sets],
            case.rtol,
            case.atol,
        )
        for case in made[before:]
    )


def frozen(cases: Iterable[Case]) -> Iterator[Case]:
    """Twins of some of the cases whose inputs but the first are constants."""
    for number, case in enumerate(cases):
        inputs, feeds = case.model.graph.input, case.data[0][0]
        nodes = case.model.graph.node
        is_small = len(nodes) < _SMALL
        chosen = number % (4 if is_small else 12) == 0
        chosen |= is_small and any(node.op_type in _ALWAYS_FROZEN for node in nodes)
        plain = len(inputs) == len(feeds) and all(isinstance(value, np.ndarray) for value in feeds.values())
        if not (plain and chosen and len(inputs) > 1):
            continue
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        model.ir_version = max(model.ir_version, LEAST_IR)
        del model.graph.input[1:]
        model.graph.initializer.extend(numpy_helper.from_array(feeds[v.name], v.name) for v in inputs[1:])
        first = {inputs[0].name: feeds[inputs[0].name]}
        yield Case("node, frozen", case.name, model, [(first, case.data[0][1])], case.rtol, case.atol)


def judge(case: Case, folder: Path) -> Verdict:
    """Takes one case through lissom; the file is written to `folder`."""
    status, reason = ("equal", "") if case.is_network else _baseline(case)
    changed: Counter[str] = Counter()
    try:
        results = _compile(case, changed)
        save(results[-1].to_proto(), folder / "model.onnx")
        sessions = [open_session(folder / "model.onnx")]
        sessions += [open_session(result.to_proto().SerializeToString()) for result in results[:-1]]
        if status == "equal":
            for session, (feeds, wanted) in product(sessions, case.data):
                _require_close(wanted, session.run(None, dict(feeds)), case)
    except VerificationError as error:
        status, reason = "failed", str(error)
    except LissomError as error:
        if status == "equal":
            allowed = REASONS + (CONVERTED_REASONS if case.is_old else ())
            status = "declined" if any(re.search(pattern, str(error)) for pattern in allowed) else "failed"
            reason = str(error)
    except Exception as error:  # whatever it is, it is a failure to be shown
        status, reason = "failed", "".join(traceback.format_exception(error)[-4:])
    return Verdict(case.family, case.name, status, reason, dict(changed))


def table(verdicts: Sequence[Verdict]) -> str:
    """The counts by family, why models were declined, and how many models each step changed."""
    families = list(dict.fromkeys(verdict.family for verdict in verdicts))
    lines = ["| family | models | " + " | ".join(STATUSES) + " |", "|---|" + "---:|" * (len(STATUSES) + 1)]
    for family in families:
        counts = Counter(verdict.status for verdict in verdicts if verdict.family == family)
        numbers = [counts.total(), *(counts[status] for status in STATUSES)]
        lines.append(f"| {family} | " + " | ".join(map(str, numbers)) + " |")
    lines += ["", "| step | " + " | ".join(families) + " |", "|---|" + "---:|" * len(families)]
    for step in STEPS:
        touched = [sum(v.family == family and v.changed.get(step, 0) > 0 for v in verdicts) for family in families]
        lines.append(f"| {step} | " + " | ".join(map(str, touched)) + " |")
    reasons = Counter(re.sub(r"'[^']*'", "…", v.reason) for v in verdicts if v.status == "declined")
    lines += ["", *(f"declined {count}: {reason}" for reason, count in reasons.most_common())]
    lines += [f"FAILED {v.family} {v.name}: {v.reason}" for v in verdicts if v.status == "failed"]
    return "\n".join(lines) + "\n"


def _baseline(case: Case) -> tuple[str, str]:
    """What ONNX Runtime itself makes of the model: as it is, else converted up by onnx."""
    status, reason = _plain_run(case, case.model)
    if status != "equal" and case.is_old:
        try:
            converted = onnx.version_converter.convert_version(case.model, LEAST_OPSET)
        except Exception:  # the converter raises whatever its C++ adapters throw
            return status, reason
        converted.ir_version = max(converted.ir_version, LEAST_IR)
        return _plain_run(case, converted)
    return status, reason


def _plain_run(case: Case, model: onnx.ModelProto) -> tuple[str, str]:
    try:
        session = open_session(model.SerializeToString())
        for feeds, wanted in case.data:
            try:
                _require_close(wanted, session.run(None, dict(feeds)), case)
            except AssertionError as error:
                return "ort differs", str(error)
    except Exception as error:  # ONNX Runtime raises many types
        return "ort cannot", str(error)
    return "equal", ""


def _compile(case: Case, changed: Counter[str]) -> list[Model]:
    """The canonical model with all lossless steps, then those with low-rank pairs."""
    feeds = case.data[0][0] if case.data else {}
    model = from_proto(case.model, LEAST_OPSET if case.is_old else None)
    names = {value.name for value in model.inputs}
    canonical = canonicalise(model, {name: value for name, value in feeds.items() if name in names})
    changed.update({step: len(outcome.changes) for step, outcome in canonical.outcomes.items()})
    finished = canonical.model.copy()
    for step, outcome in apply_steps(finished, FINISHING).items():
        changed[step] += len(outcome.changes)
    results = [] if case.is_network else [finished]  # applying.apply proves a network equal to its canonical form
    study = pipeline.Study(canonical, read_recipe("minimax"), [], [], {})
    for options in _lossless_options(case, canonical):
        results.append(applying.apply(study, Plan(options, 0.0)).model)
        changed[LOW_RANK] += len(options)
    return results


def _lossless_options(case: Case, canonical: Canonical) -> list[dict[str, Option]]:
    """Plans with full-rank pairs: the n-th has the n-th scheme of every layer, or one has different ones."""
    plans: dict[int, dict[str, Option]] = {}
    for number, layer in enumerate(canonical.layers):
        if layer.geometry.weight_size > case.largest:
            continue
        schemes = []
        for folding in foldings_of(layer.geometry.kernel_shape):
            schemes.append(Scheme(folding))
            for side in ("input", "output"):
                groups = divisors(sliced_channels(layer.geometry, side))[1:2]
                schemes.extend(Scheme(folding, side, count) for count in groups)
        if case.is_network:
            schemes = [schemes[number % len(schemes)]]
        for index, scheme in enumerate(schemes):
            rank = max_rank(layer.geometry, scheme)
            shape = pair(layer.geometry, scheme, rank)
            parameters = {"folding": scheme.folding, "side": scheme.side, "groups": scheme.groups, "rank": rank}
            cost = Cost(shape.params, shape.bytes, shape.encoder.macs + shape.decoder.macs)
            plans.setdefault(index, {})[layer.name] = Option(layer.name, propose.KIND, parameters, cost, 0.0, "none")
    return list(plans.values())


def _require_close(wanted: Any, got: Any, case: Case) -> None:
    """Whether outputs (arrays, strings, sequences, nothing) are equal within the case's tolerance."""
    if wanted is None or got is None:
        assert wanted is got, f"expected {wanted}, got {got}"
    elif isinstance(wanted, (list, tuple)):
        assert len(wanted) == len(got), f"expected {len(wanted)} values, got {len(got)}"
        for value, other in zip(wanted, got, strict=True):
            _require_close(value, other, case)
    else:
        value, other = np.asarray(wanted), np.asarray(got)
        assert value.shape == other.shape, f"expected shape {value.shape}, got {other.shape}"
        if value.dtype.kind in "OSU":
            assert value.astype(str).tolist() == other.astype(str).tolist(), "other strings"
            return
        assert value.dtype == other.dtype, f"expected {value.dtype}, got {other.dtype}"
        exact = (value.astype(np.float64), other.astype(np.float64))
        np.testing.assert_allclose(exact[1], exact[0], rtol=case.rtol, atol=case.atol)


def _feeds(model: onnx.ModelProto, values: Sequence[Any]) -> dict[str, Any]:
    """Values by input name; files give one for every input, or only for those without a default."""
    defaults = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input]
    free = [name for name in names if name not in defaults]
    return {
        name: value
        for name, value in zip(free if len(values) == len(free) else names, values, strict=False)
        if name in free
    }


def _stored(folder: Path, kind: str, declared: Sequence[onnx.ValueInfoProto]) -> list[Any]:
    """The values in the files `<kind>_<n>.pb`."""
    values = []
    for number in range(len(list(folder.glob(f"{kind}_*.pb")))):
        holder = onnx.SequenceProto() if declared[number].type.HasField("sequence_type") else onnx.TensorProto()
        holder.ParseFromString((folder / f"{kind}_{number}.pb").read_bytes())
        values.append(_array(holder))
    return values


def _array(value: Any) -> Any:
    """A value of the corpus as ONNX Runtime wants it."""
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, onnx.SequenceProto):
        return numpy_helper.to_list(value)
    return value if value is None or isinstance(value, list) else np.asarray(value)
