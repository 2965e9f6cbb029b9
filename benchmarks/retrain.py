"""What training gives back: channels chosen by masks, raised thresholds, pairs in a cascade (docs/recovery.md).

    pip install 'lissom[recover]'
    python benchmarks/retrain.py lenet [--only lenet5] [--state build/retrain --resume]
    python benchmarks/retrain.py cascade [--cifar ../shared/data/cifar10-jpeg] [--keep 0.5 0.25] [--last 7]
    python benchmarks/retrain.py scratch [--keep 0.25] [--last 7]

`lenet` trains the zoo's LeNets on the 60,000 training images of Fashion-MNIST (Debian: dataset-fashion-mnist), one in
60 held out, on one thread: masks on channels, and blocks of 8 below a threshold that rises. Rows are printed as they
are done, with the score on the 10,000 test images, which no run looks at.

`cascade` decomposes the zoo's ResNet-20, trains it with the last epochs of the schedule that the zoo was trained with,
recomposes and decomposes it to the next budget, and so on. With `--cifar` it is the ResNet-20 of CIFAR-10 (JPEG), which
is trained on the 50,000 images as they are first, `--first` epochs long; all later scores are beside what that gives.
`scratch` trains the pairs of one budget from their factorised start and from random weights, equally long.

With `--state` every training keeps a checkpoint there, and the same line with `--resume` goes on from it. A row says
how long its trainings took; `--epochs` describes a shorter schedule, of which `--last` are run, and `--minutes` limits
each training.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lissom_models
import numpy as np
import onnx
import torch
from lissom.data import Dataset, Feeds
from lissom.progress import Item
from lissom.recipe import read_recipe
from lissom.recipe_tables import Cp
from lissom.train.cascade import decompose
from lissom.train.layering import layered
from lissom.train.normalising import with_norms
from lissom.train.pruning import simd_blocks
from lissom.train.rounds import Change, in_rounds
from lissom.train.schedule import Schedule
from lissom.train.scratch import randomised
from lissom.train.selecting import Stage, select_nodes
from lissom.train.tuning import Tuning, tune
from lissom_runtime.session import open_session

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "models" / "train"))

import fashion

from benchmarks.prepare_data import decode

HELD = 60
"""One training image of so many is held out."""

CALIBRATION = 512
"""Training samples that statistics are taken of."""


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
        thresholds=[0.05, 0.065, 0.08, 0.095],
        rate=0.05,
        epochs=5,
        last=25,
        widths="161/300, 64/100",
        removed=92.0,
    ),
    "lenet5": Plan(
        strengths=[(3e-3, "conv"), (9e-3, "conv"), (1.5e-3, "fc")],
        thresholds=[0.02, 0.03],
        rate=0.02,
        epochs=1,
        last=3,
        widths="9/20, 18/50, 65/500",
        removed=96.8,
    ),
}


def fashion_mnist(folder: Path, count: int | None) -> Dataset:
    """The training images with labels, in the order of the file."""
    images, labels = fashion.load(folder, "train")
    images, labels = images[:count], labels[:count]

    def read(start: int, stop: int) -> tuple[Feeds, np.ndarray]:
        return {"image": images[start:stop, None].astype(np.float32) / np.float32(255)}, labels[start:stop]

    return Dataset("Fashion-MNIST", len(images), read)


def top1(proto: onnx.ModelProto, test: Path, count: int | None = None) -> float:
    """Percent of the (first) test images that a network classifies right, on ONNX Runtime."""
    with np.load(test, allow_pickle=False) as arrays:
        labels = arrays["labels"][:count]
        inputs = {name: arrays[name][:count] for name in arrays.files if name != "labels"}
    session = open_session(proto.SerializeToString())
    hits = 0
    for start in range(0, len(labels), 500):
        (scores,) = session.run(None, {name: values[start : start + 500] for name, values in inputs.items()})
        hits += int((scores.argmax(axis=1) == labels[start : start + 500]).sum())
    return 100 * hits / len(labels)


def sizes(proto: onnx.ModelProto) -> int:
    """Parameters that are not zero."""
    return sum(
        int(np.count_nonzero(onnx.numpy_helper.to_array(tensor)))
        for tensor in proto.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    )


class Told:
    """Prints the epochs of a training, and how long it is to take."""

    def __call__(self, items: Sequence[Item], what: str) -> Iterable[Item]:
        """The steps, with a line a minute."""
        began = shown = time.monotonic()
        for number, item in enumerate(items, start=1):
            yield item
            now = time.monotonic()
            if now - shown > 60:
                left = (now - began) / number * (len(items) - number)
                print(f"  {what}: {number} of {len(items)} steps, {left / 60:.0f} minutes to go", file=sys.stderr)
                shown = now


def state_of(arguments: argparse.Namespace, name: str) -> Path | None:
    """The folder of the checkpoints of one run."""
    if arguments.state is None:
        return None
    folder: Path = arguments.state / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


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
        folder: where checkpoints are kept.
    """

    name: str
    proto: onnx.ModelProto
    data: Dataset
    test: Path
    tuning: Tuning
    first: Tuning | None
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


