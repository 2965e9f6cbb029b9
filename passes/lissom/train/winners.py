"""The second training of Integral Pruning: masks on activations are on, and weights adapt to them.

The network has its pruned weights and its masks (`activations/insert.py`) already; both hold in every step. What is
read behind a mask that keeps a share ρ of a sample's activations drops out at the rate 0.5 √ρ, and nothing is left of
that in the model that is written. The paper trains with Adadelta at a tenth to a hundredth of the learning rate that
the network was trained with.

Source: Integral Pruning on Activations and Weights for Efficient Neural Networks (ICLR 2019 submission), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx
from lissom_runtime.contract import DOMAIN, WINNER_MASK
from lissom_runtime.errors import UsageError

from lissom.train.dropout import Dropout
from lissom.train.writing import stored_tensors

HIGHEST = 0.5
"""Dropout rate behind a mask that keeps everything."""


def dropout_behind(rates: Mapping[str, float], seed: int = 0) -> Dropout:
    """The dropout behind masks.

    Args:
        rates: winner rate ρ by the name of the masked tensor.
        seed: of what drops out.

    Raises:
        UsageError: a winner rate is not in (0, 1].
    """
    for name, rate in rates.items():
        if not 0 < rate <= 1:
            raise UsageError(f"expected winner rates above 0 and at most 1, but {name!r} has {rate}")
    return Dropout({name: HIGHEST * math.sqrt(rate) for name, rate in rates.items()}, seed)


def winner_rates(proto: onnx.ModelProto) -> dict[str, float]:
    """The winner rates of the dynamic masks of a model, by the name of the masked tensor."""
    constants = stored_tensors(proto)
    place = WINNER_MASK.inputs.index("rate")
    return {
        node.output[0]: float(onnx.numpy_helper.to_array(constants[node.input[place]]))
        for node in proto.graph.node
        if (node.domain, node.op_type) == (DOMAIN, WINNER_MASK.name)
    }
