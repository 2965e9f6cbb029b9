"""Where the files of the zoo lie, by network name.

Nothing is read or downloaded on import: the functions give paths inside the package folder, so that the caller loads
them with ``onnx.load`` and ``numpy.load``. Callers ask for the data by network, not by data set, so that a network
trained on other data can join the zoo without a change to them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

DATA: Final = Path(__file__).resolve().parent / "data"

_DATASETS: Final[dict[str, str]] = {
    "lenet-300-100": "fashion_mnist",
    "lenet5": "fashion_mnist",
    "mobilenet-small": "fashion_mnist",
    "resnet20": "fashion_mnist",
    "vgg-small": "fashion_mnist",
}

NAMES: Final[tuple[str, ...]] = tuple(_DATASETS)
"""The networks of the zoo, sorted."""


def path(name: str) -> Path:
    """The ONNX file of a network.

    Args:
        name: One of ``NAMES``.

    Returns:
        The file ``image[batch, 1, 28, 28] -> logits[batch, 10]``, opset 17, batch normalisation not folded.

    Raises:
        ValueError: ``name`` is not in the zoo.
    """
    _dataset(name)
    return DATA / f"{name}.onnx"


def calibration(name: str) -> Path:
    """The calibration slice of the data a network was trained on.

    Args:
        name: One of ``NAMES``.

    Returns:
        An ``.npz`` file with ``image[2000, 1, 28, 28]`` float32 in [0, 1] and ``labels[2000]`` int64: training images,
        200 of each class, in random order.

    Raises:
        ValueError: ``name`` is not in the zoo.
    """
    return DATA / f"{_dataset(name)}_calibration.npz"


def test(name: str) -> Path:
    """The test slice of the data a network was trained on.

    Args:
        name: One of ``NAMES``.

    Returns:
        An ``.npz`` file with ``image[10000, 1, 28, 28]`` float32 in [0, 1] and ``labels[10000]`` int64.

    Raises:
        ValueError: ``name`` is not in the zoo.
    """
    return DATA / f"{_dataset(name)}_test.npz"


def accuracy(name: str) -> tuple[int, int]:
    """How well a network does on its test slice, as measured when the zoo was made.

    Args:
        name: One of ``NAMES``.

    Returns:
        The number of right answers and the number of images.

    Raises:
        ValueError: ``name`` is not in the zoo.
    """
    _dataset(name)
    entry = json.loads((DATA / "accuracy.json").read_text(encoding="utf-8"))[name]
    return int(entry["correct"]), int(entry["n"])


def _dataset(name: str) -> str:
    """The data set of a network; raises ``ValueError`` if the name is not in the zoo."""
    if name not in _DATASETS:
        raise ValueError(f"expected one of the networks {', '.join(NAMES)}; got {name!r}")
    return _DATASETS[name]
