"""Measures the rows of `docs/results.md` and writes the table.

    python benchmarks/prepare_data.py --cifar ../shared/data/cifar10-jpeg --ocr OCR_MODELS --out build/data
    python benchmarks/results.py --cifar ../shared/data/cifar10-jpeg --ocr OCR_MODELS [--only NAME]

Each row is one `lissom compress` in this process, on one thread, nothing else running; its
report is kept in `build/results`. The latency rows ask for the least share that the dry
run predicts, and keep what comes of it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lissom
import lissom_models
import numpy as np
from lissom.report.schema import Report

DATA = Path("build/data")
REPORTS = Path("build/results")
OCR = {
    "ch_PP-OCRv4_rec_infer": ("ocr_rec", "lissom_models.reading:line_accuracy"),
    "ch_PP-OCRv4_det_infer": ("ocr_det", "lissom_models.reading:box_agreement"),
    "ch_ppocr_mobile_v2.0_cls_infer": ("ocr_cls", "top1"),
}
"""The data and the metric of each PP-OCR network."""


@dataclass(frozen=True)
class Case:
    """A network, its data, and the metric that it is judged by (None: the default for such data and outputs)."""

    name: str
    model: Path
    calibration: str
    validation: str
    metric: str | None = None

    @property
    def words(self) -> str:
        """The arguments as they appear in the table."""
        data = f"--calibration {Path(self.calibration).name} --validation {Path(self.validation).name}"
        return f"{self.model.name} {data}" + ("" if self.metric is None else f" --metric {self.metric}")


def cases(cifar: Path, ocr: Path | None) -> list[Case]:
    """The networks of the table."""
    zoo = [
        Case(name, lissom_models.path(name), str(lissom_models.calibration(name)), str(lissom_models.test(name)))
        for name in ("resnet20", "vgg-small", "mobilenet-small", "lenet5", "lenet-300-100")
    ]
    zoo.append(
        Case(
            "resnet20 (CIFAR-10 JPEG)",
            cifar / "resnet20.onnx",
            str(DATA / "cifar10_calibration.npz"),
            str(DATA / "cifar10_test.npz"),
        )
    )
    if ocr is not None:
        zoo += [
            Case(
                name,
                ocr / f"{name}.onnx",
                str(DATA / f"{short}_calibration.npz"),
                str(DATA / f"{short}_test.npz"),
                metric,
            )
            for name, (short, metric) in OCR.items()
        ]
    return zoo


def first(path: str, samples: int | None) -> str:
    """The same data, or a file of its first samples in `DATA`."""
    if samples is None:
        return path
    part = DATA / f"{Path(path).stem}_first_{samples}.npz"
    with np.load(path, allow_pickle=False) as arrays:
        np.savez(part, **{name: values[:samples] for name, values in arrays.items()})
    return str(part)


def row(case: Case, words: str, report: Report) -> str:
    """One line of the table."""
    before, after, latency = report.before, report.after, report.latency
    assert after is not None
    assert latency is not None
    score = report.accuracy[0]
    changed = sum(layer.kind != "dense" for layer in report.layers)
    before_text = f"{score.before:.4f} → " if score.metric != "output" else ""
    return (
        f"| {case.name} | `{words}` | {changed}/{len(report.layers)} ({len(report.refusals)}) "
        f"| {after.params / before.params:.3f} | {after.bytes / before.bytes:.3f} | {after.macs / before.macs:.3f} "
        f"| {score.metric} {before_text}{score.after:.4f} (n={score.n}) "
        f"| {latency.ratio:.3f} [{latency.low:.3f}, {latency.high:.3f}] |"
    )


def compress(case: Case, name: str, **arguments: Any) -> Report:
    """Runs one row and keeps its report."""
    result = lissom.compress(
        case.model,
        calibration=case.calibration,
        validation=case.validation,
        metric=case.metric,
        keep_anyway=True,
        **arguments,
    )
    REPORTS.mkdir(parents=True, exist_ok=True)
    path = REPORTS / f"{case.model.stem}-{name}.json"
    path.write_text(json.dumps(result.report.model_dump(mode="json")), encoding="utf-8")
    return result.report


def least_latency(case: Case) -> float:
    """The least latency share that the pairs are predicted to reach."""
    result = lissom.compress(
        case.model, calibration=case.calibration, recipe="minimax", bounds={"latency_ratio": 1.0}, dry_run=True
    )
    return result.report.least_share


def measure(case: Case, latency_only: bool) -> list[str]:
    """The rows of one network."""
    rows = []
    for recipe in () if latency_only else ("alds", "minimax"):
        words = f"--recipe {recipe} --keep-params 0.5"
        try:
            report = compress(case, f"{recipe}-params", recipe=recipe, bounds={"keep_params": 0.5})
        except lissom.GoalMissed as missed:
            rows.append(f"| {case.name} | `{words}` | exit 1: {missed} | | | | | |")
        else:
            rows.append(row(case, words, report))
        print(rows[-1], flush=True)
    least = least_latency(case)
    for margin in (0.02, 0.05, 0.1, 0.2):  # the original is measured again, and may come out faster
        ratio = min(1.0, round(least + margin, 2))
        try:
            report = compress(case, "latency", recipe="minimax", bounds={"latency_ratio": ratio})
            break
        except lissom.GoalMissed as missed:
            print(f"({case.name}: {missed})", flush=True)
    else:
        return rows
    told = "" if report.status == "met" else " --keep-anyway"
    rows.append(row(case, f"--latency-ratio {ratio:g}{told}", report))
    print(rows[-1], f"(predicted least {least:.3f})", flush=True)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cifar", type=Path, required=True)
    parser.add_argument("--ocr", type=Path)
    parser.add_argument("--only", help="only networks whose name contains this")
    parser.add_argument("--latency-only", action="store_true", help="only the rows of the least latency")
    arguments = parser.parse_args(argv)
    for case in cases(arguments.cifar, arguments.ocr):
        if arguments.only is None or arguments.only in case.name:
            measure(case, arguments.latency_only)


if __name__ == "__main__":
    main()
