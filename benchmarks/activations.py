"""Weights and activations pruned together, in the form of the paper's tables; static thresholds beside dynamic ones.

    python benchmarks/activations.py tables [--only NAME ...] [--keep SHARE ...] [--network FILE CALIBRATION TEST]
    python benchmarks/activations.py forms [--only NAME ...] [--samples 2000] [--seconds 5]

`tables` runs `lissom compress --recipe integral --keep-macs` without any training, and prints for each layer the shares
of its activations, its weights and its multiply-accumulates that are left, and the accuracy on the test data before and
after. `--network` adds a network of the user's. The sensitivity curves of each run are drawn into `build/results`.

`forms` masks all activations of a network at one winner rate, its weights whole, by static thresholds and by dynamic
ones that look at a tenth of each sample, and of all of it; once as it is and once with its ReLUs leaky, of slope
`SLOPE` (which no network here was trained with: its own accuracy is the first row). Both are compared at the density
that came of them. With `--seconds` the time that the masks take is measured, on the kernels of the runtime.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lissom
from lissom.activations.accounting import Account, account
from lissom.activations.finish import COUNTED_SAMPLES
from lissom.activations.insert import Mask, insert
from lissom.activations.judge import Judge
from lissom.activations.masks import find_masks
from lissom.activations.sites import find_sites
from lissom.activations.survey import survey
from lissom.canonical import Canonical, canonical_of, canonicalise
from lissom.data import first_feeds, input_specs, open_dataset
from lissom.graph.load import load
from lissom.graph.model import Model, is_standard
from lissom.job import CALIBRATION_SAMPLES
from lissom.lowering.price import native
from lissom.recipe_tables import Winners
from lissom.report.schema import AccountEntry, CurveEntry, Report
from lissom.scoring import batch_size
from lissom_runtime.latency import Schedule, compare
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.session import open_session

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.results import REPORTS, Case, cases
from benchmarks.subjects import markdown

KEEP: Mapping[str, float] = {"lenet-300-100": 0.0365, "lenet5": 0.137, "resnet20 (CIFAR-10 JPEG)": 0.289}
"""Shares of the multiply-accumulates: what the paper kept of its MLP, its ResNet-32, and its AlexNet."""

RATES = (0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1)
SLOPE = 0.1
FORMS: Mapping[str, Mapping[str, Any]] = {
    "static": {"form": "static"},
    "dynamic, a tenth": {"form": "dynamic", "alpha": 0.1},
    "dynamic, all": {"form": "dynamic", "alpha": 1.0},
}
COLOURS = ("#1b6ca8", "#c0392b", "#2e8b57", "#8e44ad", "#b9770e", "#555555")


def table(left: Account | AccountEntry) -> str:
    """One line a layer, and the totals."""
    rows = [
        [layer.layer, *(f"{100 * share:.1f}" for share in (layer.given, layer.weights, layer.paper, layer.counted))]
        for layer in left.layers
    ]
    total = (left.activations, left.weights, left.paper, left.counted)
    rows.append(["all", *(f"{100 * share:.1f}" for share in total)])
    return markdown(("layer", "Acti %", "Weight %", "MAC %", "MAC % counted"), rows)


def compressed(case: Case, keep: float) -> Report:
    """The report of one run."""
    found = lissom.compress(
        case.model,
        recipe="integral",
        bounds={"keep_macs": keep},
        calibration=case.calibration,
        validation=case.validation,
        metric=case.metric,
        keep_anyway=True,
    )
    return found.report


def drawn(curves: Sequence[CurveEntry]) -> str:
    """The scores over the winner rate, one line a group, as SVG."""
    width, height, left, top = 520, 300, 46, 14
    low = min([0.5, *(point.score for curve in curves for point in curve.points)])

    def at(rate: float, score: float) -> str:
        return f"{left + (width - left - 150) * rate:.1f},{top + (height - top - 34) * (1 - score) / (1 - low):.1f}"

    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">']
    lines.append(f'<rect width="{width}" height="{height}" fill="white"/>')
    for score in (low, (1 + low) / 2, 1.0):
        x, y = at(0, score).split(",")
        lines.append(f'<text x="{float(x) - 6}" y="{y}" font-size="11" text-anchor="end">{score:.2f}</text>')
    for rate in (0.0, 0.5, 1.0):
        x, y = at(rate, low).split(",")
        lines.append(f'<text x="{x}" y="{float(y) + 16}" font-size="11" text-anchor="middle">{rate:g}</text>')
    x, y = at(0.5, low).split(",")
    lines.append(f'<text x="{x}" y="{float(y) + 31}" font-size="11" text-anchor="middle">winner rate</text>')
    lines.append(f'<polyline points="{at(0, 1)} {at(0, low)} {at(1, low)}" fill="none" stroke="#999"/>')
    for number, curve in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        points = [at(1.0, curve.before["score"]), *(at(point.rate, point.score) for point in curve.points)]
        lines.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        name = curve.tensors[0] + (f" +{len(curve.tensors) - 1}" if len(curve.tensors) > 1 else "")
        y = top + 14 * (number + 1)
        lines.append(f'<text x="{width - 142}" y="{y}" font-size="11" fill="{colour}">{name}</text>')
    return "\n".join([*lines, "</svg>", ""])


@dataclass(frozen=True)
class Subject:
    """A network whose activations are masked.

    Attributes:
        canonical: the network.
        case: its data.
        judge: says what a copy is worth, on test samples.
    """

    canonical: Canonical
    case: Case
    judge: Judge

    @classmethod
    def of(cls, case: Case, model: Model, samples: int) -> Subject:
        """That of a model with a case's data."""
        specs = input_specs(model.inputs)
        canonical = canonicalise(model, first_feeds(specs, case.calibration, {}))
        tested = open_dataset(case.validation, specs).batches(batch_size(specs), samples)
        return cls(canonical, case, Judge(canonical.model, list(tested)))

    def masked(self, asked: Winners, rate: float) -> tuple[Model, float]:
        """The network with all activations at one rate, and the share of them that is left."""
        found, specs = survey(self.canonical), input_specs(self.canonical.model.inputs)
        data = open_dataset(self.case.calibration, specs).batches(batch_size(specs), CALIBRATION_SAMPLES)
        batches = [feeds for feeds, _ in data]
        rates = {site.tensor: rate for site in found.sites.sites}
        masks: Mapping[str, Mask] = find_masks(self.canonical.model, found, rates, asked, batches)
        copy = self.canonical.model.copy()
        insert(copy, found.sites.sites, masks, found.shapes)
        now = canonical_of(copy, self.canonical)
        seen = batches[: max(COUNTED_SAMPLES // len(next(iter(batches[0].values()))), 1)]
        return copy, account(copy, now.layers, find_sites(copy, now.layers), seen).activations


def leaky(model: Model) -> Model:
    """A copy whose ReLUs let a share of what is negative pass."""
    copy = model.copy()
    for node in copy.graph.nodes:
        if is_standard(node, "Relu"):
            node.op, node.attrs = "LeakyRelu", {"alpha": SLOPE}
    return copy


def forms(case: Case, samples: int, seconds: float | None) -> Iterator[list[str]]:
    """The rows of one network."""
    loaded = load(case.model)
    for activation, model in (("ReLU", loaded), (f"leaky, {SLOPE}", leaky(loaded))):
        subject = Subject.of(case, model, samples)
        whole = subject.judge(subject.canonical.model).score
        yield [case.name, activation, "none", "", "", f"{whole:.4f}", ""]
        for rate in RATES:
            for form, words in FORMS.items():
                copy, density = subject.masked(Winners.model_validate(words), rate)
                cost = "" if seconds is None else f"{_cost(subject.canonical, copy, seconds):.1f}"
                score = subject.judge(copy).score
                yield [case.name, activation, form, f"{rate:g}", f"{100 * density:.1f}", f"{score:.4f}", cost]


def _cost(canonical: Canonical, masked: Model, seconds: float) -> float:
    """What masks cost of the latency of one run, microseconds."""
    provider = native(ProviderRequest()) or ProviderRequest()
    whole, other = (open_session(m.to_proto().SerializeToString(), provider) for m in (canonical.model, masked))
    paired = compare(whole, other, canonical.feeds, schedule=Schedule(max_seconds=seconds))
    return paired.b.median - paired.a.median


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints the tables, and keeps them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tables", "forms"))
    parser.add_argument("--cifar", type=Path, default=Path("../shared/data/cifar10-jpeg"))
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these networks")
    parser.add_argument("--keep", nargs="+", type=float, help="shares of the multiply-accumulates, for all networks")
    parser.add_argument("--network", nargs=3, metavar=("FILE", "CALIBRATION", "TEST"), help="another network")
    parser.add_argument("--samples", type=int, default=2000, help="test samples of `forms`")
    parser.add_argument("--seconds", type=float, help="of each latency of `forms`; none is measured without")
    asked = parser.parse_args(argv)
    chosen = [case for case in cases(asked.cifar, None) if case.name in (asked.only or KEEP)]
    if asked.network is not None:
        file, calibration, test = asked.network
        chosen.append(Case(Path(file).stem, Path(file), calibration, test))
    REPORTS.mkdir(parents=True, exist_ok=True)
    if asked.what == "forms":
        rows = [row for case in chosen for row in forms(case, asked.samples, asked.seconds)]
        print(markdown(("network", "activation", "masks", "rate", "left %", "score", "µs"), rows))
        (REPORTS / "activations_forms.json").write_text(json.dumps(rows, indent=2), encoding="utf-8")
        return
    for case in chosen:
        for keep in asked.keep or [KEEP.get(case.name, 0.277)]:
            report = compressed(case, keep)
            score = report.accuracy[0]
            name = f"activations_{case.model.stem}_{keep:g}"
            (REPORTS / f"{name}.json").write_text(report.model_dump_json(indent=2), encoding="utf-8")
            assert report.activations is not None
            print(
                f"\n{case.name}, --keep-macs {keep:g} ({report.status}): {score.metric} {score.before:.4f} → ", end=""
            )
            print(f"{score.after:.4f} (n={score.n})\n\n{table(report.activations.account)}", flush=True)
            (REPORTS / f"{name}.svg").write_text(drawn(report.activations.sensitivity), encoding="utf-8")


if __name__ == "__main__":
    main()
