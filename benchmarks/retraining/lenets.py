"""The LeNets of the zoo: channels chosen by masks, and blocks below a threshold that rises."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lissom_models
import onnx
from lissom.data import Dataset
from lissom.train.pruning import simd_blocks
from lissom.train.rounds import in_rounds
from lissom.train.schedule import Schedule
from lissom.train.selecting import Stage, select_nodes
from lissom.train.tuning import Tuning, tune

from benchmarks.retraining.common import HELD, Told, fashion_mnist, sizes, state_of, top1


@dataclass(frozen=True)
class Plan:
    """How one LeNet is trained, and what the authors of Scalpel report of theirs on MNIST.

    Attributes:
        strengths: λ of each stage of masks, with what it is for.
        thresholds: of the blocks, stage by stage.
        rate: highest learning rate.
        epochs: of each training but the last one.
        last: of that one, and of the one behind the last threshold.
        widths: channels that the authors keep.
        removed: percent of the weights that they remove in the end.
    """

    strengths: Sequence[tuple[float, Any]]
    thresholds: Sequence[float]
    rate: float
    epochs: int
    last: int
    widths: str
    removed: float


PLANS = {
    "lenet-300-100": Plan(
        strengths=[(1e-3, None), (2e-3, None), (3e-3, None)],
        thresholds=[0.05, 0.065, 0.08, 0.105],
        rate=0.05,
        epochs=60,
        last=60,
        widths="161/300, 64/100",
        removed=92.0,
    ),
    "lenet5": Plan(
        strengths=[(3e-3, "conv"), (9e-3, "conv"), (1.5e-3, "fc")],
        thresholds=[0.02, 0.03, 0.04],
        rate=0.02,
        epochs=4,
        last=20,
        widths="9/20, 18/50, 65/500",
        removed=96.8,
    ),
}


def lenet(arguments: argparse.Namespace) -> None:
    """Prints the tables of the LeNets."""
    data = fashion_mnist(arguments.fashion, arguments.images)
    print("| network | method | structure or removed, % | parameters | top 1, % | drop | published (MNIST) | min |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name, plan in PLANS.items():
        if arguments.only in (None, name):
            proto, test = onnx.load(lissom_models.path(name)), lissom_models.test(name)
            base = top1(proto, test, arguments.tested)
            print(f"| {name} | as it is | | {sizes(proto)} | {base:.2f} | | | |", flush=True)
            for method in (masks, blocks):
                if arguments.method in (None, method.__name__):
                    method(arguments, name, plan, proto, data, base)


def masks(
    arguments: argparse.Namespace, name: str, plan: Plan, proto: onnx.ModelProto, data: Dataset, base: float
) -> None:
    """The row of the channels that masks choose."""
    stages = [Stage(strength, tuning_of(plan, plan.epochs), target) for strength, target in plan.strengths]
    folder = state_of(arguments, f"{name}-masks")
    found = select_nodes(
        proto, data, stages, tuning_of(plan, plan.last), 0.0, folder, arguments.resume, progress=Told()
    )
    structure = ", ".join(f"{len(kept)}/{found.widths[group]}" for group, kept in found.kept.items())
    score = top1(found.proto, lissom_models.test(name), arguments.tested)
    print(
        f"| {name} | masks | {structure} | {sizes(found.proto)} | {score:.2f} | {base - score:+.2f} | {plan.widths} "
        f"| {found.seconds / 60:.0f} |",
        flush=True,
    )


def blocks(
    arguments: argparse.Namespace, name: str, plan: Plan, proto: onnx.ModelProto, data: Dataset, base: float
) -> None:
    """The rows of the thresholds that rise, and of the last training."""
    changes = [simd_blocks(threshold, 8, data.read(0, 1)[0]) for threshold in plan.thresholds]
    folder = state_of(arguments, f"{name}-blocks")
    rounds = in_rounds(proto, data, changes, tuning_of(plan, plan.epochs), folder, arguments.resume, progress=Told())
    for found in rounds:
        proto, removed = found.proto, found.facts["removed"]
        told = f"blocks of 8 below {found.facts['threshold']:g}"
        print(blocks_row(arguments, name, told, removed, proto, base, "", found.seconds), flush=True)
    checkpoint = None if folder is None else folder / "last.safetensors"
    last = tune(proto, data, tuning_of(plan, plan.last), (), checkpoint, arguments.resume, progress=Told())
    told = f"the same, {plan.last} epochs more"
    print(blocks_row(arguments, name, told, removed, last.proto, base, str(plan.removed), last.seconds), flush=True)


def blocks_row(
    arguments: argparse.Namespace,
    name: str,
    told: str,
    removed: float,
    proto: onnx.ModelProto,
    base: float,
    published: str,
    seconds: float,
) -> str:
    """One row of a network without some of its blocks."""
    score = top1(proto, lissom_models.test(name), arguments.tested)
    return (
        f"| {name} | {told} | {100 * removed:.1f} | {sizes(proto)} | {score:.2f} | {base - score:+.2f} | {published} "
        f"| {seconds / 60:.0f} |"
    )


def tuning_of(plan: Plan, epochs: int) -> Tuning:
    """How a training of a LeNet goes."""
    return Tuning(Schedule(epochs, plan.rate, warmup=0.5), decay=2e-4, smoothing=0.05, held=HELD, flip=True)
