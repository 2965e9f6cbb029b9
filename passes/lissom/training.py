"""`Training`: how a network is trained, and `Train`: the recipe table `[train]`, which is that and a little more.

It needs no framework, so that a recipe is read and checked where there is none.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any, ClassVar, Literal

from lissom_runtime.errors import UsageError
from pydantic import ConfigDict


@dataclass(frozen=True)
class Training:
    """How a network learns to give what another gives.

    Attributes:
        epochs: passes over the samples, at most.
        minutes: most time that training takes; the learning rate falls over the steps that fit. None: no limit.
        batch: samples of a step, unless the network fixes it.
        rate: highest learning rate of AdamW.
        decay: weight decay of AdamW.
        warmup: share of the steps in which the learning rate rises.
        temperature: of a classifier's probabilities.
        labels: share of the loss that is the cross-entropy of labels, 0 to 1; without it labels are not read.
        blocks: share of the loss that is the error of the outputs of blocks, 0 to 1.
        block_names: tensors of both networks that are compared as such; none: what `train/blocks.py` finds.
        patience: epochs without improvement after which training stops.
        shift: images are shifted by up to so many pixels.
        flip: images are flipped from left to right.
        seed: of order and augmentation.

    Raises:
        UsageError: a number is out of its range.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    epochs: int = 20
    minutes: float | None = None
    batch: int = 64
    rate: float = 1e-3
    decay: float = 1e-4
    warmup: float = 0.05
    temperature: float = 2.0
    labels: float = 0.0
    blocks: float = 0.0
    block_names: tuple[str, ...] = ()
    patience: int = 5
    shift: int = 0
    flip: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for name, least in (("epochs", 1), ("batch", 1), ("patience", 1), ("shift", 0), ("seed", 0), ("decay", 0)):
            if not getattr(self, name) >= least:
                raise UsageError(f"expected {name} to be {least} or more, but got {getattr(self, name)}")
        for name in ("rate", "temperature", "minutes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"expected {name} to be above 0, but got {value}")
        for name in ("labels", "blocks"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"expected {name} to be a share of the loss, 0 to 1, but got {getattr(self, name)}")
        if not 0 <= self.warmup < 1:
            raise UsageError(f"expected warmup to be a share of the steps below 1, but got {self.warmup}")

    @property
    def settings(self) -> dict[str, Any]:
        """The settings by name, those alone that say how a network is trained."""
        return {field.name: getattr(self, field.name) for field in fields(Training)}


@dataclass(frozen=True)
class Train(Training):
    """Trains what was found before it is written.

    Attributes:
        enabled: whether that is done (it needs calibration data, and the extra `lissom[recover]`).
        device: where torch runs.
        slack: how much more than its goal the search may lose, for training to give back.
    """

    enabled: bool = False
    device: Literal["cpu", "cuda"] = "cpu"
    slack: float = 0.0

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        if not self.slack >= 0:
            raise UsageError(f"expected slack to be 0 or more, but got {self.slack}")


def require_framework(device: str) -> None:
    """Imports what trains.

    Raises:
        UsageError: torch is not installed, or has no such device.
    """
    try:
        import_module("lissom.train.distil")
        from lissom.train.device import require_device
    except ImportError as error:
        raise UsageError(f"expected torch to train with (pip install 'lissom[recover]'), but got: {error}") from error
    require_device(device)
