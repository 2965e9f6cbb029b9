"""The rival that costs a user nothing: ONNX Runtime's own static INT8 of the dense network.

QDQ, per channel, activations unsigned and weights signed (U8S8), calibrated on random images: the latency does not
depend on the values. Processors without VNNI add two products of U8S8 in 16 bits, which saturates; there the weights
get 7 bits (`reduce_range`), as a user who wants accuracy would choose. That changes no latency either.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import onnx
from lissom_runtime.target import Machine
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks.kernels.networks import image

CALIBRATION_IMAGES = 4
_VNNI = frozenset({"avx512_vnni", "avx_vnni"})


class _RandomImages(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    """Seeded random images."""

    def __init__(self, count: int) -> None:
        self._seeds = iter(range(count))

    def get_next(self) -> dict[str, Any] | None:
        """The next feeds, or None at the end."""
        seed = next(self._seeds, None)
        return None if seed is None else {"image": image(seed)}


def reduce_range(machine: Machine) -> bool:
    """Whether weights get 7 bits on this processor."""
    return machine.architecture.lower() in {"x86_64", "amd64"} and not _VNNI & machine.isa


def quantise(dense: Path, target: Path) -> str:
    """Writes the INT8 form of `dense` to `target`; returns what was chosen, in words."""
    reduced = reduce_range(Machine.here())
    prepared = target.with_suffix(".prepared.onnx")
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # onnxruntime advises to do what is done here
    try:
        quant_pre_process(onnx.load(dense), prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            target,
            _RandomImages(CALIBRATION_IMAGES),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=reduced,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    finally:
        logging.disable(disabled)
    prepared.unlink()
    why = "no VNNI: reduce_range, 7-bit weights" if reduced else "VNNI: 8-bit weights"
    return f"QDQ, U8S8, per channel, {why}"
