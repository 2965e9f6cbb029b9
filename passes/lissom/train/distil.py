"""Distillation: a compressed network learns to give what the original gives, on inputs that need no labels.

The networks run side by side, in torch, on calibration samples: the original as it is, the compressed one with the
gradients of the loss in `losses.py`. What is trained and how it is written back is the matter of `TorchGraph`.

1. Every eighth sample is held out. After each epoch the distortion of the outputs (`price/outputs.py`) is measured on
   these, and the values of the best epoch are kept. Training stops after `patience` epochs without a better one. A
   classifier may learn labels besides: a share of the loss, and of what is measured, is then their cross-entropy.
2. The result is compared with the start on ONNX Runtime, on the held-out samples. Where it is not better, the model
   comes back as it was.
3. Zeros in the weights of layers stay zero.
4. A model with functions comes back inlined, packed weights dense: `lissom lower` packs again.
5. Statistics of batch normalisations stay those of the file, in both networks.
6. A share of the loss may be the error of the outputs of blocks (`blocks.py`); it is no part of what is measured.
7. The learning rate rises along a line over the first steps and falls along a cosine to zero. As long as no epoch is
   better than the start, each is taken back and the rate cut to a fifth: what a closed form has fitted lies in a narrow
   valley.
8. Order and augmentation of an epoch follow from seed, epoch and position alone, so that a run that goes on from a
   checkpoint takes the steps of an unbroken one: bit by bit, on one machine with as many threads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import torch
from lissom_runtime.errors import UsageError
from lissom_runtime.session import open_session, run_session

from lissom.data import Dataset, input_specs
from lissom.price.outputs import classifies, distortion
from lissom.progress import Progress, silent
from lissom.train.blocks import Shapes, find_blocks
from lissom.train.checkpoint import digest_of
from lissom.train.feeding import Feeder
from lissom.train.loop import Course, train
from lissom.train.losses import are_probabilities, block_error, divergence, relative_error, task_loss
from lissom.train.node import Tensor
from lissom.train.reading import inlined
from lissom.train.samples import read_samples, require_classes
from lissom.train.schedule import cosine
from lissom.train.torch_graph import TorchGraph
from lissom.train.writing import with_values
from lissom.training import Training

Array = npt.NDArray[Any]

_Outputs: TypeAlias = tuple[list[Array], list[Array], Array | None]
"""Of the original and of another network, with the labels."""


CUT = 0.2
"""What the learning rate is cut to, as a share, after a first epoch that is worse than the start."""


@dataclass(frozen=True)
class Distilled:
    """What came of it.

    Attributes:
        proto: the trained model, or the one that was given where it did not get better.
        before, after: held-out distortion (with labels: mixed with their cross-entropy) on ONNX Runtime of the model as
            it was given and as it is returned.
        epochs: epochs that were trained, the last one in part where the time was limited.
        best_epoch: the epoch whose values are returned; 0: those that were given.
        remarks: what is to be said of it.
    """

    proto: onnx.ModelProto
    before: float
    after: float
    epochs: int
    best_epoch: int
    remarks: tuple[str, ...] = ()


def distil(
    original: onnx.ModelProto,
    compressed: onnx.ModelProto,
    data: Dataset,
    training: Training | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    device: str = "cpu",
    progress: Progress = silent,
) -> Distilled:
    """Trains `compressed` to give the outputs of `original`.

    Args:
        original: the network that is learned from.
        compressed: the network that learns, with the same inputs and outputs.
        data: calibration samples.
        training: how.
        checkpoint: file of the state of the run.
        resume: go on from `checkpoint` if it exists.
        device: where torch runs.
        progress: told of the steps.

    Raises:
        UsageError: a graph cannot be trained, inputs or outputs differ, there are too few samples, outputs are not
            finite, labels are missing or are no classes of the network, or the checkpoint is of another run or
            cannot be written.
        LoadError: ONNX Runtime cannot run one of the models.
    """
    training = training or Training()
    run = _Run(original, inlined(compressed), data, training, device)
    before = run.judge(run.compressed)
    course = Course(
        training.epochs,
        run.steps,
        training.patience,
        "best",
        checkpoint,
        resume,
        progress,
        "distilling",
        training.minutes,
        run.plan,
        run.cut,
    )
    position, values = train(run, course, run.digest())
    proto, epochs = with_values(run.compressed, values), -(-position.step // run.steps)
    after = run.judge(proto)
    if not after < before:
        return Distilled(compressed, before, before, epochs, 0, run.remarks)
    return Distilled(proto, before, after, epochs, position.best_epoch, run.remarks)


def require_distillable(original: onnx.ModelProto, data: Dataset, training: Training, device: str) -> None:
    """Refuses a network, or data, of which nothing can learn; before there is a compressed one.

    Raises:
        UsageError: as `distil` does, of the original and the data.
    """
    _Run(original, inlined(original), data, training, device)


class _Run:
    """Two networks, samples and an optimizer.

    Attributes:
        compressed: the network that learns, without functions.
        optimizer: what moves its weights.
        steps: of an epoch.
        remarks: what is to be said of the blocks.
    """

    def __init__(
        self, original: onnx.ModelProto, compressed: onnx.ModelProto, data: Dataset, training: Training, device: str
    ) -> None:
        self.compressed = compressed
        self._original = inlined(original)
        self._training = training
        self._teacher: TorchGraph = TorchGraph(self._original, trained=lambda _: False, dtype=torch.float32).to(device)
        self._student: TorchGraph = TorchGraph(compressed, dtype=torch.float32).to(device)
        self._student.keep_zeros()
        for what in ("inputs", "outputs"):
            wanted, got = getattr(self._teacher, what), getattr(self._student, what)
            if wanted != got:
                raise UsageError(f"expected the {what} {wanted} of the original, but the compressed model has {got}")
        if not self._student.trained():
            raise UsageError("expected weights to train, but the compressed model has none")
        specs = [spec for spec in input_specs(compressed.graph.input) if spec.name in self._student.inputs]
        self._samples = read_samples(data, specs, training.batch, training.labels > 0)
        self._feeder = Feeder(self._samples, training.seed, training.shift, training.flip, device)
        self.steps = self._feeder.steps
        self._total, self._rate = training.epochs * self.steps, training.rate
        self.optimizer = torch.optim.AdamW(self._student.parameters(), lr=training.rate, weight_decay=training.decay)
        self._classifies = classifies(self._original)
        self._probabilities = self._classifies and are_probabilities(self._scores())
        self._require_classes()
        self._blocks: Sequence[str] = ()
        self.remarks: tuple[str, ...] = ()
        if training.blocks > 0:
            self._blocks, self.remarks = self._find_blocks()

    def digest(self) -> str:
        """What tells this run from others."""
        return digest_of(
            self._original.SerializeToString(),
            self.compressed.SerializeToString(),
            json.dumps(asdict(self._training), sort_keys=True).encode(),
            *self._samples.arrays.values(),
            *([] if self._samples.labels is None else [self._samples.labels]),
        )

    def state(self) -> Mapping[str, Tensor]:
        """The parameters."""
        return self._student.trained()

    def values(self) -> dict[str, Array]:
        """The trained constants."""
        return self._student.values()

    def judge(self, proto: onnx.ModelProto) -> float:
        """What is to be small, of a model on ONNX Runtime and the held-out samples."""
        sessions = [open_session(model.SerializeToString()) for model in (self._original, proto)]
        names = self._teacher.outputs

        def runs() -> Iterator[_Outputs]:
            for feeds, labels in self._samples.batches(self._samples.held):
                original, changed = (run_session(session, feeds, names) for session in sessions)
                yield original, changed, labels

        return self._objective(runs())

    def plan(self, total: int) -> None:
        """Takes the number of steps over which the learning rate falls."""
        self._total = total

    def cut(self, times: int) -> None:
        """Takes how often the learning rate is cut."""
        self._rate = self._training.rate * CUT**times

    def step(self, number: int) -> None:
        """One step of the optimizer."""
        training, total = self._training, self._total
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate * cosine(number, total, training.warmup * total)
        self.optimizer.zero_grad()
        self._loss(*self._feeder.batch(number)).backward()
        self.optimizer.step()

    def _loss(self, feeds: Mapping[str, Tensor], labels: Tensor | None) -> Tensor:
        """What a step makes smaller."""
        with torch.no_grad():
            wanted = self._teacher(feeds, self._blocks)
        got, share = self._student(feeds, self._blocks), self._training.blocks
        loss = self._output_loss(wanted, got, labels)
        return (1 - share) * loss + share * block_error(wanted, got, self._blocks) if self._blocks else loss

    def _output_loss(self, wanted: Mapping[str, Tensor], got: Mapping[str, Tensor], labels: Tensor | None) -> Tensor:
        """The part of the loss that is of the outputs."""
        if not self._classifies:
            return relative_error({name: wanted[name] for name in self._teacher.outputs}, got)
        training, first = self._training, self._teacher.outputs[0]
        loss = divergence(wanted[first], got[first], training.temperature, self._probabilities)
        if labels is None:
            return loss
        return (1 - training.labels) * loss + training.labels * task_loss(got[first], labels, self._probabilities)

    def measured(self) -> float:
        """What is to be small, of the student in torch; infinite where an output is not finite."""
        found: list[_Outputs] = []
        with torch.no_grad():
            for arrays, labels in self._samples.batches(self._samples.held):
                feeds = self._feeder.tensors(arrays)
                wanted, got = (
                    [values.cpu().numpy() for values in graph(feeds).values()]
                    for graph in (self._teacher, self._student)
                )
                if not all(np.isfinite(values).all() for values in got):
                    return math.inf
                found.append((wanted, got, labels))
        return self._objective(found)

    def _objective(self, runs: Iterable[_Outputs]) -> float:
        """The distortion, mixed with the cross-entropy of labels in the asked share."""
        share, missed, count = self._training.labels, 0.0, 0

        def pairs() -> Iterator[tuple[list[Array], list[Array]]]:
            nonlocal missed, count
            for original, changed, labels in runs:
                if labels is not None:
                    outputs = torch.from_numpy(changed[0]).float()
                    missed += len(labels) * float(task_loss(outputs, torch.from_numpy(labels), self._probabilities))
                    count += len(labels)
                yield original, changed

        found = distortion(pairs(), self._classifies)
        return (1 - share) * found + share * missed / count if count else found

    def _require_classes(self) -> None:
        """Refuses labels that are no classes of the original."""
        labels = self._samples.labels
        if labels is None:
            return
        if not self._classifies:
            raise UsageError("expected a classifier to learn labels, but the first output is no scores of classes")
        require_classes(labels, self._scores().shape[1])

    def _scores(self) -> Tensor:
        """The original's first output on the first held-out samples."""
        return self._seen(self._teacher)[self._teacher.outputs[0]]

    def _seen(self, graph: TorchGraph, also: Sequence[str] = ()) -> dict[str, Tensor]:
        """The outputs of a network, and other tensors, on the first held-out samples."""
        arrays, _ = next(self._samples.batches(self._samples.held))
        with torch.no_grad():
            found: dict[str, Tensor] = graph(self._feeder.tensors(arrays), also)
        return found

    def _find_blocks(self) -> tuple[Sequence[str], tuple[str, ...]]:
        """The outputs of blocks that both networks have, and what is to be said of the others."""

        def shapes(graph: TorchGraph) -> Shapes:
            return lambda names: {name: tuple(found.shape) for name, found in self._seen(graph, names).items()}

        return find_blocks(
            self._original, self.compressed, self._training.block_names, shapes(self._teacher), shapes(self._student)
        )
