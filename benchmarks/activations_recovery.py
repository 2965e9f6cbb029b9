"""Integral pruning with its second training: what is pruned, and what labels give back with the masks on.

    pip install 'lissom[recover]'
    python benchmarks/activations_recovery.py [--only NAME ...] [--epochs 10] [--rate 0.1] [--resume]

Runs `lissom compress --recipe integral --keep-macs` at the published share of the multiply-accumulates, then trains
what came of it: weights that are zero stay zero, masks keep their thresholds, behind a mask of winner rate ρ numbers
drop out at 0.5 √ρ (not with `--no-dropout`), and the optimizer is Adadelta. One training image in `HELD` is held out.
Beside it the network that nothing was pruned of is trained equally long, with the same settings, so that what training
alone gives is not taken for recovery; `--no-beside` leaves that out.

Pruned networks and checkpoints are kept in `--state`; `--resume` goes on from there. The training images of
Fashion-MNIST are those of `--fashion`, those of CIFAR-10 (JPEG) of `--cifar`; ConvNet-5 is what
`activations_convnet.py` wrote, and sees central crops. Scores are of the 10,000 test images.

Source: Integral Pruning on Activations and Weights for Efficient Neural Networks (ICLR 2019 submission), sections 3, 4.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import lissom
import lissom_models
import numpy as np
import onnx
from lissom.activations.accounting import Account, account
from lissom.activations.finish import counted
from lissom.activations.sites import find_sites
from lissom.canonical import canonicalise
from lissom.data import Dataset, Feeds, input_specs, open_dataset
from lissom.graph.load import from_proto
from lissom.report.schema import Report
from lissom.train.schedule import Schedule
from lissom.train.tuning import Tuned, Tuning, tune
from lissom.train.winners import dropout_behind

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.activations import table
from benchmarks.activations_convnet import central
from benchmarks.prepare_data import decode
from benchmarks.results import DATA
from benchmarks.retraining.common import FASHION, HELD, Told, fashion_mnist, top1
from benchmarks.subjects import markdown

CONVNET = Path("build/convnet5")


@dataclass(frozen=True)
class Subject:
    """A network, its data, and what the paper reports of its own.

    Attributes:
        name: of the row.
        model, calibration, test: files.
        train: gives the training images.
        keep: share of the multiply-accumulates that is kept.
        published: accuracy before → after in the paper, in percent, with its network.
        images: what augmentation may do to them: pixels of a shift, and whether they are flipped.
    """

    name: str
    model: Path
    calibration: Path
    test: Path
    train: Callable[[], Dataset]
    keep: float
    published: str
    images: tuple[int, bool]


def subjects(asked: argparse.Namespace) -> list[Subject]:
    """The networks, cheapest first."""

    def fashion() -> Dataset:
        return fashion_mnist(asked.fashion, asked.images)

    def cifar(cropped: bool) -> Dataset:
        arrays = decode(asked.cifar / "train.npz", 0, asked.images or 50_000)
        images = central(arrays["input"]) if cropped else arrays["input"]

        def read(start: int, stop: int) -> tuple[Feeds, np.ndarray]:
            return {"input": images[start:stop]}, arrays["labels"][start:stop]

        return Dataset("CIFAR-10 (JPEG)", len(images), read)

    def of_zoo(name: str, keep: float, published: str) -> Subject:
        known = (lissom_models.path(name), lissom_models.calibration(name), lissom_models.test(name))
        return Subject(name, *known, fashion, keep, published, (0, True))

    resnet, resnet_data = asked.cifar / "resnet20.onnx", (DATA / "cifar10_calibration.npz", DATA / "cifar10_test.npz")
    convnet = (CONVNET / "convnet5.onnx", CONVNET / "calibration.npz", CONVNET / "test.npz")
    return [
        of_zoo("lenet-300-100", 0.0365, "MLP-3, MNIST: 98.41 → 98.42"),
        of_zoo("lenet5", 0.137, "none"),
        Subject("convnet5", *convnet, lambda: cifar(True), 0.277, "ConvNet-5: 86.0 → 85.94", (2, True)),
        Subject("resnet20", resnet, *resnet_data, lambda: cifar(False), 0.137, "ResNet-32: 95.01 → 94.58", (4, True)),
    ]


def pruned(subject: Subject, folder: Path, resume: bool) -> tuple[onnx.ModelProto, Report]:
    """What `integral` makes of a network, and its report; from the folder where it is there already."""
    file, told = folder / "pruned.onnx", folder / "pruned.json"
    if not (resume and file.exists() and told.exists()):
        found = lissom.compress(
            subject.model,
            recipe="integral",
            bounds={"keep_macs": subject.keep},
            calibration=str(subject.calibration),
            validation=str(subject.test),
            keep_anyway=True,
        )
        onnx.save(found.model, file)
        told.write_text(found.report.model_dump_json(indent=2), encoding="utf-8")
    return onnx.load(file), Report.model_validate_json(told.read_text(encoding="utf-8"))


def tuning_of(subject: Subject, asked: argparse.Namespace) -> Tuning:
    """How a network is trained."""
    shift, flip = subject.images
    return Tuning(
        Schedule(asked.epochs, asked.rate),
        optimizer="adadelta",
        decay=0.0,
        batch=asked.batch,
        shift=shift,
        flip=flip,
        held=HELD,
        minutes=asked.minutes,
    )


def left_of(proto: onnx.ModelProto, calibration: Path) -> Account:
    """What is left of a network with masks."""
    model = from_proto(proto)
    specs = input_specs(model.inputs)
    data = [feeds for feeds, _ in open_dataset(str(calibration), specs).batches(64)]
    canonical = canonicalise(model, {name: values[:1] for name, values in data[0].items()})
    now, layers = canonical.model, canonical.layers
    return account(now, layers, find_sites(now, layers), counted(data))


def trained(subject: Subject, asked: argparse.Namespace, folder: Path) -> tuple[list[str], Account]:
    """The row of a network, and what is left of it in the end."""
    proto, report = pruned(subject, folder, asked.resume)
    assert report.activations is not None
    rates = {mask.tensor: mask.rate for mask in report.activations.masks if mask.inserted}
    data, tuning = subject.train(), tuning_of(subject, asked)

    def run(network: onnx.ModelProto, what: str, masked: bool) -> Tuned:
        companions = [dropout_behind(rates)] if masked and rates and asked.dropout else []
        checkpoint = folder / f"{what}.safetensors"
        return tune(network, data, tuning, companions, checkpoint, asked.resume, progress=Told())

    recovered = run(proto, "recovered", masked=True)
    onnx.save(recovered.proto, folder / "recovered.onnx")
    left = left_of(recovered.proto, subject.calibration)
    dense = onnx.load(subject.model)
    scores = [top1(dense, subject.test), top1(proto, subject.test), top1(recovered.proto, subject.test)]
    beside = "" if not asked.beside else f"{top1(run(dense, 'dense', masked=False).proto, subject.test):.2f}"
    shares = (report.activations.account.paper, left.paper)
    return [
        subject.name,
        *(f"{100 * share:.1f}" for share in shares),
        *(f"{score:.2f}" for score in scores),
        f"{scores[2] - scores[0]:+.2f}",
        beside,
        subject.published,
        f"{recovered.epochs}",
        f"{recovered.seconds / 60:.0f}",
    ], left


def main(argv: Sequence[str] | None = None) -> None:
    """Prunes and trains the asked-for networks, and prints their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these networks")
    parser.add_argument("--cifar", type=Path, default=Path("../shared/data/cifar10-jpeg"))
    parser.add_argument("--fashion", type=Path, default=FASHION)
    parser.add_argument("--images", type=int, help="the first training images only")
    parser.add_argument("--state", type=Path, default=Path("build/activations"), help="folder of what is made")
    parser.add_argument("--resume", action="store_true", help="go on from what is there")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rate", type=float, default=0.1, help="highest learning rate, of Adadelta")
    parser.add_argument("--dropout", action=argparse.BooleanOptionalAction, default=True, help="that of the paper")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--minutes", type=float, help="most time that each training takes")
    parser.add_argument("--beside", action=argparse.BooleanOptionalAction, default=True)
    asked = parser.parse_args(argv)
    rows = []
    for subject in subjects(asked):
        if asked.only and subject.name not in asked.only:
            continue
        folder = asked.state / subject.name
        folder.mkdir(parents=True, exist_ok=True)
        row, left = trained(subject, asked, folder)
        rows.append(row)
        print(f"\n{subject.name}, after recovery\n\n{table(left)}", flush=True)
    columns = ("network", "MAC % pruned", "recovered", "top1 before", "pruned", "recovered", "drop", "dense, trained")
    print(f"\n{markdown((*columns, 'published', 'epochs', 'min'), rows)}")


if __name__ == "__main__":
    main()
