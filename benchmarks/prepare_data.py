"""Writes the data of `docs/results.md` that is not part of the repository as `.npz`.

    python benchmarks/prepare_data.py --cifar ../shared/data/cifar10-jpeg --out build/data

CIFAR-10 (JPEG, quality 75): `cifar10_calibration.npz` has the first 512 training images,
`cifar10_validation.npz` the next 2,000, `cifar10_test.npz` all 10,000 test images,
normalised as the ResNet-20 there wants them.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def decode(path: Path, start: int, stop: int) -> dict[str, np.ndarray]:
    """Images start..stop of one of the files, as arrays for the ResNet-20's input."""
    with np.load(path, allow_pickle=False) as data:
        offsets, content, labels = data["offsets"], data["jpeg"], data["labels"]
    images = []
    for index in range(start, stop):
        with Image.open(io.BytesIO(content[offsets[index] : offsets[index + 1]].tobytes())) as image:
            images.append(np.asarray(image.convert("RGB"), np.float32) / 255)
    normalised = (np.stack(images) - MEAN) / STD
    return {
        "input": np.ascontiguousarray(normalised.transpose(0, 3, 1, 2)),
        "labels": labels[start:stop].astype(np.int64),
    }


def main() -> None:
    """Writes the three files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cifar", type=Path, required=True, help="folder with train.npz and test.npz")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    parts = {
        "cifar10_calibration.npz": ("train.npz", 0, 512),
        "cifar10_validation.npz": ("train.npz", 512, 2512),
        "cifar10_test.npz": ("test.npz", 0, 10_000),
    }
    for name, (source, start, stop) in parts.items():
        np.savez(arguments.out / name, **decode(arguments.cifar / source, start, stop))
        print(f"wrote {arguments.out / name}: {stop - start} images")


if __name__ == "__main__":
    main()
