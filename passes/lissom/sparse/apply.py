"""Surgery: gives a layer a weight with zeros in it.

The layer stays one node; its bias takes up the mean error, as that of a low-rank pair does. Packing comes last, in
`lower`, when all layers have their final weights.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt
from lissom_runtime.packing import pack

from lissom.graph.geometry import Geometry
from lissom.graph.layers import Layer
from lissom.graph.model import Model
from lissom.lowering.emit import Convolution, emit
from lissom.observe import resolve_pads
from lissom.options import FloatArray, Parameters
from lissom.rewrite import Rewrite, own_bias, put_in_place, replace_weight, take_up_mean
from lissom.sparse.blocks import Blocks, is_packed
from lissom.sparse.choice import Choice
from lissom.sparse.importance import Importance

Float32Array = npt.NDArray[np.float32]


def apply(
    _model: Model, layer: Layer, parameters: Parameters, moment: FloatArray | None, mean: FloatArray | None = None
) -> Rewrite:
    """Gives `layer` the weight that its option leaves.

    Args:
        _model: the model that holds `layer.node`.
        layer: the layer.
        parameters: pattern, width, importance, damping and blocks.
        moment: second moment[columns, columns] of the layer's input, about `mean` where that is given; for `obs`.
        mean: mean[columns] of the layer's input: the bias is corrected for it, where that can be.
    """
    weight = approximate(layer, parameters, moment)
    bias = take_up_mean(layer, weight, mean)
    replace_weight(layer, weight)
    return Rewrite([layer.node], weight, bias)


def approximate(layer: Layer, parameters: Parameters, moment: FloatArray | None) -> Float32Array:
    """The weight[f, c, *kernel] that is left of the layer's."""
    blocks = Blocks.named(layer.geometry, parameters)
    importance = cast("Importance", parameters["importance"])
    choice = Choice(layer.folded, blocks, importance, moment, float(parameters["damping"]))
    weight = choice.weight(int(parameters["blocks"]))
    return weight.astype(np.float32).reshape(layer.weight.shape)


def narrowed(parameters: Parameters, wide: Geometry, narrow: Geometry) -> Parameters:
    """The option that keeps the same share of the blocks, at least one, of a layer that has lost channels.

    Args:
        parameters: the option of the wide layer.
        wide: what that computes.
        narrow: what is left of it.
    """
    before, after = Blocks.named(wide, parameters), Blocks.named(narrow, parameters)
    if after.few is not None:
        return {**parameters, "blocks": after.least}
    return {**parameters, "blocks": max(1, int(parameters["blocks"]) * after.count // before.count)}


def emit_random(model: Model, layer: Layer, parameters: Parameters, rng: np.random.Generator) -> None:
    """Puts random blocks of unit gain in the place of a layer, for timing: packed, where the option is."""
    blocks, kept = Blocks.named(layer.geometry, parameters), int(parameters["blocks"])
    mask = blocks.spread(rng.permutation(blocks.count).reshape(blocks.rows, blocks.groups) < kept)
    drawn = rng.standard_normal(mask.shape) * mask / np.sqrt(mask.sum() / len(mask))
    weight = drawn.astype(np.float32).reshape(layer.weight.shape)
    if not is_packed(layer.geometry, str(parameters["pattern"])):
        replace_weight(layer, weight)
        return
    bias = own_bias(layer)
    given = np.zeros(len(weight), np.float32) if bias is None else bias
    node = emit(model, layer.name, layer.source, pack(weight, *blocks.packed), given, _convolution(layer))
    put_in_place(model, layer, [node])


def _convolution(layer: Layer) -> Convolution | None:
    geometry = layer.geometry
    if layer.op != "Conv":
        return None
    begin, end = resolve_pads(geometry, geometry.in_spatial)
    return Convolution(geometry.strides, (*begin, *end), geometry.dilations)
