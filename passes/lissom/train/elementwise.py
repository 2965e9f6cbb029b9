"""Operators that work element by element, in torch."""

from __future__ import annotations

from functools import reduce

import torch
from torch.nn import functional

from lissom.train.node import Function, Maker, Node, Tensor, plain


def divide(a: Tensor, b: Tensor) -> Tensor:
    """Div: integers are cut towards zero."""
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def power(base: Tensor, exponent: Tensor) -> Tensor:
    """Pow: the result is of the type of the base."""
    return torch.pow(base, exponent).to(base.dtype)


def leaky_relu(node: Node) -> Function:
    """LeakyRelu."""
    alpha = node.get("alpha", 0.01)
    return lambda x: functional.leaky_relu(x, alpha)


def clip(x: Tensor, least: Tensor | None = None, most: Tensor | None = None) -> Tensor:
    """Clip: either limit may be left out."""
    return x if least is None and most is None else torch.clamp(x, least, most)


def hard_sigmoid(node: Node) -> Function:
    """HardSigmoid."""
    alpha, beta = node.get("alpha", 0.2), node.get("beta", 0.5)
    return lambda x: (alpha * x + beta).clamp(0, 1)


def elu(node: Node) -> Function:
    """Elu."""
    alpha = node.get("alpha", 1.0)
    return lambda x: functional.elu(x, alpha)


def gelu(node: Node) -> Function:
    """Gelu, exact or by the hyperbolic tangent."""
    approximate = node.require("approximate", "none", ("none", "tanh"))
    return lambda x: functional.gelu(x, approximate=approximate)


def thresholded_relu(node: Node) -> Function:
    """ThresholdedRelu: what does not exceed the threshold is zero."""
    alpha = node.get("alpha", 1.0)
    return lambda x: torch.where(x > alpha, x, torch.zeros_like(x))


def shrink(node: Node) -> Function:
    """Shrink: values outside [-lambd, lambd] move inwards by the bias, the others are zero."""
    limit, bias = node.get("lambd", 0.5), node.get("bias", 0.0)

    def run(x: Tensor) -> Tensor:
        return torch.where(x < -limit, x + bias, torch.where(x > limit, x - bias, torch.zeros_like(x)))

    return run


def cast(node: Node) -> Function:
    """Cast."""
    wanted = node.type_of(node.attributes["to"])
    return lambda x: x.to(wanted)


def dropout(node: Node) -> Function:
    """Dropout of an inference graph: nothing is dropped."""

    def run(x: Tensor, _: Tensor | None = None, training: Tensor | None = None) -> tuple[Tensor, ...]:
        if training is not None and bool(training):
            raise node.refuse("training_mode to be false", "true")
        return x, torch.ones_like(x, dtype=torch.bool)

    return run


def folded(function: Function) -> Maker:
    """An operator of any number of inputs, taken two by two."""
    return plain(lambda *inputs: reduce(function, inputs))


ELEMENTWISE: dict[str, Maker] = {
    "Abs": plain(torch.abs),
    "Add": plain(torch.add),
    "And": plain(torch.logical_and),
    "Cast": cast,
    "Ceil": plain(torch.ceil),
    "Clip": plain(clip),
    "Div": plain(divide),
    "Dropout": dropout,
    "Elu": elu,
    "Equal": plain(torch.eq),
    "Erf": plain(torch.erf),
    "Exp": plain(torch.exp),
    "Floor": plain(torch.floor),
    "Gelu": gelu,
    "Greater": plain(torch.gt),
    "GreaterOrEqual": plain(torch.ge),
    "HardSigmoid": hard_sigmoid,
    "HardSwish": plain(lambda x: x * (x / 6 + 0.5).clamp(0, 1)),
    "Identity": plain(lambda x: x),
    "IsNaN": plain(torch.isnan),
    "LeakyRelu": leaky_relu,
    "Less": plain(torch.lt),
    "LessOrEqual": plain(torch.le),
    "Log": plain(torch.log),
    "Max": folded(torch.maximum),
    "Min": folded(torch.minimum),
    "Mish": plain(functional.mish),
    "Mul": plain(torch.mul),
    "Neg": plain(torch.neg),
    "Not": plain(torch.logical_not),
    "Or": plain(torch.logical_or),
    "PRelu": plain(lambda x, slope: torch.where(x < 0, x * slope, x)),
    "Pow": plain(power),
    "Reciprocal": plain(torch.reciprocal),
    "Relu": plain(torch.relu),
    "Round": plain(torch.round),
    "Shrink": shrink,
    "Sigmoid": plain(torch.sigmoid),
    "Softplus": plain(lambda x: torch.logaddexp(x, torch.zeros_like(x))),
    "Sqrt": plain(torch.sqrt),
    "Sub": plain(torch.sub),
    "Sum": folded(torch.add),
    "Tanh": plain(torch.tanh),
    "ThresholdedRelu": thresholded_relu,
    "Where": plain(torch.where),
}
