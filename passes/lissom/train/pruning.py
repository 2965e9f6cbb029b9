"""Weights that go in one round: blocks below a threshold, or the least of the whole network.

    simd_blocks        aligned groups of `width` consecutive weights of a row whose √(mean w²) is below a threshold
    global_magnitude   of all weights of layers that are not zero, a share: those of the least |w|

Every layer takes part, the first and the last one too; biases stay. Which weights are a block, and what it matters, is
that of `lissom.sparse`: the last weights of a row that fill no group are never removed.

Source: Yu et al., Scalpel (2017), with the authors' program (util/util.py); Renda, Frankle and Carbin (2020).
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from lissom_runtime.errors import UsageError

from lissom.data import Feeds
from lissom.rewrite import replace_weight
from lissom.sparse.blocks import Blocks
from lissom.sparse.importance import own_importance
from lissom.train.layering import layered
from lissom.train.rounds import Change, Changed


def simd_blocks(threshold: float, width: int, feeds: Feeds) -> Change:
    """Removes the blocks below a threshold.

    Args:
        threshold: of √(mean w²).
        width: consecutive weights of a block: what one instruction of the processor takes.
        feeds: one input of the network.

    Raises:
        UsageError: the threshold is not above 0, or the width less than 1.
    """
    if not 0 < threshold < math.inf or width < 1:
        raise UsageError(f"expected a threshold above 0 and a width of 1 or more, but got {threshold} and {width}")

    def change(proto: onnx.ModelProto) -> Changed:
        found = layered(proto, feeds)
        for layer in found.layers:
            blocks = Blocks.of(layer.geometry, "rows", width)
            kept = blocks.spread(own_importance(layer.folded, blocks, "rms") >= threshold)
            replace_weight(layer, np.where(kept, layer.folded, 0).reshape(layer.weight.shape))
        return _told(found.model.to_proto(), feeds, threshold=threshold)

    return change


def global_magnitude(share: float, feeds: Feeds) -> Change:
    """Removes a share of the weights that are left.

    Args:
        share: of the weights that are not zero.
        feeds: one input of the network.

    Raises:
        UsageError: the share is not above 0 and below 1, or (when it is applied) no weight is left.
    """
    if not 0 < share < 1:
        raise UsageError(f"expected a share above 0 and below 1, but got {share}")

    def change(proto: onnx.ModelProto) -> Changed:
        found = layered(proto, feeds)
        sizes = np.concatenate([np.abs(layer.weight[layer.weight != 0]) for layer in found.layers])
        if not len(sizes):
            raise UsageError("expected weights that are not zero, but the network has none")
        gone = int(share * len(sizes))
        limit = np.partition(sizes, gone)[gone]
        for layer in found.layers:
            replace_weight(layer, np.where(np.abs(layer.weight) < limit, 0, layer.weight))
        return _told(found.model.to_proto(), feeds, limit=float(limit))

    return change


def _told(proto: onnx.ModelProto, feeds: Feeds, **facts: float) -> Changed:
    """A network after its weights went, with the share of them that is zero."""
    return Changed(proto, {**facts, "removed": layered(proto, feeds).zeros})
