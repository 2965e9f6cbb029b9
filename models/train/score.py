"""Scores the shipped ONNX files on all test images with ONNX Runtime and writes ``accuracy.json``.

Needs numpy and onnxruntime, not torch.
"""

# mypy: disable-error-code="import-untyped"
# onnxruntime ships no types.

from __future__ import annotations

import argparse
import json
from pathlib import Path

import fashion
import numpy as np
import onnxruntime

BATCH = 500


def count_correct(model: Path, test: Path) -> tuple[int, int]:
    """Counts the images of a slice which a model classifies right.

    Args:
        model: An ONNX file ``image[batch, 1, 28, 28] -> logits[batch, 10]``.
        test: An ``.npz`` with ``image`` and ``labels``.

    Returns:
        The number of right answers and the number of images.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    with np.load(test) as arrays:
        image, labels = arrays["image"], arrays["labels"]
    correct = 0
    for start in range(0, len(labels), BATCH):
        (logits,) = session.run(["logits"], {"image": image[start : start + BATCH]})
        correct += int((logits.argmax(1) == labels[start : start + BATCH]).sum())
    return correct, len(labels)


def main() -> int:
    """Scores every ``.onnx`` file of the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=fashion.DEFAULT_OUT, help="folder of the .onnx and .npz files")
    args = parser.parse_args()
    table = {}
    for model in sorted(args.data.glob("*.onnx")):
        correct, n = count_correct(model, args.data / "fashion_mnist_test.npz")
        table[model.stem] = {"correct": correct, "n": n}
        print(f"{model.stem:16} {100 * correct / n:.2f} %  {model.stat().st_size} bytes")
    (args.data / "accuracy.json").write_text(json.dumps(table, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
