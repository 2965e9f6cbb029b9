"""ONNX Runtime's own static INT8, as its documentation advises for accuracy.

QDQ, per channel, activations unsigned and weights signed (U8S8), the range of an activation from its least to its
largest value. Processors without VNNI add two products of U8S8 in 16 bits, which saturates; there the weights get 7
bits (`reduce_range`), as a user who wants accuracy would choose. That changes no latency.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx
from lissom_runtime.latency import Feeds
from lissom_runtime.target import Machine
from onnx.version_converter import convert_version
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

LEAST_OPSET = 13
"""The first with scales per channel."""

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


def _write_at_least(opset: int, source: Path, target: Path) -> None:
    """Writes a model again, converted up to `opset` where it is older."""
    model = onnx.load(source)
    if max(entry.version for entry in model.opset_import if not entry.domain) < opset:
        model = convert_version(model, opset)
    onnx.save(model, target)


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
        _write_at_least(LEAST_OPSET, dense, prepared)
        quant_pre_process(prepared, prepared, skip_symbolic_shape=True)
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
