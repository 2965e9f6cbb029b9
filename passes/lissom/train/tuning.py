"""Training with labels: fine-tuning and the retraining of compressed networks.

The loss is the cross-entropy of the labels alone. What is trained and how it is written back is the matter of
`TorchGraph`.

1. One sample of `held` is held out; after each epoch the cross-entropy of these is measured.
2. The result are the values of the last epoch, where the schedule ends, or those of the best one.
3. Zeros in the weights of layers stay zero: the masks hold in every step.
4. Weight decay is on constants of more than one axis, so not on biases and normalisations.
5. Statistics of batch normalisations stay those of the file, unless `statistics` is "updated".
6. A model with functions comes back inlined, packed weights dense: `lissom lower` packs again.
7. Under a limit on the time the schedule is run through in the steps that fit (`loop.py`).
8. With `precision` "bfloat16" the layers of a step run in bfloat16 where torch has them, weights, statistics and
   optimizer stay float32, and so does what is measured. It pays on processors with instructions for it.
9. Order and augmentation follow from seed and step alone, so that a run that goes on from a checkpoint takes the steps
   of an unbroken one: bit by bit, on one machine with as many threads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt
import onnx
import torch
from lissom_runtime.errors import UsageError

from lissom.data import Dataset, input_specs
from lissom.price.outputs import classifies
from lissom.progress import Progress, silent
from lissom.train.checkpoint import digest_of
from lissom.train.companion import Companion
from lissom.train.feeding import Feeder
from lissom.train.loop import Course, train
from lissom.train.losses import are_probabilities, task_loss
from lissom.train.node import Tensor
from lissom.train.reading import inlined
from lissom.train.samples import read_samples, require_classes
from lissom.train.schedule import Schedule
from lissom.train.torch_graph import TorchGraph
from lissom.train.writing import with_values

Array = npt.NDArray[Any]


_CHOICES = {
    "optimizer": ("sgd", "adamw", "adadelta"),
    "statistics": ("frozen", "updated"),
    "keeps": ("last", "best"),
    "precision": ("float32", "bfloat16"),
}


@dataclass(frozen=True)
class Tuning:
    """How a network is trained with labels.

    Attributes:
        schedule: learning rates and epochs.
        optimizer: "sgd" (with Nesterov's momentum), "adamw" or "adadelta".
        momentum: of SGD.
        decay: weight decay.
        smoothing: what of a label's probability is spread evenly over all classes, in the loss that is trained.
        batch: samples of a step, unless the network fixes it.
        shift: images are shifted by up to so many pixels.
        flip: images are flipped from left to right.
        held: one sample of so many is held out.
        statistics: whether batch normalisations keep the statistics of the file.
        keeps: the values of the last epoch or those of the best one are the result.
        precision: of the layers in a step, "float32" or "bfloat16".
        seed: of order and augmentation.
        minutes: most time that training takes; None: as long as the epochs need.

    Raises:
        UsageError: a number is out of its range.
    """

    schedule: Schedule
    optimizer: Literal["sgd", "adamw", "adadelta"] = "sgd"
    momentum: float = 0.9
    decay: float = 1e-4
    smoothing: float = 0.0
    batch: int = 128
    shift: int = 0
    flip: bool = False
    held: int = 20
    statistics: Literal["frozen", "updated"] = "frozen"
    keeps: Literal["last", "best"] = "last"
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    minutes: float | None = None

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for name, least in (("batch", 1), ("shift", 0), ("held", 2), ("seed", 0), ("decay", 0)):
            if not getattr(self, name) >= least:
                raise UsageError(f"expected {name} to be {least} or more, but got {getattr(self, name)}")
        for name in ("momentum", "smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"expected {name} to be 0 or more and below 1, but got {getattr(self, name)}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise UsageError(f"expected {name} to be one of {', '.join(choices)}, but got {getattr(self, name)!r}")
        if self.minutes is not None and not self.minutes > 0:
            raise UsageError(f"expected minutes to be above 0, but got {self.minutes}")


@dataclass(frozen=True)
class Held:
    """What a network is worth on the samples that are held out.

    Attributes:
        loss: mean cross-entropy in nats.
        accuracy: share of the samples whose label has the largest score.
        count: samples.
    """

    loss: float
    accuracy: float
    count: int


@dataclass(frozen=True)
class Tuned:
    """What came of a training.

    Attributes:
        proto: the trained model, without functions.
        before, after: the model as it was given and as it is returned, on the samples that are held out.
        epochs: epochs that were trained, the last one in part where the time was limited.
        seconds: that it took, those before a run was resumed included.
    """

    proto: onnx.ModelProto
    before: Held
    after: Held
    epochs: int
    seconds: float = field(compare=False)


def tune(
    proto: onnx.ModelProto,
    data: Dataset,
    tuning: Tuning,
    companions: Sequence[Companion] = (),
    checkpoint: Path | None = None,
    resume: bool = False,
    device: str = "cpu",
    progress: Progress = silent,
) -> Tuned:
    """Trains a classifier on labelled samples.

    Args:
        proto: the network.
        data: samples with labels.
        tuning: how.
        companions: what goes along with the training; their state is part of the checkpoint.
        checkpoint: file of the state of the run.
        resume: go on from `checkpoint` if it exists.
        device: where torch runs.
        progress: told of the steps.

    Raises:
        UsageError: the graph cannot be trained, is no classifier, or there are too few samples, no labels, or labels
            that are no classes of it, or the checkpoint is of another run or cannot be written.
    """
    if checkpoint is not None and not checkpoint.parent.is_dir():
        raise UsageError(f"expected a folder for the checkpoint, but there is no {checkpoint.parent}")
    run = _Run(inlined(proto), data, tuning, companions, device)
    before = run.judge()
    length = tuning.schedule.length
    course = Course(
        length, run.steps, length, tuning.keeps, checkpoint, resume, progress, "training", tuning.minutes, run.plan
    )
    position, values = train(run, course, run.digest())
    trained = with_values(run.proto, values)
    run.set(values)
    return Tuned(trained, before, run.judge(), -(-position.step // run.steps), position.seconds)


class _Run:
    """A network, samples and an optimizer.

    Attributes:
        proto: the network, without functions.
        optimizer: what moves its weights.
        steps: of an epoch.
    """

    def __init__(
        self, proto: onnx.ModelProto, data: Dataset, tuning: Tuning, companions: Sequence[Companion], device: str
    ) -> None:
        if not classifies(proto):
            raise UsageError("expected a classifier to learn labels, but the first output is no scores of classes")
        self.proto, self._tuning, self._companions = proto, tuning, companions
        self._graph = TorchGraph(proto, dtype=torch.float32, statistics=tuning.statistics).to(device)
        self._graph.keep_zeros()
        if not self._graph.trained():
            raise UsageError("expected weights to train, but the model has none")
        specs = [spec for spec in input_specs(proto.graph.input) if spec.name in self._graph.inputs]
        self._samples = read_samples(data, specs, tuning.batch, labelled=True, held_out=tuning.held)
        self._feeder = Feeder(self._samples, tuning.seed, tuning.shift, tuning.flip, device)
        self.steps = self._feeder.steps
        self._identities = [companion.identity() for companion in companions]
        for companion in companions:
            companion.attach(self._graph)
        self.optimizer = self._make_optimizer()
        self._probabilities = self._look()
        self._pace = 1.0

    def plan(self, steps: int) -> None:
        """Fits the schedule to so many steps."""
        self._pace = self._tuning.schedule.length * self.steps / steps

    def digest(self) -> str:
        """What tells this run from others."""
        assert self._samples.labels is not None
        return digest_of(
            self.proto.SerializeToString(),
            json.dumps([asdict(self._tuning), self._identities], sort_keys=True).encode(),
            *self._samples.arrays.values(),
            self._samples.labels,
        )

    def state(self) -> Mapping[str, Tensor]:
        """Parameters, moving statistics, and what the companions have."""
        found = {**self._graph.trained(), **self._graph.moved()}
        for number, companion in enumerate(self._companions):
            found |= {f"companion {number}/{name}": tensor for name, tensor in companion.state().items()}
        return found

    def values(self) -> dict[str, Array]:
        """The trained constants."""
        found: dict[str, Array] = self._graph.values()
        return found

    def set(self, values: Mapping[str, Array]) -> None:
        """Gives the graph the values of an epoch."""
        with torch.no_grad():
            for name, tensor in {**self._graph.trained(), **self._graph.moved()}.items():
                tensor.copy_(torch.from_numpy(values[name]))

    def step(self, number: int) -> None:
        """One step of the optimizer."""
        self._graph.train()
        for companion in self._companions:
            companion.before(number)
        rate = self._tuning.schedule.rate_at(int(number * self._pace), self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        feeds, labels = self._feeder.batch(number)
        assert labels is not None
        with torch.autocast(labels.device.type, torch.bfloat16, enabled=self._tuning.precision == "bfloat16"):
            scores = self._scores(feeds)
        task_loss(scores.float(), labels, self._probabilities, self._tuning.smoothing).backward()
        self.optimizer.step()
        for companion in self._companions:
            companion.after(number, rate)

    def measured(self) -> float:
        """The cross-entropy of the samples that are held out."""
        return self.judge().loss

    def judge(self) -> Held:
        """What the network is worth on the samples that are held out."""
        self._graph.eval()
        loss, hits, count = 0.0, 0, 0
        with torch.no_grad():
            for arrays, labels in self._samples.batches(self._samples.held):
                assert labels is not None
                scores, wanted = self._scores(self._feeder.tensors(arrays)), self._feeder.tensor(labels)
                loss += len(labels) * float(task_loss(scores, wanted, self._probabilities))
                hits += int((scores.argmax(dim=1) == wanted).sum())
                count += len(labels)
        return Held(loss / count, hits / count, count)

    def _scores(self, feeds: Mapping[str, Tensor]) -> Tensor:
        """The graph's first output[n, classes]."""
        return self._graph(feeds)[self._graph.outputs[0]]

    def _make_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer, with decay on what has more than one axis."""
        tuning, trained = self._tuning, list(self._graph.trained().values())
        others = [values for values in trained if values.ndim < 2]
        others += [values for companion in self._companions for values in companion.parameters()]
        groups = [
            {"params": [values for values in trained if values.ndim > 1], "weight_decay": tuning.decay},
            {"params": others, "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        rate = tuning.schedule.rate
        if tuning.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=rate, momentum=tuning.momentum, nesterov=tuning.momentum > 0)
        if tuning.optimizer == "adamw":
            return torch.optim.AdamW(groups, lr=rate)
        return torch.optim.Adadelta(groups, lr=rate)

    def _look(self) -> bool:
        """Whether the outputs are probabilities; refuses labels that are no classes of the network."""
        assert self._samples.labels is not None
        arrays, _ = next(self._samples.batches(self._samples.held))
        self._graph.eval()
        with torch.no_grad():
            scores = self._scores(self._feeder.tensors(arrays))
        require_classes(self._samples.labels, scores.shape[1])
        return are_probabilities(scores)
