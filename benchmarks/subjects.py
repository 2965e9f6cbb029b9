"""What the benchmarks that answer a question share: networks with statistics, a ruler of distortions, a results file.

Statistics are of the first calibration samples, without labels. Distortions are measured on held-out samples: those of
the validation data. Both are the first of their files.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from lissom.canonical import Canonical, canonicalise
from lissom.clustered.tiles.propose import KIND as TILES
from lissom.data import Feeds, first_feeds, input_specs, open_dataset
from lissom.graph.layers import Layer
from lissom.graph.load import load
from lissom.graph.model import Model
from lissom.kinds import KINDS
from lissom.lowrank.propose import KIND as LOW_RANK
from lissom.observe import Moment, affordable, layer_bytes, observe_moments
from lissom.options import FloatArray, Option, Parameters
from lissom.parallel import one_blas_thread
from lissom.pipeline import Study
from lissom.price.cache import Cache
from lissom.price.latency import LatencyTable
from lissom.price.outputs import FLOOR, distortion
from lissom.rewrite import in_copy, replace_weight, take_up_mean
from lissom.scoring import batch_size
from lissom.sparse.propose import KIND as SPARSE
from lissom.version import __version__
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.session import open_session, run_session
from lissom_runtime.target import Machine

from benchmarks.results import REPORTS, Case, cases

NETWORKS = ("resnet20 (CIFAR-10 JPEG)", "vgg-small", "ch_PP-OCRv4_rec_infer")
"""The networks that the questions are asked of."""

SMOKE_NETWORKS = ("lenet5",)
SMOKE_SAMPLES = 64
"""Those of `--fast`."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Subject:
    """A network and what is known of it before an option is looked at.

    Attributes:
        case: where it lies, and its data.
        original: bytes of the file.
        canonical: the model that options are made for.
        calibration: samples, batch by batch.
        held_out: other samples, batch by batch.
        moments: mean and second moment of each layer's input, by layer.
    """

    case: Case
    original: bytes
    canonical: Canonical
    calibration: Sequence[Feeds]
    held_out: Sequence[Feeds]
    moments: Mapping[str, Moment]


def open_subject(case: Case, samples: int, held_out: int) -> Subject:
    """Reads a network and observes its layers.

    Args:
        case: the network.
        samples: of the calibration data, for the statistics.
        held_out: of the validation data.
    """
    canonical = open_canonical(case)
    specs = input_specs(canonical.model.inputs)
    batch = batch_size(specs, layer_bytes(canonical.model, canonical.feeds))

    def batches(source: str, limit: int) -> list[Feeds]:
        return [feeds for feeds, _ in open_dataset(source, specs).batches(batch, limit)]

    calibration = batches(case.calibration, samples)
    moments = observe_moments(canonical.model, affordable(canonical.layers), calibration)
    others = batches(case.validation, held_out)
    return Subject(case, case.model.read_bytes(), canonical, calibration, others, moments)


def open_canonical(case: Case) -> Canonical:
    """Reads a network; costs are those of its first calibration sample."""
    model = load(case.model)
    return canonicalise(model, first_feeds(input_specs(model.inputs), case.calibration, {}))


class Ruler:
    """Measures how far the outputs of a changed network are from the original's, as `lissom.price.outputs` says.

    Args:
        subject: the original, and the held-out samples.
    """

    def __init__(self, subject: Subject) -> None:
        self._batches = subject.held_out
        self._original = list(self._outputs(subject.canonical.model))
        shape = self._original[0][0].shape
        self._classifies = len(shape) == 2 and shape[1] > 1

    def __call__(self, model: Model) -> float:
        """The distortion, at least that of rounding."""
        pairs = zip(self._original, self._outputs(model), strict=True)
        return max(distortion(pairs, self._classifies), FLOOR)

    def _outputs(self, model: Model) -> Iterator[Sequence[Array]]:
        """Batch by batch."""
        session = open_session(model.to_proto().SerializeToString())
        for feeds in self._batches:
            yield run_session(session, feeds)


def approximation(study: Study, layer: Layer, option: Option) -> Array:
    """The dense weight[f, c, *kernel] that an option of a study stands for."""
    with one_blas_thread():
        return KINDS[option.kind].approximate(layer, option.parameters, study.moments.get(layer.name))


def with_weight(study: Study, layer: Layer, weight: Array) -> Model:
    """A copy of the model in which one layer has another weight, and a bias that takes up the mean error."""
    copy = study.canonical.model.copy()
    changed = in_copy(copy, layer)
    take_up_mean(changed, weight, study.means.get(layer.name))
    replace_weight(changed, weight)
    return copy


