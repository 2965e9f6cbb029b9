"""ONNX Runtime's own static INT8, with the settings that a user who wants accuracy would choose.

QDQ, per channel, activations unsigned and weights signed (U8S8). Processors without VNNI add two products of U8S8 in 16
bits, which saturates; there the weights get 7 bits (`reduce_range`). That changes no latency.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx
from lissom_runtime.latency import Feeds
from lissom_runtime.target import Machine
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

_VNNI = frozenset({"avx512_vnni", "avx_vnni"})


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    """The batches in turn."""

    def __init__(self, batches: Iterable[Feeds]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        """The next feeds, or None at the end."""
        feeds = next(self._batches, None)
        return None if feeds is None else dict(feeds)


def reduce_range(machine: Machine) -> bool:
    """Whether weights get 7 bits on this processor."""
    return machine.architecture.lower() in {"x86_64", "amd64"} and not _VNNI & machine.isa


def quantise(dense: Path, target: Path, batches: Iterable[Feeds]) -> str:
    """Writes the INT8 form of a model; returns what was chosen, in words.

    Args:
        dense: the model.
        target: where to write.
        batches: calibration samples; the least and largest value of each activation are taken.
    """
    reduced = reduce_range(Machine.here())
    prepared = target.with_suffix(".prepared.onnx")
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # onnxruntime advises to do what is done here
    try:
        quant_pre_process(onnx.load(dense), prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            target,
            _Reader(batches),
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
