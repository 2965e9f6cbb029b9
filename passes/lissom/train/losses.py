"""What distillation makes small, for one batch.

    classifier      T² · mean over n of Σ_c p log(p / q), p and q the probabilities softmax(scores / T) of the original
                    and of the trained network in their first output
    anything else   Σ (ŷ − y)² / Σ y² over all floating-point outputs
    blocks          mean over the outputs b of blocks of Σ (ŷ_b − y_b)² / Σ y_b²
    labels          mean over n of −log q_l, l the class that the label says, at T = 1

With T = 1 the first two are the distortion that `price/outputs.py` measures, taken over a batch. A classifier whose
outputs are probabilities already has their logarithms as scores. Source: Hinton, Vinyals and Dean, Distilling the
Knowledge in a Neural Network (2015), section 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from lissom.train.node import Tensor

LEAST = 1e-12
"""Probabilities and energies below this are taken for it."""

PROBABILITY_SUM = 1e-3
"""Scores that are not negative and whose sum is 1 within this are probabilities."""


def are_probabilities(outputs: Tensor) -> bool:
    """Whether outputs[n, classes] are probabilities and no scores."""
    return bool((outputs >= 0).all() and ((outputs.sum(dim=1) - 1).abs() < PROBABILITY_SUM).all())


def divergence(original: Tensor, trained: Tensor, temperature: float, probabilities: bool) -> Tensor:
    """The loss of a classifier.

    Args:
        original: outputs[n, classes] of the original.
        trained: those of the network that learns.
        temperature: T.
        probabilities: the outputs are probabilities and no scores.
    """
    if probabilities:
        original, trained = (values.clamp(min=LEAST).log() for values in (original, trained))
    before, after = (torch.log_softmax(values / temperature, dim=1) for values in (original, trained))
    return temperature**2 * torch.nn.functional.kl_div(after, before, reduction="batchmean", log_target=True)


def relative_error(original: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> Tensor:
    """The loss of any other network, from its outputs by name."""
    names = [name for name, values in original.items() if values.is_floating_point()]
    missed = sum((trained[name] - original[name]).square().sum() for name in names)
    scale = sum(original[name].square().sum() for name in names)
    return missed / torch.as_tensor(scale).clamp(min=LEAST)


def block_error(original: Mapping[str, Tensor], trained: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """The loss of the outputs of blocks: each counts the same, whatever its size and scale.

    Args:
        original: tensors of the original by name.
        trained: those of the network that learns.
        names: which are compared.
    """
    return torch.stack([relative_error({name: original[name]}, trained) for name in names]).mean()


def task_loss(trained: Tensor, labels: Tensor, probabilities: bool, smoothing: float = 0.0) -> Tensor:
    """The cross-entropy of labels.

    Args:
        trained: outputs[n, classes] of the network that learns.
        labels: classes[n].
        probabilities: the outputs are probabilities and no scores.
        smoothing: what of a label's probability is spread evenly over all classes.
    """
    scores = trained.clamp(min=LEAST).log() if probabilities else trained
    return torch.nn.functional.cross_entropy(scores, labels, label_smoothing=smoothing)
