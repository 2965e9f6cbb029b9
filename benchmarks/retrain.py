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

With `--state` every training keeps a checkpoint there, and the networks of `cascade` and `scratch` (for
`benchmarks/light.py`); the same line with `--resume` goes on from it. The first training of `--cifar` is shared by all
commands and recipes. A row says how long its trainings took; `--epochs` describes a shorter schedule, of which `--last`
are run, and `--minutes` limits each training.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.retraining.common import FASHION
from benchmarks.retraining.lenets import PLANS, lenet
from benchmarks.retraining.pairs import cascade, scratch


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
        command.add_argument("--fashion", type=Path, default=FASHION, help="folder of the IDX files")
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
            command.add_argument("--rate", type=float, default=0.05, help="highest learning rate")
            command.add_argument("--first-rate", type=float, help="that of the first training; default: half of it")
            command.add_argument("--batch", type=int, default=64, help="samples of a step")
            command.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="of a step")
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
