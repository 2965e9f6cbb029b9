"""ResNet-20 as pairs: decomposed and trained in a cascade, and from random weights."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import lissom_models
import numpy as np
import onnx
from lissom.data import Dataset, Feeds
from lissom.recipe import read_recipe
from lissom.recipe_tables import Cp
from lissom.train.cascade import decompose
from lissom.train.layering import layered
from lissom.train.normalising import with_norms
from lissom.train.rounds import Change, in_rounds
from lissom.train.schedule import Schedule
from lissom.train.scratch import randomised
from lissom.train.tuning import Tuning, tune

from benchmarks.prepare_data import decode
from benchmarks.retraining.common import CALIBRATION, HELD, Told, fashion_mnist, state_of, top1


@dataclass(frozen=True)
class Subject:
    """A network that is decomposed and trained.

    Attributes:
        name: of the row.
        proto: the network.
        data: its training samples.
        test: file of the test samples.
        tuning: how it is trained, over the epochs of `--last`.
        first: the same over those of `--first`.
        shared: where the checkpoint of the first training is kept.
        folder: where those of the others are kept.
    """

    name: str
    proto: onnx.ModelProto
    data: Dataset
    test: Path
    tuning: Tuning
    first: Tuning | None
    shared: Path | None
    folder: Path | None

    def change(self, keep: float, recipe: str) -> Change:
        """The decomposition to one budget, pairs alone; recipes that measure do so on the first samples."""
        folder = Path(tempfile.mkdtemp()) if self.folder is None else self.folder
        np.savez(folder / "calibration.npz", **self.data.read(0, CALIBRATION)[0])
        batches = [self.data.read(start, start + 64)[0] for start in range(0, CALIBRATION, 64)]
        return decompose(keep, read_recipe(recipe).model_copy(update={"cp": Cp()}), folder / "calibration.npz", batches)

    def checkpoint(self, name: str) -> Path | None:
        """The checkpoint of one training."""
        return None if self.folder is None else self.folder / f"{name}.safetensors"

    def keep(self, name: str, proto: onnx.ModelProto) -> None:
        """Writes a network beside the checkpoints."""
        if self.folder is not None:
            onnx.save(proto, self.folder / f"{name}.onnx")


def subject_of(arguments: argparse.Namespace) -> Subject:
    """The network that was asked for, trained on its own data first if that is asked for."""
    start = "cifar" if arguments.cifar else "resnet20"
    shared = state_of(arguments, start)
    folder = state_of(arguments, f"{start}-{arguments.run.__name__}-{arguments.recipe}")
    schedule = Schedule(arguments.epochs, arguments.rate, warmup=arguments.epochs / (10 if arguments.cifar else 5))
    tuning = Tuning(
        schedule.last(arguments.last), decay=5e-4, batch=arguments.batch, flip=True, held=HELD, statistics="updated",
        minutes=arguments.minutes, precision=arguments.precision,
    )  # fmt: skip
    if arguments.cifar is None:
        tuning = replace(tuning, smoothing=0.05, shift=2)
        proto = onnx.load(lissom_models.path("resnet20"))
        data = fashion_mnist(arguments.fashion, arguments.images)
        return Subject("resnet20", proto, data, lissom_models.test("resnet20"), tuning, None, shared, folder)
    arrays = decode(arguments.cifar / "train.npz", 0, arguments.images or 50_000)
    labels = arrays.pop("labels")

    def read(start: int, stop: int) -> tuple[Feeds, np.ndarray]:
        return {name: values[start:stop] for name, values in arrays.items()}, labels[start:stop]

    data = Dataset("CIFAR-10 (JPEG)", len(labels), read)
    tuning = replace(tuning, shift=4)
    gentle = Schedule(max(arguments.first, 1), arguments.first_rate or arguments.rate / 2, warmup=0.5)
    first = replace(tuning, schedule=gentle) if arguments.first else None
    model = layered(onnx.load(arguments.cifar / "resnet20.onnx"), data.read(0, 1)[0]).model
    with_norms(model, [data.read(start, start + 64)[0] for start in range(0, CALIBRATION, 64)])
    test = Path("build/data/cifar10_test.npz")
    return Subject("resnet20 (CIFAR)", model.to_proto(), data, test, tuning, first, shared, folder)


def started(arguments: argparse.Namespace, subject: Subject) -> tuple[onnx.ModelProto, float]:
    """The network that is decomposed, and its score, as the first row of a table."""
    proto, seconds = subject.proto, 0.0
    if subject.first is not None:
        given = top1(proto, subject.test, arguments.tested)
        print(f"| {subject.name} | as it is | | | | | {given:.2f} | | |", flush=True)
        checkpoint = None if subject.shared is None else subject.shared / "first.safetensors"
        first = tune(proto, subject.data, subject.first, (), checkpoint, arguments.resume, progress=Told())
        proto, seconds = first.proto, first.seconds
    base = top1(proto, subject.test, arguments.tested)
    print(f"| {subject.name} | dense | | | | | {base:.2f} | | {seconds / 60:.0f} |", flush=True)
    return proto, base


def cascade(arguments: argparse.Namespace) -> None:
    """Prints a row for each round of decomposing and training."""
    subject = subject_of(arguments)
    print("| network | recipe, keep | ε | parameters | MACs | before training, held out, % | top 1, % | drop | min |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    proto, base = started(arguments, subject)
    changes = [subject.change(keep, arguments.recipe) for keep in arguments.keep]
    rounds = in_rounds(proto, subject.data, changes, subject.tuning, subject.folder, arguments.resume, progress=Told())
    subject.keep("dense", proto)
    for keep, found in zip(arguments.keep, rounds, strict=True):
        subject.keep(f"keep-{keep:g}", found.proto)
        score, facts = top1(found.proto, subject.test, arguments.tested), found.facts
        print(
            f"| {subject.name} | {arguments.recipe}, {keep:g} | {facts['error']:.3f} | {facts['params']:.3f} "
            f"| {facts['macs']:.3f} | {100 * found.before.accuracy:.1f} | {score:.2f} | {base - score:+.2f} "
            f"| {found.seconds / 60:.0f} |",
            flush=True,
        )


def scratch(arguments: argparse.Namespace) -> None:
    """Prints the rows of one structure from a factorised and from a random start."""
    subject = subject_of(arguments)
    print("| network | recipe, keep | ε | parameters | MACs | start | top 1, % | drop | min |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    proto, base = started(arguments, subject)
    (keep,) = arguments.keep
    changed = subject.change(keep, arguments.recipe)(proto)
    facts = changed.facts
    for name, start in (("factorised", changed.proto), ("random", randomised(changed.proto, arguments.seed))):
        checkpoint = subject.checkpoint(f"scratch-{name}")
        found = tune(start, subject.data, subject.tuning, (), checkpoint, arguments.resume, progress=Told())
        subject.keep(name, found.proto)
        score = top1(found.proto, subject.test, arguments.tested)
        print(
            f"| {subject.name} | {arguments.recipe}, {keep:g} | {facts['error']:.3f} | {facts['params']:.3f} "
            f"| {facts['macs']:.3f} | {name} | {score:.2f} | {base - score:+.2f} "
            f"| {found.seconds / 60:.0f} |",
            flush=True,
        )
