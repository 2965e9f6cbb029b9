"""Surgery of node pruning: refit of what reads the channels, then their removal.

With columns R gone and S left, a reader's weight becomes the ridge least-squares fit of its old output,

    W_S' = W_S + W_R C_RS (C_SS + d I)⁻¹,      b' = b + W m - W_S' m_S,

C and m of its input as in `scores`. `refit` writes it with W_R = 0, into a model whose shapes are as they were: that
model computes what the cut one does, and is what the cut one is verified against. Without moments survivors stay.

Declined, with a `Refusal`, is a choice of indices

1. that is empty: a layer whose channels all go;
2. whose readers' moments are not there, while those of others are, or whose readers share their weights: these are
   cut without a refit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from lissom_runtime.errors import UsageError

from lissom.graph.channels.coupling import Coupling
from lissom.graph.model import Model, Node
from lissom.nodes.groups import KIND, ChannelGroup
from lissom.nodes.readers import Reader
from lissom.nodes.scores import RIDGE
from lissom.observe import Moment
from lissom.options import FloatArray, Refusal
from lissom.parallel import one_blas_thread
from lissom.refitting.equations import least_squares

IntArray = npt.NDArray[np.int64]
Kept = Mapping[str, IntArray]
"""The indices of each group, by name, that stay; groups that are not named stay whole."""


def cut(
    model: Model,
    coupling: Coupling,
    groups: Sequence[ChannelGroup],
    kept: Kept,
    readers: Mapping[str, Reader] | None = None,
    moments: Mapping[str, Moment] | None = None,
) -> list[Refusal]:
    """Removes all indices but the kept ones from a model, in place.

    Args:
        model: the model that was analysed, or a copy of it.
        coupling: which of its channels are one.
        groups: its groups.
        kept: what stays.
        readers: the layers of the groups; with moments, those that read what goes are refitted.
        moments: mean and second moment of their inputs.

    Returns:
        What was declined; such groups stay whole.

    Raises:
        UsageError: an index is out of range or named twice, or a group is not there.
        VerificationError: the graph is not legal afterwards (a defect of the rules).
    """
    gone, refusals = removed(groups, kept)
    if readers is not None and moments is not None:
        refusals += refit(model, groups, gone, readers, moments)
    roots = [group.roots[gone[group.name]] for group in groups if group.name in gone]
    if roots:
        coupling.remove(model, np.concatenate(roots))
    return refusals


def removed(groups: Sequence[ChannelGroup], kept: Kept) -> tuple[dict[str, IntArray], list[Refusal]]:
    """The indices of each group that go, and the groups that were declined.

    Raises:
        UsageError: an index is out of range or named twice, or a group is not there.
    """
    sizes = {group.name: len(group) for group in groups}
    gone: dict[str, IntArray] = {}
    refusals = []
    for name, indices in kept.items():
        if name not in sizes:
            raise UsageError(f"expected the name of a channel group, but got {name!r}")
        distinct = np.unique(indices)
        if len(distinct) != len(indices) or not np.isin(distinct, np.arange(sizes[name])).all():
            raise UsageError(
                f"expected distinct indices of the {sizes[name]} channels of {name!r}, but got {list(indices)[:8]}"
            )
        if not len(distinct):
            refusals.append(
                Refusal(name, KIND, f"all its {sizes[name]} channels would go; expected at least 1 to stay")
            )
        elif len(distinct) < sizes[name]:
            gone[name] = np.setdiff1d(np.arange(sizes[name]), distinct)
    return gone, refusals


def refit(
    model: Model,
    groups: Sequence[ChannelGroup],
    gone: Mapping[str, IntArray],
    readers: Mapping[str, Reader],
    moments: Mapping[str, Moment],
) -> list[Refusal]:
    """Lets every layer do without some channels as well as it can; its weights for them become 0.

    Args:
        model: the model that was analysed, or a copy of it; edited in place.
        groups: its groups.
        gone: the indices of each group, by name, that the layers do without.
        readers: the layers of the groups.
        moments: mean and second moment of their inputs.

    Returns:
        The layers that could not be refitted, whose weights are as they were but for the zeros.
    """
    nodes = {node.name: node for node in model.graph.nodes}
    positions: dict[str, list[IntArray]] = defaultdict(list)
    for group in groups:
        for layer, where in group.columns.items():
            if group.name in gone:
                positions[layer].append(where[gone[group.name]].ravel())
    refusals = []
    for layer, found in positions.items():
        reason = _not_refitted(layer, readers, moments)
        if reason is not None:
            refusals.append(Refusal(layer, KIND, f"its weights are not refitted: {reason}"))
            if layer in readers:
                _drop(nodes[layer], readers[layer], np.concatenate(found))
            continue
        with one_blas_thread():
            _refit(nodes[layer], readers[layer], np.concatenate(found), moments)
    return refusals


def _not_refitted(layer: str, readers: Mapping[str, Reader], moments: Mapping[str, Moment]) -> str | None:
    """Why a layer keeps what is left of its weights as it was, or None."""
    if layer not in readers or layer not in moments:
        return "no moment of its input is known"
    shared = readers[layer].layer.readers
    return f"{shared} layers share them" if shared > 1 else None


def _drop(node: Node, reader: Reader, positions: IntArray) -> None:
    """Zeros in the place of the weights for some input channels, and nothing else."""
    weights = reader.parts()
    for part, weight in enumerate(weights):
        weight[:, reader.columns_of(positions[None], part).ravel()] = 0
    reader.write(node, np.concatenate(weights), None)


def _refit(node: Node, reader: Reader, positions: IntArray, moments: Mapping[str, Moment]) -> None:
    moment, mean = reader.moment(moments)
    weights = []
    for part, weight in enumerate(reader.parts()):
        columns = reader.columns_of(positions[None], part).ravel()
        weights.append(survivors(weight, columns, reader.of_part(part, moment)))
    bias = None
    if mean is not None:
        lost = [
            (old - new) @ reader.of_part(part, mean)
            for part, (old, new) in enumerate(zip(reader.parts(), weights, strict=True))
        ]
        bias = reader.bias() + np.concatenate(lost)
    reader.write(node, np.concatenate(weights), bias)


def survivors(weight: npt.NDArray[Any], gone: IntArray, moment: FloatArray) -> FloatArray:
    """The weight[out, columns] that is 0 in the columns `gone` and else gives the old output best.

    Args:
        weight: W[out, columns].
        gone: R.
        moment: C[columns, columns].
    """
    left = np.setdiff1d(np.arange(weight.shape[1]), gone)
    found: FloatArray = np.zeros(weight.shape)
    if len(left):
        wanted = weight @ moment[:, left]
        found[:, left] = least_squares(moment[np.ix_(left, left)], wanted, weight[:, left], RIDGE)
    return found
