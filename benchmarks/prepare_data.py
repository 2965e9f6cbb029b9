"""Writes the data of `docs/results.md` that is not part of the repository as `.npz`.

    python benchmarks/prepare_data.py --cifar ../shared/data/cifar10-jpeg --ocr OCR_MODELS --out build/data

CIFAR-10 (JPEG, quality 75): `cifar10_calibration.npz` has the first 512 training images,
`cifar10_validation.npz` the next 2,000, `cifar10_test.npz` all 10,000 test images,
normalised as the ResNet-20 there wants them.

Fashion-MNIST: `fashion_mnist_validation.npz` has what the calibration slice of the zoo holds beyond the 512 images that
statistics are taken of.

Text (`lissom_models.text`), each part from a seed of its own, input `x` and `labels`:

| file | calibration, validation, test | labels |
|---|---|---|
| `ocr_rec_*.npz` | 512, 1,000 and 2,000 lines, 48 x 320 | class numbers of what is written |
| `ocr_cls_*.npz` | 512, 1,000 and 2,000 lines, 48 x 192 | 1 where turned by 180 degrees |
| `ocr_det_*.npz` | 32, 32 and 64 pages, 640 x 640 | boxes that the original network finds |
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import lissom_models
import numpy as np
from lissom.job import CALIBRATION_SAMPLES
from lissom_models.reading import alphabet, boxes, encode, pad_boxes
from lissom_models.text import MEAN, STD, lines, pages, turned
from lissom_runtime.session import open_session
from PIL import Image

TEXT = {"calibration": (512, 32), "validation": (1000, 32), "test": (2000, 64)}
"""Lines and pages of each part."""


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


def write_text(models: Path, out: Path) -> None:
    """Writes the nine files of text.

    Args:
        models: folder of the PP-OCR networks; the recogniser lists its classes, the detector finds the boxes.
        out: folder to write to.
    """
    recogniser = open_session(models / "ch_PP-OCRv4_rec_infer.onnx")
    classes = alphabet(recogniser.get_modelmeta().custom_metadata_map["character"])
    detector = open_session(models / "ch_PP-OCRv4_det_infer.onnx")
    for seed, (part, (line_count, page_count)) in enumerate(TEXT.items(), start=1):
        images, texts = lines(line_count, seed=seed)
        np.savez(out / f"ocr_rec_{part}.npz", x=images, labels=encode(texts, classes))
        images, turns = turned(line_count, seed=seed)
        np.savez(out / f"ocr_cls_{part}.npz", x=images, labels=turns)
        images = pages(page_count, seed=seed)
        found = pad_boxes([boxes(detector.run(None, {"x": page[None]})[0])[0] for page in images])
        np.savez(out / f"ocr_det_{part}.npz", x=images, labels=found)
        print(f"wrote ocr_*_{part}.npz: {line_count} lines, {page_count} pages of {(found[..., 0] >= 0).sum()} boxes")


def main() -> None:
    """Writes the files that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cifar", type=Path, help="folder with train.npz and test.npz")
    parser.add_argument("--ocr", type=Path, help="folder of the PP-OCR networks; renders text (needs DejaVu fonts)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with np.load(lissom_models.calibration("lenet5"), allow_pickle=False) as data:
        rest = {name: data[name][CALIBRATION_SAMPLES:] for name in data.files}
    np.savez(arguments.out / "fashion_mnist_validation.npz", **rest)
    if arguments.ocr is not None:
        write_text(arguments.ocr, arguments.out)
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
