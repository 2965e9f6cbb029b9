"""Every model of the ONNX backend test corpus comes through the lossless steps unharmed, or is declined.

Floors keep the coverage: about nine tenths of what onnx 1.23 and ONNX Runtime 1.32 give. `-s` shows the tables;
`benchmarks/corpus.py` prints those of the whole corpus.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from end_to_end.corpus import (
    FOLDERS,
    LOW_RANK,
    NODE_SHARDS,
    Case,
    Verdict,
    folder_cases,
    frozen,
    judge,
    node_cases,
    table,
)
from end_to_end.light import NAMES, has_op, light_case

pytestmark = [pytest.mark.ort, pytest.mark.slow]

EQUAL = {"simple": 16, "pytorch-converted": 75, "pytorch-operator": 33}
"""Least number of models of a family whose outputs stay equal."""

FACTORISED = {"simple": 0, "pytorch-converted": 18, "pytorch-operator": 1}
"""Least number of models of a family that get low-rank pairs."""

SHARDS = [pytest.param(n, marks=pytest.mark.xdist_group(f"node models {n}")) for n in range(NODE_SHARDS)]
"""The tests of one shard run in one process: they share the models, which take a while to make."""

NETWORKS = tuple(name for name in NAMES if name not in ("vgg19", "zfnet512"))
"""Those two are long chains of what bvlc_alexnet has; the benchmark looks at them."""

NODE_EQUAL = (190, 185, 125, 170, 90, 165, 105, 350)
"""Least number of node models whose outputs stay equal, by shard."""

FROZEN_EQUAL = (33, 40, 31, 25, 21, 18, 17, 47)
"""The same for their twins with constants."""

FROZEN_CHANGED = {
    "lift constants": (4, 0, 0, 1, 0, 5, 0, 15),
    "un-share constants": (0, 0, 0, 0, 0, 0, 0, 2),
    "fold constants": (4, 0, 0, 1, 0, 0, 0, 15),
    "infer shapes": (6, 2, 4, 4, 3, 5, 0, 15),
    LOW_RANK: (1, 0, 5, 0, 8, 0, 0, 0),
    "share constants": (0, 0, 0, 0, 0, 0, 0, 8),
}
"""Least number of these twins that a step changes, by shard."""


def judged(cases: Iterable[Case], folder: Path) -> list[Verdict]:
    """Verdicts on all cases, of which none is "failed"."""
    verdicts = [judge(case, folder) for case in cases]
    sys.stdout.write("\n" + table(verdicts))
    failed = [f"{verdict.name}: {verdict.reason}" for verdict in verdicts if verdict.status == "failed"]
    assert not failed, "\n".join(failed)
    return verdicts


def equal(verdicts: Iterable[Verdict]) -> int:
    return sum(verdict.status == "equal" for verdict in verdicts)


def changed(verdicts: Iterable[Verdict], step: str) -> int:
    return sum(verdict.status == "equal" and verdict.changed.get(step, 0) > 0 for verdict in verdicts)


@pytest.mark.parametrize("family", FOLDERS)
def test_shipped_models_stay_equal_or_are_declined(family: str, tmp_path: Path) -> None:
    verdicts = judged(folder_cases(family), tmp_path)
    assert equal(verdicts) >= EQUAL[family]
    assert changed(verdicts, LOW_RANK) >= FACTORISED[family]


@pytest.mark.parametrize("shard", SHARDS)
def test_node_models_stay_equal_or_are_declined(shard: int, tmp_path: Path) -> None:
    assert equal(judged(node_cases(shard), tmp_path)) >= NODE_EQUAL[shard]


@pytest.mark.parametrize("shard", SHARDS)
def test_node_models_with_constants_are_changed_and_stay_equal(shard: int, tmp_path: Path) -> None:
    verdicts = judged(frozen(node_cases(shard)), tmp_path)
    assert equal(verdicts) >= FROZEN_EQUAL[shard]
    for step, floors in FROZEN_CHANGED.items():
        assert changed(verdicts, step) >= floors[shard], step


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_canonicalised_and_factorised_and_stay_equal(name: str, tmp_path: Path) -> None:
    case = light_case(name)
    (verdict,) = judged([case], tmp_path)
    assert verdict.status == "equal", verdict.reason
    assert has_op(case.model, "Conv")
    assert verdict.changed["lift constants"] > 0
    assert verdict.changed[LOW_RANK] > 0
    assert (verdict.changed["fold batch normalization"] > 0) == has_op(case.model, "BatchNormalization")
