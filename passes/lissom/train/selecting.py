"""Node selection with masks: stages of growing strength, then the channels go and what is left is trained.

Source: Yu et al., Scalpel (2017), section on node pruning; stages, targets and the last training as in the authors'
program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
from lissom_runtime.errors import UsageError

from lissom.data import Dataset, first_feeds, input_specs
from lissom.graph.load import from_proto
from lissom.progress import Progress, silent
from lissom.train.layering import layered
from lissom.train.masks import NodeMasks, Target, find_mask_sites
from lissom.train.tuning import Held, Tuned, Tuning, tune

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Stage:
    """One training with masks.

    Attributes:
        strength: λ: how fast β falls, per unit of the learning rate.
        tuning: how it is trained.
        target: the groups whose masks change; None: all.

    Raises:
        UsageError: the strength is negative, the optimizer is not SGD, for which λ is meant, or it does not keep the
            last values.
    """

    strength: float
    tuning: Tuning
    target: Target | None = None

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if not self.strength >= 0:
            raise UsageError(f"expected a strength of 0 or more, but got {self.strength}")
        if self.tuning.optimizer != "sgd":
            raise UsageError(f"expected sgd as the optimizer of masks, but got {self.tuning.optimizer}")
        if self.tuning.keeps != "last":
            raise UsageError(
                "expected to keep the last values of a stage, whose masks are the last too, but got the best"
            )


@dataclass(frozen=True)
class Selected:
    """A network with the channels that its masks chose.

    Attributes:
        proto: the network without the others, trained once more.
        masked: the network with all channels, as the stages left it.
        kept: kept[n] of each channel group, by its name.
        widths: channels of each group before.
        before, after: the network as it was given and as it is returned, on samples that are held out.
        seconds: that all trainings took.
    """

    proto: onnx.ModelProto
    masked: onnx.ModelProto
    kept: Mapping[str, Array]
    widths: Mapping[str, int]
    before: Held
    after: Held
    seconds: float = field(compare=False)


def select_nodes(
    proto: onnx.ModelProto,
    data: Dataset,
    stages: Sequence[Stage],
    last: Tuning,
    dropout: float = 0.0,
    folder: Path | None = None,
    resume: bool = False,
    device: str = "cpu",
    progress: Progress = silent,
) -> Selected:
    """Trains masks of the channels, removes what they mask, and trains what is left.

    Args:
        proto: the network.
        data: samples with labels.
        stages: trainings with masks, one after another.
        last: how the network without the channels is trained.
        dropout: rate at which what linear layers give drops out while all of it is there.
        folder: where checkpoints are kept, one a training.
        resume: go on from these.
        device: where torch runs.
        progress: told of the steps.

    Raises:
        UsageError: as `tune`, there are no stages, or no channel of the network can be masked.
    """
    if not stages:
        raise UsageError("expected at least one stage of masks, but got none")
    specs = input_specs(proto.graph.input)
    sites = find_mask_sites(layered(proto, first_feeds(specs, data, {})))
    masks = NodeMasks(sites.masked, dropout, stages[0].tuning.seed)
    current, before, seconds = sites.layered.model.to_proto(), None, 0.0

    def trained(model: onnx.ModelProto, tuning: Tuning, name: str, companions: Sequence[NodeMasks] = ()) -> Tuned:
        checkpoint = None if folder is None else folder / f"{name}.safetensors"
        return tune(model, data, tuning, companions, checkpoint, resume, device, progress)

    for number, stage in enumerate(stages, start=1):
        masks.strength, masks.target = stage.strength, stage.target
        tuned = trained(current, stage.tuning, f"stage-{number}", [masks])
        masks.settle()
        current, before, seconds = tuned.proto, before or tuned.before, seconds + tuned.seconds
    assert before is not None
    narrow = from_proto(current)
    sites.removed(narrow, masks.kept)
    final = trained(narrow.to_proto(), last, "last")
    widths = {site.group.name: len(site.group) for site in sites.masked}
    return Selected(final.proto, current, masks.kept, widths, before, final.after, seconds + final.seconds)
