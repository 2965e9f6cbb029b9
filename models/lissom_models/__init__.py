"""Trained small networks and slices of real data.

The zoo holds five networks trained on Fashion-MNIST, as ONNX files with input ``image[batch, 1, 28, 28]`` (float32 in
[0, 1]) and output ``logits[batch, 10]``, and two slices of the data: 2,000 training images for calibration and all
10,000 test images. Both are ``.npz`` files with ``image[n, 1, 28, 28]`` float32 and ``labels[n]`` int64.

`lissom_models.text` renders lines and pages of text with exact labels for PP-OCR networks, which are not part of the
zoo; `lissom_models.reading` has the metrics by which such networks are judged.
"""

from lissom_models.zoo import NAMES, accuracy, calibration, path, test

__all__ = ["NAMES", "accuracy", "calibration", "path", "test"]
