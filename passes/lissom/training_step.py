"""The step of `lissom.compress` that trains: what was found learns to give what the original gives (table `[train]`).

Training is the matter of `lissom.train`, as it is for `lissom.recover`. Here it stands between surgery and packing.

1. One candidate is trained: the one that bounds and goal have found. Sizes are those of its graph, of which training
   changes the numbers alone; a latency that was limited is the one that was measured then.
2. The layers that are to be packed are still dense and hold zeros; these stay zero.
3. A candidate whose held-out distortion training does not lower stays as it is.
"""

from __future__ import annotations

import time
from importlib.metadata import version

import onnx
from lissom_runtime.errors import UsageError

from lissom.graph.model import Model
from lissom.job import Job
from lissom.report.schema import TrainedEntry
from lissom.training import Train, require_framework

_FLOATING = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


def require_training(job: Job, asked: Train) -> None:
    """Refuses a training that cannot be done, before any work.

    Raises:
        UsageError: torch or its device is not there, or there are no calibration data, or no network can learn what is
            asked from them.
    """
    require_framework(asked.device)
    from lissom.train.distil import require_distillable

    if job.calibration is None:
        raise UsageError("expected --calibration data for the training, but got none")
    require_distillable(onnx.load_from_string(job.original), job.calibration, asked, asked.device)


def train_in_place(model: Model, job: Job, asked: Train) -> tuple[TrainedEntry, tuple[str, ...]]:
    """Gives the constants of a model the values that it learns.

    Args:
        model: the model after surgery, before its layers are packed.
        job: the original and the calibration data.
        asked: how.

    Returns:
        What came of it, and what is to be said.

    Raises:
        UsageError: the model cannot be trained.
    """
    from lissom.train.distil import distil

    assert job.calibration is not None
    began = time.perf_counter()
    found = distil(
        onnx.load_from_string(job.original),
        model.to_proto(),
        job.calibration,
        asked,
        device=asked.device,
        progress=job.progress,
    )
    seconds = time.perf_counter() - began
    if found.best_epoch > 0:
        _take_over(model, found.proto)
    entry = TrainedEntry(
        settings=asked.settings,
        device=asked.device,
        torch=version("torch"),
        data=job.calibration.name,
        samples=job.calibration.size,
        epochs=found.epochs,
        best_epoch=found.best_epoch,
        seconds=seconds,
        kept=found.best_epoch > 0,
        distortion_before=found.before,
        distortion_after=found.after,
    )
    return entry, found.remarks


def _take_over(model: Model, trained: onnx.ModelProto) -> None:
    """Gives each floating-point constant of a model the numbers that it has in the protobuf."""
    stored = {tensor.name: tensor for tensor in trained.graph.initializer if tensor.data_type in _FLOATING}
    for tensor in model.constants():
        if tensor.name in stored:
            tensor.values = onnx.numpy_helper.to_array(stored[tensor.name]).copy()
