"""The state of a training run in one file that is whole at every moment.

The file is safetensors, so that reading it executes nothing. It holds the parameters, the best values so far, the state
of the optimizer by parameter, and one JSON object: where the run is, and a digest of what it was started with. A run
goes on only from a file with its own digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lissom_runtime.errors import UsageError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lissom.train.node import Tensor

Array = npt.NDArray[Any]

_ENTRY = "lissom.training"


@dataclass(frozen=True)
class Position:
    """Where a run is.

    Attributes:
        step: steps of the optimizer that were taken.
        best: least held-out distortion so far.
        best_epoch: the epoch after which it was measured; 0 is the start.
        total: steps of the whole run, as it was planned when it began.
        seconds: what it took up to here.
        cuts: how often the learning rate was cut because it was too high.
    """

    step: int
    best: float
    best_epoch: int
    total: int
    seconds: float
    cuts: int = 0


def save(
    path: Path,
    digest: str,
    position: Position,
    parameters: Mapping[str, Tensor],
    best: Mapping[str, Array],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Replaces the file at `path`.

    Raises:
        UsageError: the folder cannot be written.
    """
    tensors = {f"parameter/{name}": value.detach().cpu().contiguous() for name, value in parameters.items()}
    tensors |= {f"best/{name}": torch.from_numpy(values.copy()) for name, values in best.items()}
    for name, value in parameters.items():
        tensors |= {f"{key}/{name}": part.cpu().contiguous() for key, part in optimizer.state[value].items()}
    note = json.dumps({"digest": digest, **asdict(position)})
    try:
        with tempfile.TemporaryDirectory(prefix=".lissom-", dir=path.parent) as folder:
            draft = Path(folder) / path.name
            save_file(tensors, draft, metadata={_ENTRY: note})
            os.replace(draft, path)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"expected to write the checkpoint {path}, but got: {error}") from error


def load(
    path: Path, digest: str, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> tuple[Position, dict[str, Array]]:
    """Puts a run where the file says that it was.

    Args:
        path: the file.
        digest: of what this run was started with.
        parameters: by name; their values are replaced.
        optimizer: its state is replaced.

    Returns:
        Where the run is, and the best values so far.

    Raises:
        UsageError: the file is no checkpoint, is that of another run, or lacks a tensor.
    """
    try:
        with safe_open(path, framework="pt") as file:
            note = json.loads((file.metadata() or {})[_ENTRY])
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
        written = note.pop("digest")
        position = Position(**note)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"expected a checkpoint of lissom in {path}, but it is none: {error}") from error
    if written != digest:
        raise UsageError(
            f"expected the checkpoint of this run in {path}, but it is of one with other models, data or settings"
        )
    states: dict[str, dict[str, Tensor]] = {name: {} for name in parameters}
    best: dict[str, Array] = {}
    try:
        for key, value in found.items():
            kind, _, name = key.partition("/")
            if kind == "best":
                best[name] = value.numpy()
            elif kind == "parameter":
                with torch.no_grad():
                    parameters[name].copy_(value)
            else:
                states[name][kind] = value if kind == "step" else value.to(parameters[name].device)
    except (KeyError, RuntimeError) as error:
        raise UsageError(f"expected the tensors of this run in {path}, but got: {error}") from error
    for name, parameter in parameters.items():
        optimizer.state[parameter] = states[name]
    return position, best


def digest_of(*parts: bytes | Array) -> str:
    """A digest of models, settings and data."""
    found = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else np.ascontiguousarray(part).tobytes()
        found.update(len(content).to_bytes(8, "little"))
        found.update(content)
    return found.hexdigest()
