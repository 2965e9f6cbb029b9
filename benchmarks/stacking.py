"""A recipe and INT8, each alone and both together: accuracy, bytes and latency, in one run.

    python benchmarks/stacking.py --cifar ../shared/data/cifar10-jpeg --ocr OCR_MODELS [--bound vgg-small:keep_macs=0.5]
    python benchmarks/stacking.py --fast

Four models of each network: the original; ONNX Runtime's static INT8 of it (`benchmarks/quantisation.py`, calibrated on
the first `--int8-samples` of the calibration data); what `lissom compress --recipe RECIPE` makes of it from the first
`--samples` (`lowrank`, if nothing else is asked for); static INT8 of that. Scores are of all validation samples (or the
first `--scored`), ratios of latencies are over the original's, all four timed in the same rounds on one sample, with
the 99 % interval. What has operators of the runtime is not quantised further; then there are three.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lissom
import onnx
from lissom.data import Dataset, Feeds, first_feeds, input_specs, open_dataset
from lissom.graph.load import load
from lissom.lowering.price import native
from lissom.report.schema import Report
from lissom.scoring import Scorer, batch_size
from lissom_runtime.accuracy import Score
from lissom_runtime.contract import DOMAIN
from lissom_runtime.latency import PairedLatency, Samples, Schedule, compare_many
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.session import open_session

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.quantisation import quantise
from benchmarks.results import Case, first
from benchmarks.subjects import NETWORKS, arguments_of, chosen_cases, command, markdown, write_results

ORIGINAL, INT8 = "original", "INT8"
COLUMNS = ("network", "model", "score", "bytes", "× original", "median µs", "latency [99 %]")
BOUND = "keep_macs=0.6"
"""What the compressed model must keep to, where no `--bound` names the network."""


@dataclass(frozen=True)
class Contestant:
    """One of the four models of a network.

    Attributes:
        model: which.
        bytes: of its file.
        score: of the validation samples.
        samples: its latencies.
        ratio, low, high: latency over the original's, and its interval.
    """

    model: str
    bytes: int
    score: Score
    samples: Samples
    ratio: float
    low: float
    high: float


def read_bounds(words: Sequence[str]) -> dict[str, dict[str, float]]:
    """Bounds by network, from words NETWORK:BOUND=VALUE.

    Raises:
        ValueError: a word has another form.
    """
    bounds: dict[str, dict[str, float]] = {}
    for word in words:
        network, colon, rest = word.rpartition(":")
        name, equals, value = rest.partition("=")
        if not (network and colon and name and equals):
            raise ValueError(f"expected NETWORK:BOUND=VALUE, but got {word!r}")
        bounds.setdefault(network, {})[name] = float(value)
    return bounds


def measure(case: Case, bounds: Mapping[str, float], arguments: argparse.Namespace) -> tuple[list[Contestant], Report]:
    """The four models of a network, and the report of the compressed one."""
    specs = input_specs(load(case.model).inputs)
    batch = batch_size(specs)
    calibration = open_dataset(case.calibration, specs)
    samples = [feeds for feeds, _ in calibration.batches(batch, arguments.int8_samples)]
    scored = _first(open_dataset(case.validation, specs), arguments.scored)
    result = lissom.compress(
        case.model,
        recipe=arguments.recipe,
        bounds=bounds,
        calibration=first(case.calibration, arguments.samples),
        metric="output",
        target=arguments.target,
        keep_anyway=True,
        cache=arguments.cache,
    )
    assert result.model is not None
    one, both = arguments.recipe, f"{arguments.recipe} + {INT8}"
    with TemporaryDirectory(prefix="lissom-stacking-") as folder:
        paths = {name: Path(folder) / f"{number}.onnx" for number, name in enumerate((INT8, one))}
        onnx.save(result.model, paths[one])
        print(f"({case.name}: {quantise(case.model, paths[INT8], samples)}; {dict(bounds)})", flush=True)
        if not any(node.domain == DOMAIN for node in result.model.graph.node):
            paths[both] = Path(folder) / "both.onnx"
            quantise(paths[one], paths[both], samples)
        feeds = first_feeds(specs, calibration, {})
        schedule = Schedule(max_pairs=2000, max_seconds=arguments.seconds)
        found = judge({ORIGINAL: case.model, **paths}, scored, feeds, case.metric, batch, schedule)
    return found, result.report


def judge(
    paths: Mapping[str, Path], scored: Dataset, feeds: Feeds, metric: str | None, batch: int, schedule: Schedule
) -> list[Contestant]:
    """Scores and latencies of the models at `paths`, the first of which is the original."""
    provider = native(ProviderRequest()) or ProviderRequest()
    sessions = [(open_session(path, provider), feeds) for path in paths.values()]
    original, *others = compare_many(sessions, schedule=schedule)
    scorer = Scorer(next(iter(paths.values())), scored, feeds, provider, metric, batch)
    found = []
    for (name, path), samples in zip(paths.items(), (original, *others), strict=True):
        interval = PairedLatency(original, samples).interval
        score = scorer.goal(path)[1]
        found.append(Contestant(name, path.stat().st_size, score, samples, interval.ratio, interval.low, interval.high))
    return found


def _first(data: Dataset, count: int | None) -> Dataset:
    return data if count is None else replace(data, size=min(data.size, count))


def rows(network: str, contestants: Sequence[Contestant]) -> list[list[str]]:
    """The lines of one network."""
    original = contestants[0]
    return [
        [
            network,
            one.model,
            f"{one.score.name} {one.score.value:.4f} (n={one.score.n})",
            f"{one.bytes:,}",
            f"{one.bytes / original.bytes:.3f}",
            f"{one.samples.median:.0f}",
            "1" if one is original else f"{one.ratio:.3f} [{one.low:.3f}, {one.high:.3f}]",
        ]
        for one in contestants
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Compresses, quantises, measures, prints the table and writes the samples."""
    parser = command(__doc__)
    parser.add_argument("--recipe", default="lowrank")
    parser.add_argument("--target", help="the processor, for recipes that ask for it")
    parser.add_argument("--bound", action="append", default=[], metavar="NETWORK:BOUND=VALUE", help=f"not {BOUND}")
    parser.add_argument("--int8-samples", type=int, default=128, help="samples that INT8 is calibrated on")
    parser.add_argument("--scored", type=int, help="validation samples that are scored; default: all")
    parser.add_argument("--seconds", type=float, default=30.0, help="of the measurement of each network")
    arguments = arguments_of(parser, argv)
    try:
        asked = read_bounds(arguments.bound)
    except ValueError as error:
        parser.error(str(error))
    (default,) = read_bounds([f"any:{BOUND}"]).values()
    if arguments.fast:
        arguments.scored, arguments.seconds = 500, 1.0
    lines: list[list[str]] = []
    networks: dict[str, Any] = {}
    for case in chosen_cases(arguments, (*NETWORKS, "ch_PP-OCRv4_det_infer")):
        contestants, report = measure(case, asked.get(case.name, default), arguments)
        lines += rows(case.name, contestants)
        entries = [{**asdict(one), "samples": one.samples.to_json()} for one in contestants]
        networks[case.name] = {"models": entries, "report": report.model_dump(mode="json")}
    print(markdown(COLUMNS, lines))
    write_results("stacking", ProviderRequest(), arguments, {"networks": networks})


if __name__ == "__main__":
    main()
