"""Runs a model that lissom wrote with the native kernels, where they are there, and without them where not.

    python examples/deploy.py MODEL.onnx

Prints which kernels run, then shape and mean of each output for inputs of ones (free extents are 1).
"""

from __future__ import annotations

import sys

import lissom_runtime
import numpy as np
import onnxruntime


def main(model: str) -> None:
    """Runs the model once."""
    options = onnxruntime.SessionOptions()
    if lissom_runtime.available():
        lissom_runtime.register(options)
    print(lissom_runtime.describe())
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feeds = {
        value.name: np.ones([extent if isinstance(extent, int) else 1 for extent in value.shape], np.float32)
        for value in session.get_inputs()
    }
    for value, output in zip(session.get_outputs(), session.run(None, feeds), strict=True):
        print(f"{value.name} {list(output.shape)} mean {output.mean():.6g}")


if __name__ == "__main__":
    main(*sys.argv[1:])
