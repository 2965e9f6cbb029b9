"""Surgery: masks behind activations.

A mask makes an activation x of magnitude below theta zero and keeps the rest, ties and (but for the first two forms)
NaN included. Where theta is known it is one of

    ThresholdedRelu(alpha)     x > alpha ? x : 0 in the place of a Relu
    Shrink(lambd, bias = 0)    |x| > lambd ? x : 0 behind any other operator
    Abs, Less, Where           where channels have thresholds of their own, or NaN have to pass

of standard operators; the first two make NaN zero, by their specification. They compare strictly, so they get the float
below theta. A `Dynamic` mask is the operator WinnerMask of the runtime, which finds theta for each sample of the batch
when the model runs. All that read the activation read the masked tensor, which takes its name; what the mask reads is
then called `whole_name`. Declined, with a `Refusal`, is a mask

1. whose thresholds are all 0: it keeps everything (the rate is above the share that is not zero);
2. of winner rate 1;
3. that is dynamic, of a tensor without a batch axis, or of a sample that is smaller than 1 / rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lissom_runtime.contract import DOMAIN, SAMPLE_SHARE, WINNER_MASK, require_sample, sample_stride, winner_count
from lissom_runtime.errors import UsageError

from lissom.activations.sites import KIND, ActivationSite
from lissom.activations.thresholds import Float32Array
from lissom.graph.model import Model, Node, Tensor, constant, is_standard, make_node, variable
from lissom.lowering.bodies import mask_function
from lissom.options import Refusal
from lissom.version import __version__


@dataclass(frozen=True)
class Static:
    """Thresholds that are known beforehand.

    Attributes:
        thresholds: theta[1], or theta[channels].
        keeps_nan: NaN have to pass.
    """

    thresholds: Float32Array
    keeps_nan: bool = False


@dataclass(frozen=True)
class Dynamic:
    """A threshold for each sample of the batch.

    Attributes:
        rate: the winner rate, in (0, 1].
        alpha: share of a sample's activations that theta is found from.
    """

    rate: float
    alpha: float = SAMPLE_SHARE

    def __post_init__(self) -> None:
        """Raises a UsageError where `rate` or `alpha` is not in (0, 1]."""
        winner_count(self.rate, 1)
        sample_stride(self.alpha)


Mask = Static | Dynamic


def whole_name(tensor: str) -> str:
    """The name of an activation before its mask, where that is an operator of its own."""
    return f"{tensor}/lissom_whole"


def insert(
    model: Model,
    sites: Sequence[ActivationSite],
    masks: Mapping[str, Mask],
    shapes: Mapping[str, tuple[int, ...]],
) -> list[Refusal]:
    """Puts masks behind activations, in place.

    Args:
        model: the model that the sites were found in, or a copy of it.
        sites: its sites.
        masks: what is masked, by name of the tensor; other sites stay whole.
        shapes: shape of each masked tensor at the observed input.

    Returns:
        What was declined; such activations stay whole.

    Raises:
        UsageError: a mask is of no site, a threshold is negative or NaN, or their number is not that of the channels.
    """
    known = {site.tensor: site for site in sites}
    for name in masks:
        if name not in known:
            raise UsageError(f"expected the name of an activation that can be pruned, but got {name!r}")
    refusals = []
    tensors = model.graph.tensors()
    for name, mask in masks.items():
        if (reason := _obstacle(name, known[name], mask, shapes[name])) is not None:
            refusals.append(Refusal(name, KIND, reason))
        elif isinstance(mask, Dynamic):
            _insert_dynamic(model, tensors[name], mask)
        else:
            _insert_static(model, tensors[name], mask, known[name].axis, len(shapes[name]))
    return refusals


def _obstacle(name: str, site: ActivationSite, mask: Mask, shape: tuple[int, ...]) -> str | None:
    """Why a mask is not inserted, or None."""
    if isinstance(mask, Static):
        wrong = mask.thresholds[~(mask.thresholds >= 0)]
        if len(wrong):
            raise UsageError(f"expected thresholds of at least 0 for {name!r}, but got {wrong[0]}")
        given, channels = len(mask.thresholds), shape[site.axis]
        if given not in (1, channels):
            raise UsageError(f"expected 1 threshold or {channels} (one a channel) for {name!r}, but got {given}")
        return None if mask.thresholds.any() else "a threshold of 0 keeps everything"
    if mask.rate == 1:
        return "a winner rate of 1 keeps everything"
    if len(shape) < 2:
        return f"the activation has {len(shape)} axes; expected a batch and more"
    try:
        require_sample(mask.rate, mask.alpha, int(np.prod(shape[1:])))
    except UsageError as error:
        return str(error)
    return None


def _insert_static(model: Model, tensor: Tensor, mask: Static, axis: int, rank: int) -> None:
    producer = tensor.inputs[0]
    theta = mask.thresholds
    if mask.keeps_nan or len(theta) > 1:
        _insert_where(model, tensor, theta, axis, rank)
        return
    below = float(np.nextafter(theta[0], np.float32(0)))
    if is_standard(producer, "Relu"):
        node = make_node("ThresholdedRelu", f"{tensor.name}/lissom_mask_0", producer.inputs, [], {"alpha": below})
        position = _position(model, producer)
        producer.inputs.clear()
        producer.outputs.clear()
        node.outputs = [tensor]
        model.graph.nodes[position] = node
        _note(model, [node], producer.name, {"threshold": float(theta[0])})
        return
    node = make_node("Shrink", f"{tensor.name}/lissom_mask_0", [tensor], [], {"lambd": below, "bias": 0.0})
    _put_behind(model, tensor, [node], {"threshold": float(theta[0])})


def _insert_where(model: Model, tensor: Tensor, theta: Float32Array, axis: int, rank: int) -> None:
    name = tensor.name
    magnitude, loses = variable(f"{name}/lissom_magnitude"), variable(f"{name}/lissom_loses")
    magnitude.dtype, loses.dtype = np.float32, np.bool_
    shaped = theta.reshape(-1, *(1,) * (rank - 2)) if axis == 1 else theta
    threshold = constant(f"{name}/lissom_threshold", shaped)
    nothing = constant(f"{name}/lissom_zero", np.array(0, np.float32))
    nodes = [
        make_node("Abs", f"{name}/lissom_mask_0", [tensor], [magnitude]),
        make_node("Less", f"{name}/lissom_mask_1", [magnitude, threshold], [loses]),
        make_node("Where", f"{name}/lissom_mask_2", [loses, nothing, tensor], []),
    ]
    _put_behind(model, tensor, nodes, {"thresholds": len(theta)})


def _insert_dynamic(model: Model, tensor: Tensor, mask: Dynamic) -> None:
    name = f"{tensor.name}/lissom_mask_0"
    values = {"rate": np.array(mask.rate, np.float64), "stride": np.array([sample_stride(mask.alpha)], np.int64)}
    inputs = [tensor, *(constant(f"{name}_{formal}", values[formal]) for formal in WINNER_MASK.inputs[1:])]
    model.add_function(mask_function(model.opset))
    node = make_node(WINNER_MASK.name, name, inputs, [], domain=DOMAIN)
    _put_behind(model, tensor, [node], {"rate": mask.rate, "alpha": mask.alpha})


def _put_behind(model: Model, tensor: Tensor, nodes: Sequence[Node], parameters: Mapping[str, Any]) -> None:
    """Puts nodes behind a tensor; what the last one gives has its name, and is read by all that read the tensor."""
    producer = tensor.inputs[0]
    masked = variable(tensor.name, like=tensor)
    masked.shape = tensor.shape
    tensor.name = whole_name(tensor.name)
    new = {id(node) for node in nodes}
    for reader in {id(node): node for node in tensor.outputs if id(node) not in new}.values():
        for index, read in enumerate(reader.inputs):
            if read is tensor:
                reader.inputs[index] = masked
    nodes[-1].outputs = [masked]
    position = _position(model, producer) + 1
    model.graph.nodes[position:position] = nodes
    _note(model, nodes, producer.name, parameters)


def _note(model: Model, nodes: Sequence[Node], source: str, parameters: Mapping[str, Any]) -> None:
    for node in nodes:
        provenance = {"kind": KIND, "from": source, "parameters": dict(parameters), "lissom": __version__}
        model.set_provenance(node, provenance)


def _position(model: Model, node: Node) -> int:
    return next(i for i, known in enumerate(model.graph.nodes) if known is node)
