"""What the experiments of `retrain.py` share: data, scores, and where checkpoints are."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
from lissom.data import Dataset, Feeds
from lissom.progress import Item
from lissom_runtime.session import open_session

sys.path.insert(0, str(Path(__file__).parents[2] / "models" / "train"))

import fashion

FASHION = fashion.DEFAULT_DATA
"""Folder of the IDX files of Fashion-MNIST."""

HELD = 60
"""One training image of so many is held out."""

CALIBRATION = 512
"""Training samples that statistics are taken of."""


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
