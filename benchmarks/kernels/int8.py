"""The rival that costs a user nothing: ONNX Runtime's own static INT8 of the dense network.

Calibrated on random images: the latency does not depend on the values. The settings are those of
`benchmarks/quantisation.py`.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks import quantisation
from benchmarks.kernels.networks import image

CALIBRATION_IMAGES = 4


def quantise(dense: Path, target: Path) -> str:
    """Writes the INT8 form of `dense` to `target`; returns what was chosen, in words."""
    return quantisation.quantise(dense, target, ({"image": image(seed)} for seed in range(CALIBRATION_IMAGES)))
