"""Trains one network of the zoo on Fashion-MNIST.

SGD with Nesterov momentum, label smoothing, random horizontal flips and shifts, and a learning rate that rises
linearly and falls along a cosine to zero. The weights of the last epoch are the result; the test images are not read
here. The state is saved after every epoch and a run that was cut off goes on from it; each epoch draws from its own
seed, so a resumed run sees the same batches as an unbroken one.
"""

# mypy: disable-error-code="import-not-found,misc"
# torch lives in the training environment only, so its functions are Any to the type checker.

from __future__ import annotations

import argparse
import math
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import fashion
import networks
import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class Recipe:
    """The hyper-parameters of one network.

    Attributes:
        epochs: Passes over the training images.
        rate: Peak learning rate.
        decay: Weight decay on matrices and kernels (biases and batch normalisation have none).
        shift: Largest shift of an image in pixels, each way and each axis.
        smoothing: Label smoothing.
        batch: Images in a step.
        warmup: Share of the steps in which the learning rate rises.
        seed: Seed of the initial weights and of every epoch's draws.
    """

    epochs: int
    rate: float = 0.1
    decay: float = 5e-4
    shift: int = 2
    smoothing: float = 0.05
    batch: int = 128
    warmup: float = 0.2
    seed: int = 1


RECIPES: dict[str, Recipe] = {
    "lenet-300-100": Recipe(epochs=40, rate=0.1, decay=1e-4, shift=0),
    "lenet5": Recipe(epochs=15, rate=0.05, decay=5e-4, shift=1),
    "mobilenet-small": Recipe(epochs=12, rate=0.1, decay=2e-4),
    "vgg-small": Recipe(epochs=6, rate=0.1),
    "resnet20": Recipe(epochs=14, rate=0.1),
    "resnet20-0.75": Recipe(epochs=14, rate=0.1),
    "resnet20-0.5": Recipe(epochs=14, rate=0.1),
}


def augment(images: torch.Tensor, shift: int, generator: torch.Generator) -> torch.Tensor:
    """Flips and shifts each image at random.

    Args:
        images: ``images[n, 28, 28]`` as bytes.
        shift: Largest shift in pixels; black moves in at the edge.
        generator: The source of randomness.

    Returns:
        ``image[n, 1, 28, 28]`` float32 in [0, 1].
    """
    n, height, width = images.shape
    padded = functional.pad(images, (shift, shift, shift, shift))
    windows = padded.unfold(1, height, 1).unfold(2, width, 1)
    down, right = torch.randint(0, 2 * shift + 1, (2, n), generator=generator)
    moved = windows[torch.arange(n), down, right]
    flip = torch.rand(n, generator=generator) < 0.5
    moved = torch.where(flip[:, None, None], moved.flip(2), moved)
    return moved[:, None].float() / 255


def learning_rate(progress: float, recipe: Recipe) -> float:
    """The learning rate at a point of training, ``progress`` in [0, 1]."""
    if progress < recipe.warmup:
        return recipe.rate * (0.05 + 0.95 * progress / recipe.warmup)
    return recipe.rate * 0.5 * (1 + math.cos(math.pi * (progress - recipe.warmup) / (1 - recipe.warmup)))


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD whose weight decay spares the vectors (biases, batch normalisation)."""
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": recipe.decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=recipe.rate, momentum=0.9, nesterov=True)


def save(path: Path, state: dict[str, object]) -> None:
    """Writes a checkpoint so that the file is whole at every moment."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def accuracy(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of ``images[n, 28, 28]`` (bytes) which the network classifies right."""
    network.eval()
    correct = 0
    with torch.no_grad():
        for image, label in zip(images.split(500), labels.split(500), strict=True):
            correct += int((network(image[:, None].float() / 255).argmax(1) == label).sum())
    return correct / len(labels)


def train(name: str, recipe: Recipe, data: Path, out: Path, holdout: int) -> Path:
    """Trains a network, going on from its checkpoint where there is one.

    Args:
        name: One of ``networks.BUILDERS``.
        recipe: The hyper-parameters.
        data: The folder of the IDX files.
        out: The folder of the checkpoint.
        holdout: How many training images, the last ones, are kept out and scored; 0 trains on all.

    Returns:
        The checkpoint's path.
    """
    torch.manual_seed(recipe.seed)
    network = networks.BUILDERS[name]().to(memory_format=torch.channels_last)
    optimizer = make_optimizer(network, recipe)
    checkpoint = out / f"{name}.pt"
    first, seconds = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        first, seconds = state["epoch"], state["seconds"]
    arrays = fashion.load(data, "train")
    images, labels = (torch.from_numpy(array.copy()) for array in arrays)
    kept = len(images) - holdout
    steps = kept // recipe.batch
    loss_of = nn.CrossEntropyLoss(label_smoothing=recipe.smoothing)
    for epoch in range(first, recipe.epochs):
        start = time.monotonic()
        generator = torch.Generator().manual_seed(recipe.seed * 1000 + epoch)
        order = torch.randperm(kept, generator=generator)
        network.train()
        total, correct = 0.0, 0
        for step in range(steps):
            rate = learning_rate((epoch + step / steps) / recipe.epochs, recipe)
            for group in optimizer.param_groups:
                group["lr"] = rate
            chosen = order[step * recipe.batch : (step + 1) * recipe.batch]
            logits = network(augment(images[chosen], recipe.shift, generator))
            loss = loss_of(logits, labels[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += float(loss.detach())
            correct += int((logits.detach().argmax(1) == labels[chosen]).sum())
        seconds += time.monotonic() - start
        save(
            checkpoint,
            {
                "network": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "epoch": epoch + 1,
                "seconds": seconds,
            },
        )
        line = f"{name} epoch {epoch + 1}/{recipe.epochs} loss {total / steps:.4f}"
        line += f" train {correct / (steps * recipe.batch):.4f} {time.monotonic() - start:.0f} s"
        if holdout:
            line += f" held out {accuracy(network, images[kept:], labels[kept:]):.4f}"
        print(line, flush=True)
    return checkpoint


def main() -> int:
    """Parses the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(networks.BUILDERS))
    parser.add_argument("--epochs", type=int, help="default: the recipe's")
    parser.add_argument("--seed", type=int, help="default: the recipe's")
    parser.add_argument("--rate", type=float, help="default: the recipe's")
    parser.add_argument("--decay", type=float, help="default: the recipe's")
    parser.add_argument("--shift", type=int, help="default: the recipe's")
    parser.add_argument("--data", type=Path, default=fashion.DEFAULT_DATA, help="folder of the IDX files")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--holdout", type=int, default=0, help="training images to keep out and score")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    options = ("epochs", "seed", "rate", "decay", "shift")
    given = {key: value for key in options if (value := getattr(args, key)) is not None}
    recipe = replace(RECIPES[args.name], **given)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    train(args.name, recipe, args.data, args.out, args.holdout)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
