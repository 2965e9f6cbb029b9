"""What tests of one layer's surgery share: convolutions of every kind of padding, and a study of a small network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from graph.onnx_text import floats
from lissom import pipeline
from lissom.canonical import canonicalise
from lissom.graph.model import Model
from lissom.kinds import KINDS
from lissom.observe import observe_moments
from lissom.options import Plan
from lissom.pipeline import Study
from lissom.price.chain import chain
from lissom.recipe import Recipe
from lissom_runtime.session import open_session

CONV = "net (float[N, {c}, 9, 7] x) => (float[N, {f}, H, W] y) {{ y = Conv <{attributes}> (x, w{b}) }}"
CONVOLUTIONS = {
    "plain": "pads = [1, 1, 1, 1]",
    "strided": "strides = [2, 3], pads = [1, 0, 1, 2]",
    "dilated": "dilations = [2, 1], pads = [2, 1, 2, 1]",
    "same upper": 'auto_pad = "SAME_UPPER", strides = [2, 1]',
    "same lower": 'auto_pad = "SAME_LOWER", strides = [2, 2]',
    "valid": 'auto_pad = "VALID"',
}


def study_of(loaded: Model, shape: tuple[int, ...], recipe: Recipe) -> Study:
    """The menus of a network with one input x of `shape`, of mean 1."""
    feeds = {"x": 1 + floats(9, *shape)}
    canonical = canonicalise(loaded, feeds)
    moments = observe_moments(canonical.model, canonical.layers, [feeds]) if recipe.needs_moments else {}
    return pipeline.propose_menus(canonical, recipe, 16, moments)


def plan_of(study: Study, **parameters: int | float | str) -> Plan:
    """The first option of the first layer with other parameters, whether it is offered or not."""
    option = study.menus[0].ladders[0].option(0)
    return Plan({option.site: replace(option, parameters={**option.parameters, **parameters})}, 0.0)


def random_outputs(study: Study, plan: Plan) -> np.ndarray:
    """What three copies of the first layer give that have the plan's option with random weights."""
    layer = study.canonical.layers[0]
    option = plan.options[layer.name]
    emit = KINDS[option.kind].emit_random
    content, feeds = chain(layer, 3, lambda model, copy, rng: emit(model, copy, option.parameters, rng))
    outputs: np.ndarray = open_session(content).run(None, dict(feeds))[0]
    return outputs


def moment_of(columns: int, rows: int | None = None) -> np.ndarray:
    """A second moment[columns, columns] of correlated columns of different sizes."""
    rng = np.random.default_rng(columns)
    patches = rng.standard_normal((rows or 3 * columns, columns)) * np.exp(rng.standard_normal(columns))
    patches[:, 1:] += patches[:, :-1]
    return patches.T @ patches


def relative_error(weight: np.ndarray, approximation: np.ndarray, moment: np.ndarray | None = None) -> float:
    """The relative error of a weight in the Frobenius norm, or of the layer's output."""
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    left = flat - approximation.reshape(flat.shape)
    seen = np.eye(flat.shape[1]) if moment is None else moment
    return float(np.sqrt(np.trace(left @ seen @ left.T) / np.trace(flat @ seen @ flat.T)))