def subject_of(arguments: argparse.Namespace) -> Subject:
    """The network that was asked for, trained on its own data first if that is asked for."""
    folder = state_of(arguments, "cifar" if arguments.cifar else "resnet20")
    if arguments.cifar is None:
        tuning = Tuning(
            Schedule(arguments.epochs, 0.1, warmup=arguments.epochs / 5).last(arguments.last),
            decay=5e-4, smoothing=0.05, shift=2, flip=True, held=HELD, statistics="updated", minutes=arguments.minutes,
        )  # fmt: skip
        proto = onnx.load(lissom_models.path("resnet20"))
        data = fashion_mnist(arguments.fashion, arguments.images)
        return Subject("resnet20", proto, data, lissom_models.test("resnet20"), tuning, None, folder)
    arrays = decode(arguments.cifar / "train.npz", 0, arguments.images or 50_000)
    labels = arrays.pop("labels")

    def read(start: int, stop: int) -> tuple[Feeds, np.ndarray]:
        return {name: values[start:stop] for name, values in arrays.items()}, labels[start:stop]

    data = Dataset("CIFAR-10 (JPEG)", len(labels), read)
    schedule = Schedule(arguments.epochs, 0.1, warmup=arguments.epochs / 10)
    tuning = Tuning(
        schedule.last(arguments.last), shift=4, flip=True, held=HELD, statistics="updated", minutes=arguments.minutes
    )
    first = replace(tuning, schedule=Schedule(arguments.first, 0.05, warmup=0.5)) if arguments.first else None
    model = layered(onnx.load(arguments.cifar / "resnet20.onnx"), data.read(0, 1)[0]).model
    with_norms(model, [data.read(start, start + 64)[0] for start in range(0, CALIBRATION, 64)])
    test = Path("build/data/cifar10_test.npz")
    return Subject("resnet20 (CIFAR)", model.to_proto(), data, test, tuning, first, folder)


def started(arguments: argparse.Namespace, subject: Subject) -> tuple[onnx.ModelProto, float]:
    """The network that is decomposed, and its score, as the first row of a table."""
    proto, seconds = subject.proto, 0.0
    if subject.first is not None:
        print(
            f"| {subject.name} | as it is | | | | | {top1(proto, subject.test, arguments.tested):.2f} | | |", flush=True
        )
        first = tune(
            proto, subject.data, subject.first, (), subject.checkpoint("first"), arguments.resume, progress=Told()
        )
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
    for keep, found in zip(arguments.keep, rounds, strict=True):
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
        score = top1(found.proto, subject.test, arguments.tested)
        print(
            f"| {subject.name} | {arguments.recipe}, {keep:g} | {facts['error']:.3f} | {facts['params']:.3f} "
            f"| {facts['macs']:.3f} | {name} | {score:.2f} | {base - score:+.2f} "
            f"| {found.seconds / 60:.0f} |",
            flush=True,
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the asked-for experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    run: Callable[[argparse.Namespace], None]
    for run in (lenet, cascade, scratch):
        command = commands.add_parser(run.__name__, help=run.__doc__)
        command.set_defaults(run=run)
        command.add_argument("--state", type=Path, help="folder of the checkpoints")
        command.add_argument("--resume", action="store_true", help="go on from the checkpoints")
        command.add_argument("--fashion", type=Path, default=fashion.DEFAULT_DATA, help="folder of the IDX files")
        command.add_argument("--images", type=int, help="the first training images only")
        command.add_argument("--tested", type=int, help="the first test images only")
        command.add_argument("--threads", type=int, default=1)
        if run is lenet:
            command.add_argument("--only", choices=sorted(PLANS), help="one network")
            command.add_argument("--method", choices=["masks", "blocks"], help="one method")
        else:
            several = "+" if run is cascade else 1
            command.add_argument("--cifar", type=Path, help="folder of the CIFAR-10 (JPEG) images and network")
            command.add_argument("--recipe", default="alds", help="how layers are decomposed")
            command.add_argument("--keep", type=float, nargs=several, default=[0.5, 0.25] if run is cascade else [0.25])
            command.add_argument(
                "--epochs", type=int, default=14, help="of the schedule that the network was trained with"
            )
            command.add_argument("--last", type=int, default=14, help="epochs of it that are run")
            command.add_argument("--minutes", type=float, help="limit on each training")
            command.add_argument(
                "--first", type=int, default=20, help="epochs of the first training with --cifar; 0: none"
            )
            command.add_argument("--seed", type=int, default=0, help="of random weights")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    arguments.run(arguments)


if __name__ == "__main__":
    main()
