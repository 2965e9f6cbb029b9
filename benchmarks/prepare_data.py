"""Writes the data of `docs/results.md` that is not part of the repository as `.npz`.

    python benchmarks/prepare_data.py --cifar ../shared/data/cifar10-jpeg --ocr --out build/data

CIFAR-10 (JPEG, quality 75): `cifar10_calibration.npz` has the first 512 training images,
`cifar10_validation.npz` the next 2,000, `cifar10_test.npz` all 10,000 test images,
normalised as the ResNet-20 there wants them.

OCR (`--ocr`): 64 lines of text (`ocr_rec.npz` 48 x 320, `ocr_cls.npz` 48 x 192) and 8 pages
(`ocr_det.npz` 640 x 640) rendered with DejaVu Sans, black on grey, as PP-OCR wants them.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

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


FONT = "DejaVuSans.ttf"
WORDS = ["lithe", "thin", "supple", "graceful", "layer", "rank", "group", "kernel", "image", "0123456789"]


def text_images(count: int, height: int, width: int, lines: int, seed: int) -> np.ndarray:
    """Images[count, 3, height, width] of rendered text in -1..1, `lines` lines each."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        image = Image.new("RGB", (width, height), tuple(int(v) for v in rng.integers(180, 256, 3)))
        drawing = ImageDraw.Draw(image)
        for line in range(lines):
            size = int(0.5 * height / lines)
            text = " ".join(rng.choice(WORDS, 4))
            place = (int(rng.integers(2, 12)), int((line + 0.2) * height / lines))
            drawing.text(place, text, fill=(20, 20, 20), font=ImageFont.truetype(FONT, size))
        images.append(np.asarray(image, np.float32) / 127.5 - 1)
    return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))


def main() -> None:
    """Writes the three files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cifar", type=Path, help="folder with train.npz and test.npz")
    parser.add_argument("--ocr", action="store_true", help="render text (needs DejaVu Sans)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.ocr:
        np.savez(arguments.out / "ocr_rec.npz", x=text_images(64, 48, 320, 1, 0))
        np.savez(arguments.out / "ocr_cls.npz", x=text_images(64, 48, 192, 1, 1))
        np.savez(arguments.out / "ocr_det.npz", x=text_images(8, 640, 640, 12, 2))
        print(f"wrote text images to {arguments.out}")
    if arguments.cifar is None:
        return
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
