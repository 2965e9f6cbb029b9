"""Surgery: the options of a plan in the place of the layers, and what the result must compute.

Every layer that a plan changes, or that was refitted, is cut in one copy of the model. In another one the original
graph keeps its nodes and gets the weights and biases that the options stand for: both must compute the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lissom.canonical import Canonical
from lissom.graph.layers import Layer
from lissom.graph.model import Model
from lissom.kinds import KINDS
from lissom.options import FloatArray, Option
from lissom.parallel import one_blas_thread
from lissom.refitting.fit import Dense, Fit
from lissom.rewrite import Rewrite, in_copy, replace_bias, replace_weight
from lissom.sparse.blocks import Blocks
from lissom.sparse.propose import KIND as SPARSE
from lissom.sparse.storage import Storage, storage
from lissom.version import __version__


@dataclass(frozen=True)
class Cut:
    """The model after surgery.

    Attributes:
        edited: with the options in the place of the layers.
        expected: the original graph with the weights and biases that the options stand for.
        numbers: those weights and biases, by layer.
    """

    edited: Model
    expected: Model
    numbers: Mapping[str, Dense]


def cut(
    canonical: Canonical,
    options: Mapping[str, Option],
    moments: Mapping[str, FloatArray],
    means: Mapping[str, FloatArray],
    fits: Mapping[str, Fit],
) -> Cut:
    """Surgery on copies of a model.

    Args:
        canonical: the model.
        options: what was chosen for its layers, by name.
        moments: second moment[columns, columns] of the layers' inputs, by layer.
        means: mean[columns] of the input of each layer whose bias takes up the mean error.
        fits: numbers that layers were given in the place of those of their option.
    """
    edited, expected = canonical.model.copy(), canonical.model.copy()
    numbers: dict[str, Dense] = {}
    for layer in canonical.layers:
        option, found = options.get(layer.name), fits.get(layer.name)
        if option is None or (option.kind == "dense" and found is None):
            continue
        target, moment, mean = in_copy(edited, layer), moments.get(layer.name), means.get(layer.name)
        if found is not None:
            target, moment, mean = replace(target, weight=found.target.weight), found.moment, found.mean
            replace_weight(target, found.target.weight)
            if found.target.bias is not None:
                replace_bias(target, found.target.bias)
        if option.kind == "dense" or (found is not None and KINDS[option.kind].keeps_zeros):
            rewrite = Rewrite([target.node], target.weight, None if found is None else found.target.bias)
        else:
            with one_blas_thread():
                rewrite = KINDS[option.kind].apply(edited, target, option.parameters, moment, mean)
        done: dict[str, Any] = {"kind": option.kind, "from": layer.name, "parameters": dict(option.parameters)}
        if found is not None:
            done["refit"] = True
        for node in rewrite.nodes:
            edited.set_provenance(node, {**done, "lissom": __version__})
        dense = in_copy(expected, layer)
        replace_weight(dense, rewrite.weight)
        if rewrite.bias is not None:
            replace_bias(dense, rewrite.bias)
        numbers[layer.name] = Dense(rewrite.weight, rewrite.bias)
    return Cut(edited, expected, numbers)


def storage_of(
    layers: Sequence[Layer], options: Mapping[str, Option], weights: Mapping[str, FloatArray]
) -> dict[str, Storage]:
    """What the block-sparse layers among `options` take to store, by name.

    Args:
        layers: the layers of the model.
        options: what was chosen for them, by name.
        weights: what is left of their weights, weight[out, in, *kernel].
    """
    found = {}
    for layer in layers:
        option = options.get(layer.name)
        if option is not None and option.kind == SPARSE:
            weight = weights[layer.name]
            folded = weight.reshape(len(weight), -1)
            found[layer.name] = storage(folded, Blocks.named(layer.geometry, option.parameters).of_part(folded))
    return found
