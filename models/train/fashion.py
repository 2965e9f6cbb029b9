"""Fashion-MNIST: the original IDX files, and the two slices of it which the package ships.

Images are ``image[n, 1, 28, 28]`` float32 in [0, 1] (the byte over 255), labels ``labels[n]`` int64 in 0..9.

Source: Xiao, Rasul and Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms",
2017. Debian packages the files as ``dataset-fashion-mnist``.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np
import numpy.typing as npt

DEFAULT_DATA = Path("/usr/share/datasets/fashion-mnist")
DEFAULT_OUT = Path(__file__).resolve().parents[1] / "lissom_models" / "data"
CALIBRATION_SEED = 20170825
CALIBRATION_PER_CLASS = 200
CLASSES = 10


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Reads one gzipped IDX file of unsigned bytes.

    Args:
        path: The ``*-ubyte.gz`` file.

    Returns:
        The array in the shape the header states.

    Raises:
        ValueError: The header does not announce unsigned bytes, or the length does not match it.
    """
    raw = gzip.decompress(path.read_bytes())
    if raw[:3] != b"\0\0\x08":
        raise ValueError(f"{path.name}: expected an IDX header 000008 of unsigned bytes, got {raw[:3].hex()}")
    rank = raw[3]
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", rank, offset=4))
    body = np.frombuffer(raw, np.uint8, offset=4 + 4 * rank)
    if body.size != int(np.prod(shape)):
        raise ValueError(f"{path.name}: expected {int(np.prod(shape))} bytes for shape {shape}, got {body.size}")
    return body.reshape(shape)


def load(data: Path, split: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Loads one split as bytes.

    Args:
        data: The folder of the four IDX files.
        split: ``train`` (60,000 images) or ``t10k`` (10,000 images).

    Returns:
        ``images[n, 28, 28]`` and ``labels[n]``.
    """
    images = read_idx(data / f"{split}-images-idx3-ubyte.gz")
    labels = read_idx(data / f"{split}-labels-idx1-ubyte.gz")
    return images, labels.astype(np.int64)


def calibration_indices(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Chooses the calibration images: the same number of each class, in a seeded random order.

    Args:
        labels: The training labels.

    Returns:
        ``CLASSES * CALIBRATION_PER_CLASS`` distinct positions in ``labels``.
    """
    rng = np.random.default_rng(CALIBRATION_SEED)
    chosen = [
        rng.choice(np.flatnonzero(labels == label), CALIBRATION_PER_CLASS, replace=False) for label in range(CLASSES)
    ]
    return rng.permutation(np.concatenate(chosen)).astype(np.int64)


def save(path: Path, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> None:
    """Writes ``image[n, 1, 28, 28]`` and ``labels[n]`` as a compressed ``.npz``."""
    image = images[:, None].astype(np.float32) / np.float32(255)
    np.savez_compressed(path, image=image, labels=labels)


def main() -> int:
    """Writes the test and the calibration slice."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the IDX files")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder to write the .npz files to")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    save(args.out / "fashion_mnist_test.npz", *load(args.data, "t10k"))
    images, labels = load(args.data, "train")
    chosen = calibration_indices(labels)
    save(args.out / "fashion_mnist_calibration.npz", images[chosen], labels[chosen])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
