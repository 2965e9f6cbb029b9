"""Change a network, train it, and do it again.

    raised thresholds   blocks below a threshold go, the rest is trained, the threshold rises (Scalpel)
    a share a round     the least weights of the whole network go, 20 % of what is left in each round (Renda)
    cascade             pairs become layers again, are decomposed anew to a smaller budget, and are trained (ALDS)

are all `in_rounds` with other changes (`pruning.py`, `cascade.py`). Zeros stay zero while a round is trained, in every
step. Each round has a checkpoint of its own: a run that is begun again with `resume` passes through the rounds that
have ended and goes on in the one that was cut off.

Source: Yu et al., Scalpel (2017); Renda, Frankle and Carbin (2020), section 4; Liebenwein et al., ALDS (2021),
section 3 and appendix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from lissom_runtime.errors import UsageError

from lissom.data import Dataset
from lissom.progress import Progress, silent
from lissom.train.tuning import Held, Tuning, tune


@dataclass(frozen=True)
class Changed:
    """A network after the change of a round.

    Attributes:
        proto: the network.
        facts: what is to be told of the change: numbers by name.
    """

    proto: onnx.ModelProto
    facts: Mapping[str, float] = field(default_factory=dict)


Change = Callable[[onnx.ModelProto], Changed]
"""What is done to a network before it is trained: a function of the network alone, so that a run can be resumed."""


@dataclass(frozen=True)
class Round:
    """What came of one round.

    Attributes:
        proto: the network, trained.
        facts: what its change told.
        before, after: samples that are held out, behind the change and behind the training.
        epochs: epochs that were trained.
        seconds: that the training took.
    """

    proto: onnx.ModelProto
    facts: Mapping[str, float]
    before: Held
    after: Held
    epochs: int
    seconds: float = field(compare=False)


def in_rounds(
    proto: onnx.ModelProto,
    data: Dataset,
    changes: Sequence[Change],
    tuning: Tuning,
    folder: Path | None = None,
    resume: bool = False,
    device: str = "cpu",
    progress: Progress = silent,
) -> Iterator[Round]:
    """Changes and trains a network, round by round.

    Args:
        proto: the network.
        data: samples with labels.
        changes: what is done in each round, to what the round before gave.
        tuning: how each round is trained; for learning-rate rewinding its schedule is `Schedule.last` of the one that
            the network was trained with.
        folder: where checkpoints are kept, one a round.
        resume: go on from these.
        device: where torch runs.
        progress: told of the steps.

    Yields:
        Each round when it has ended.

    Raises:
        UsageError: as `tune`, or the folder is not there.
    """
    if folder is not None and not folder.is_dir():
        raise UsageError(f"expected a folder for checkpoints, but {folder} is none")
    for number, change in enumerate(changes, start=1):
        changed = change(proto)
        checkpoint = None if folder is None else folder / f"round-{number}.safetensors"
        tuned = tune(
            changed.proto, data, tuning, checkpoint=checkpoint, resume=resume, device=device, progress=progress
        )
        proto = tuned.proto
        yield Round(proto, changed.facts, tuned.before, tuned.after, tuned.epochs, tuned.seconds)
