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
6. The learning rate rises along a line over the first steps and falls along a cosine to zero. Order and augmentation of
   an epoch follow from seed, epoch and position alone, so that a run that goes on from a checkpoint takes the steps of
   an unbroken one: bit by bit, on one machine with as many threads.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
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
from lissom.train.augment import augment
from lissom.train.checkpoint import Position, digest_of, load, save
from lissom.train.losses import divergence, relative_error, task_loss
from lissom.train.node import Tensor
from lissom.train.reading import inlined
from lissom.train.samples import read_samples
from lissom.train.signals import deferred_signals
from lissom.train.torch_graph import TorchGraph
from lissom.train.writing import with_values

Array = npt.NDArray[Any]

_Outputs: TypeAlias = tuple[list[Array], list[Array], Array | None]
"""Of the original and of another network, with the labels."""

PROBABILITY_SUM = 1e-3
"""Scores that are not negative and whose sum is 1 within this are probabilities."""

CHECKPOINT_SECONDS = 30.0
"""A checkpoint is written after an epoch, when the run is told to stop, and in between at least so often."""


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    Attributes:
        epochs: passes over the samples, at most.
        batch: samples of a step, unless the network fixes it.
        rate: highest learning rate of AdamW.
        decay: weight decay of AdamW.
        warmup: share of the steps in which the learning rate rises.
        temperature: of a classifier's probabilities.
        labels: share of the loss that is the cross-entropy of labels, 0 to 1; without it labels are not read.
        patience: epochs without improvement after which training stops.
        shift: images are shifted by up to so many pixels.
        flip: images are flipped from left to right.
        seed: of order and augmentation.

    Raises:
        UsageError: a number is out of its range.
    """

    epochs: int = 20
    batch: int = 64
    rate: float = 1e-3
    decay: float = 1e-4
    warmup: float = 0.05
    temperature: float = 2.0
    labels: float = 0.0
    patience: int = 5
    shift: int = 0
    flip: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for name, least in (("epochs", 1), ("batch", 1), ("patience", 1), ("shift", 0), ("seed", 0), ("decay", 0)):
            if not getattr(self, name) >= least:
                raise UsageError(f"expected {name} to be {least} or more, but got {getattr(self, name)}")
        for name in ("rate", "temperature"):
            if not getattr(self, name) > 0:
                raise UsageError(f"expected {name} to be above 0, but got {getattr(self, name)}")
        if not 0 <= self.labels <= 1:
            raise UsageError(f"expected labels to be a share of the loss, 0 to 1, but got {self.labels}")
        if not 0 <= self.warmup < 1:
            raise UsageError(f"expected warmup to be a share of the steps below 1, but got {self.warmup}")


@dataclass(frozen=True)
class Distilled:
    """What came of it.

    Attributes:
        proto: the trained model, or the one that was given where it did not get better.
        before, after: held-out distortion (with labels: mixed with their cross-entropy) on ONNX Runtime of the model as
            it was given and as it is returned.
        epochs: epochs that were trained.
        best_epoch: the epoch whose values are returned; 0: those that were given.
    """

    proto: onnx.ModelProto
    before: float
    after: float
    epochs: int
    best_epoch: int


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
    run = _Run(original, inlined(compressed), data, training or Training(), device)
    before = run.judge(run.compressed)
    position, values = run.train(checkpoint, resume, progress)
    proto, epochs = with_values(run.compressed, values), position.step // run.steps
    after = run.judge(proto)
    if not after < before:
        return Distilled(run.compressed, before, before, epochs, 0)
    return Distilled(proto, before, after, epochs, position.best_epoch)


class _Run:
    """Two networks, samples and an optimizer.

    Attributes:
        compressed: the network that learns, without functions.
        steps: of an epoch.
    """

    def __init__(
        self, original: onnx.ModelProto, compressed: onnx.ModelProto, data: Dataset, training: Training, device: str
    ) -> None:
        self.compressed = compressed
        self._original = inlined(original)
        self._training = training
        self._device = device
        self._teacher = TorchGraph(self._original, trained=lambda _: False, dtype=torch.float32).to(device)
        self._student = TorchGraph(compressed, dtype=torch.float32).to(device)
        self._student.keep_zeros()
        for what in ("inputs", "outputs"):
            wanted, got = getattr(self._teacher, what), getattr(self._student, what)
            if wanted != got:
                raise UsageError(f"expected the {what} {wanted} of the original, but the compressed model has {got}")
        if not self._student.trained():
            raise UsageError("expected weights to train, but the compressed model has none")
        specs = [spec for spec in input_specs(compressed.graph.input) if spec.name in self._student.inputs]
        self._samples = read_samples(data, specs, training.batch, training.labels > 0)
        if (training.shift or training.flip) and not any(values.ndim == 4 for values in self._samples.arrays.values()):
            raise UsageError("expected images to shift or flip, but no input has four axes")
        self.steps = -(-len(self._samples.fitted) // self._samples.batch)
        self._optimizer = torch.optim.AdamW(self._student.parameters(), lr=training.rate, weight_decay=training.decay)
        self._classifies = classifies(self._original)
        self._probabilities = self._classifies and self._gives_probabilities()
        self._require_classes()
        self._order: tuple[int, Array] | None = None

    def train(self, path: Path | None, resume: bool, progress: Progress) -> tuple[Position, dict[str, Array]]:
        """Trains to the end, or until a signal comes. Returns where the run is, and the best values."""
        training, parameters = self._training, self._student.trained()
        digest = digest_of(
            self._original.SerializeToString(),
            self.compressed.SerializeToString(),
            json.dumps(asdict(training), sort_keys=True).encode(),
            *self._samples.arrays.values(),
            *([] if self._samples.labels is None else [self._samples.labels]),
        )
        if resume and path is not None and path.exists():
            position, best = load(path, digest, parameters, self._optimizer)
        else:
            position, best = Position(0, self._held_out(), 0), self._student.values()
        written = time.monotonic()
        with deferred_signals() as stopping:
            for step in progress(range(position.step, training.epochs * self.steps), "distilling"):
                epoch, rest = divmod(step, self.steps)
                if epoch - position.best_epoch >= training.patience and rest == 0:
                    break
                self._step(step)
                position = replace(position, step=step + 1)
                ended = rest == self.steps - 1
                if ended and (found := self._held_out()) < position.best:
                    position, best = Position(step + 1, found, epoch + 1), self._student.values()
                late = time.monotonic() - written > CHECKPOINT_SECONDS
                if path is not None and (ended or late or stopping()):
                    save(path, digest, position, parameters, best, self._optimizer)
                    written = time.monotonic()
                if stopping():
                    break
        return position, best

    def judge(self, proto: onnx.ModelProto) -> float:
        """What is to be small, of a model on ONNX Runtime and the held-out samples."""
        sessions = [open_session(model.SerializeToString()) for model in (self._original, proto)]
        names = self._teacher.outputs

        def runs() -> Iterator[_Outputs]:
            for feeds, labels in self._samples.batches(self._samples.held):
                original, changed = (run_session(session, feeds, names) for session in sessions)
                yield original, changed, labels

        return self._objective(runs())

    def _step(self, step: int) -> None:
        """One step of the optimizer."""
        training, size = self._training, self._samples.batch
        epoch, number = divmod(step, self.steps)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, np.random.default_rng((training.seed, epoch)).permutation(self._samples.fitted)
        arrays, labels = self._samples.take(self._order[1][number * size : (number + 1) * size])
        rng = np.random.default_rng((training.seed, epoch, number + 1))
        feeds = {
            name: self._tensor(augment(values, training.shift, training.flip, rng) if values.ndim == 4 else values)
            for name, values in arrays.items()
        }
        for group in self._optimizer.param_groups:
            group["lr"] = training.rate * _share(step, training.epochs * self.steps, training.warmup)
        self._optimizer.zero_grad()
        self._loss(feeds, None if labels is None else self._tensor(labels)).backward()
        self._optimizer.step()

    def _loss(self, feeds: Mapping[str, Tensor], labels: Tensor | None) -> Tensor:
        """What a step makes smaller."""
        with torch.no_grad():
            wanted = self._teacher(feeds)
        got = self._student(feeds)
        if not self._classifies:
            return relative_error(wanted, got)
        training, first = self._training, self._teacher.outputs[0]
        loss = divergence(wanted[first], got[first], training.temperature, self._probabilities)
        if labels is None:
            return loss
        return (1 - training.labels) * loss + training.labels * task_loss(got[first], labels, self._probabilities)

    def _held_out(self) -> float:
        """What is to be small, of the student in torch; infinite where an output is not finite."""
        found: list[_Outputs] = []
        with torch.no_grad():
            for arrays, labels in self._samples.batches(self._samples.held):
                feeds = {name: self._tensor(values) for name, values in arrays.items()}
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

    def _gives_probabilities(self) -> bool:
        """Whether the original's first output is probabilities on the first held-out samples."""
        scores = self._scores()
        return bool((scores >= 0).all() and ((scores.sum(dim=1) - 1).abs() < PROBABILITY_SUM).all())

    def _require_classes(self) -> None:
        """Refuses labels that are no classes of the original."""
        labels = self._samples.labels
        if labels is None:
            return
        if not self._classifies:
            raise UsageError("expected a classifier to learn labels, but the first output is no scores of classes")
        classes = self._scores().shape[1]
        if labels.min() < 0 or labels.max() >= classes:
            raise UsageError(f"expected labels from 0 to {classes - 1}, but got {labels.min()} to {labels.max()}")

    def _scores(self) -> Tensor:
        """The original's first output on the first held-out samples."""
        arrays, _ = next(self._samples.batches(self._samples.held))
        with torch.no_grad():
            outputs = self._teacher({name: self._tensor(values) for name, values in arrays.items()})
        return outputs[self._teacher.outputs[0]]

    def _tensor(self, values: Array) -> Tensor:
        """The array for torch; of images the channels lie together, as convolutions like them."""
        layout = torch.channels_last if values.ndim == 4 else torch.contiguous_format
        return torch.from_numpy(values).to(self._device, memory_format=layout)


def _share(step: int, steps: int, warmup: float) -> float:
    """The learning rate of a step as a share of the highest one."""
    rising = warmup * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))