def output_error(layer: Layer, weight: Array, moment: FloatArray) -> float:
    """√(tr E Σ Eᵀ / tr W Σ Wᵀ), E = W − Ŵ on [f, cκ]: the relative error of the layer's output.

    Args:
        layer: the layer, with its weight W.
        weight: the weight Ŵ in its place.
        moment: Σ[cκ, cκ], second moment of the layer's input columns.
    """
    whole = layer.folded.astype(np.float64)
    missing = whole - weight.reshape(whole.shape)
    scale = float(np.vdot(whole @ moment, whole))
    return float(np.sqrt(max(float(np.vdot(missing @ moment, missing)), 0.0) / scale)) if scale > 0 else 0.0


def title(kind: str, parameters: Parameters, with_groups: bool = True) -> str:
    """What an option replaces a layer by, in words, without its size.

    Args:
        kind: of the option.
        parameters: of the option, or of its ladder.
        with_groups: whether the numbers of groups or tiles are told, or only that there are some.
    """
    if kind == TILES:
        return f"tiles {parameters['inputs']}×{parameters['outputs']}" if with_groups else kind
    if kind == SPARSE:
        return f"sparse {parameters['width']}×1"
    if kind != LOW_RANK:
        return kind
    groups, side = parameters["groups"], parameters["side"]
    grouped = "" if groups == 1 else f", {groups} groups of {side}s" if with_groups else f", groups of {side}s"
    return f"folding {parameters['folding']}{grouped}"


def latency_table(provider: ProviderRequest, cache: Path | None) -> LatencyTable:
    """The table that `lissom compress` measures with, and its cache (default: the user's)."""
    machine = Machine.here()
    identity = {key: value for key, value in machine.to_json().items() if key != "isa"}
    emit = {name: kind.emit_random for name, kind in KINDS.items()}
    return LatencyTable(provider, identity, machine.block(), emit, Cache(cache))


def command(description: str) -> argparse.ArgumentParser:
    """A parser with the arguments that all these benchmarks have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, help="folder of the CIFAR-10 (JPEG) ResNet-20")
    parser.add_argument("--ocr", type=Path, help="folder of the PP-OCR networks")
    parser.add_argument("--only", help="only networks whose name contains this")
    parser.add_argument("--samples", type=int, default=512, help="calibration samples")
    parser.add_argument("--held-out", type=int, default=128, help="samples that distortions are measured on")
    parser.add_argument("--cache", type=Path, help="folder for measurements; default: the user's")
    parser.add_argument("--fast", action="store_true", help="lenet5 with few samples: does it work?")
    return parser


def arguments_of(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The parsed arguments; `--fast` takes few samples."""
    arguments = parser.parse_args(argv)
    if arguments.fast:
        arguments.samples, arguments.held_out = SMOKE_SAMPLES, SMOKE_SAMPLES
    return arguments


def chosen_cases(arguments: argparse.Namespace, names: Sequence[str] = NETWORKS) -> Iterator[Case]:
    """The asked-for networks of `names`; one whose file is not there leaves a line."""
    wanted = SMOKE_NETWORKS if arguments.fast else names
    for case in cases(arguments.cifar or Path(), arguments.ocr):
        if case.name not in wanted or (arguments.only or "") not in case.name:
            continue
        if case.model.exists():
            yield case
        else:
            print(f"({case.name}: no file {case.model.name}; give its folder)", flush=True)


def write_results(name: str, provider: ProviderRequest, arguments: argparse.Namespace, content: Any) -> None:
    """Writes `content` with the circumstances to build/results/NAME.json; of a part of the networks, NAME-ONLY.json."""
    packages = {package: version(package) for package in ("numpy", "scipy", "onnx", "onnxruntime")}
    found = {
        "machine": Machine.here().to_json(),
        "versions": {"lissom": __version__, **packages},
        "providers": list(provider.names),
        "threads": provider.threads,
        "arguments": {key: _plain(value) for key, value in sorted(vars(arguments).items())},
        **content,
    }
    REPORTS.mkdir(parents=True, exist_ok=True)
    part = "fast" if arguments.fast else file_words(getattr(arguments, "only", None) or "")
    target = REPORTS / f"{name}{part and f'-{part}'}.json"
    target.write_text(json.dumps(found), encoding="utf-8")
    print(f"\nwrote {target}")


def file_words(text: str) -> str:
    """A name of a network, or a part of one, as part of a file's name."""
    return re.sub(r"\W+", "-", text).strip("-")


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, its first column text and the others numbers."""
    head = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    return "\n".join([*head, *("| " + " | ".join(row) + " |" for row in rows)])
