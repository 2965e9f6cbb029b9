"""Where torch runs."""

from __future__ import annotations

import torch
from lissom_runtime.errors import UsageError

DEVICES = ("cpu", "cuda")


def require_device(device: str) -> None:
    """Refuses a device that is none of `DEVICES`, or that torch does not find.

    Raises:
        UsageError: it is not one that can be used.
    """
    if device not in DEVICES:
        raise UsageError(f"expected the device {' or '.join(DEVICES)}, but got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"expected a device of CUDA that torch {torch.__version__} can use, but it finds none")
