"""Small networks whose activations are pruned, with their layers and sites, and what is known of them."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from graph.onnx_text import Arrays, floats, model, run
from lissom import pipeline
from lissom.activations.finish import Masked
from lissom.activations.plan import Activations
from lissom.activations.rates import rate_of
from lissom.activations.sites import Sites, find_sites
from lissom.applying import Candidate
from lissom.canonical import canonicalise
from lissom.graph.layers import Layer, activations, find_layers
from lissom.graph.model import Model
from lissom.graph.naming import name_nodes
from lissom.kinds import KINDS
from lissom.observe import observe_moments, observe_shapes
from lissom.options import Menu, Option, Plan
from lissom.pipeline import Study
from lissom.price.cache import Cache
from lissom.price.distortion import DistortionTable
from lissom.recipe import Recipe

PLAIN = """
net (float[N, 3, 8, 8] x) => (float[N, 5] y) {
    c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    a1 = Relu (c1)
    p1 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a1)
    c2 = Conv <pads = [1, 1, 1, 1]> (p1, w2, b2)
    a2 = LeakyRelu <alpha = 0.25> (c2)
    f2 = Flatten (a2)
    y = Gemm <transB = 1> (f2, w3, b3)
}
"""
"""A Relu, pooled, and a LeakyRelu, flattened; 4, 6 and 5 channels."""

RESIDUAL = """
net (float[N, 3, 8, 8] x) => (float[N, 5] y) {
    c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    a1 = Relu (c1)
    c2 = Conv <pads = [1, 1, 1, 1]> (a1, w4, b1)
    a2 = Relu (c2)
    c3 = Conv <pads = [1, 1, 1, 1]> (a2, w4, b1)
    s3 = Add (c3, a1)
    a3 = Relu (s3)
    c4 = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (a3, w4, b1)
    a4 = Relu (c4)
    c5 = Conv <pads = [1, 1, 1, 1]> (a4, w2, b2)
    g5 = GlobalAveragePool (c5)
    f5 = Flatten (g5)
    y = Gemm <transB = 1> (f5, w5, b3)
}
"""
"""A stem and a block at 8 x 8, a layer at 4 x 4, pooled."""

WEIGHTS = {
    "w1": (4, 3, 3, 3), "b1": (4,), "w2": (6, 4, 3, 3), "b2": (6,), "w3": (5, 96), "b3": (5,), "w4": (4, 4, 3, 3),
    "w5": (5, 6),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A network, and what a pass is given of it."""

    model: Model
    layers: list[Layer]
    sites: Sites
    shapes: dict[str, tuple[int, ...]]
    feeds: Arrays


def case(text: str, feeds: Arrays | None = None, opset: int = 17, **constants: np.ndarray[Any, Any]) -> Case:
    """The network of `text`; weights that it reads are random unless they are given."""
    weights = {name: floats(len(name) + i, *shape) for i, (name, shape) in enumerate(WEIGHTS.items())}
    used = {name: values for name, values in weights.items() if name in text and name not in constants}
    loaded = model(text, opset, **used, **constants)
    name_nodes(loaded)
    return examine(loaded, {"x": floats(99, 3, 3, 8, 8)} if feeds is None else feeds)


def examine(loaded: Model, feeds: Arrays) -> Case:
    """Layers and sites of a model."""
    layers = list(find_layers(loaded, observe_shapes(loaded, activations(loaded), feeds)).layers)
    sites = find_sites(loaded, layers)
    shapes = observe_shapes(loaded, [site.tensor for site in sites.sites], feeds)
    return Case(loaded, layers, sites, shapes, feeds)


RECIPE = """
[low_rank]
enabled = false
[sparse]
enabled = true
widths = [1]
importance = "magnitude"
densities = [0.1, 0.3, 0.5, 0.7, 0.9]
[winners]
enabled = true
rates = [0.8, 0.6, 0.4, 0.25, 0.1]
{}
[allocate]
objective = "total"
error = "outputs"
budget = "macs"
"""
"""Single weights and masks; {} are words of the table of masks."""


def recipe(words: str = "", refit: bool = False) -> Recipe:
    """A recipe of weights and masks."""
    table = "[refit]\nenabled = true\n" if refit else ""
    return Recipe.model_validate({"name": "test", **tomllib.loads(RECIPE.format(words) + table)})


def study_of(
    text: str,
    asked: Recipe | None = None,
    labels: bool = False,
    exclude: str | None = None,
    samples: int = 64,
    **constants: np.ndarray[Any, Any],
) -> Study:
    """All that is known of a network before a bound is looked at, with measured distortions.

    Args:
        text: the network.
        asked: the recipe.
        labels: whether the samples have labels: the classes that the network names.
        exclude: layers that are no sites.
        samples: of the calibration data, in batches of 16.
        constants: weights that are not random.
    """
    asked = recipe() if asked is None else asked
    known = case(text, **constants)
    canonical = canonicalise(known.model, {"x": known.feeds["x"][:1]})
    batches = [{"x": floats(40 + number, 16, 3, 8, 8)} for number in range(samples // 16)]
    moments = observe_moments(canonical.model, canonical.layers, batches)
    proposed = pipeline.propose_menus(canonical, asked, 8, moments, exclude=exclude)
    proposed = replace(proposed, calibration=batches)
    approximate = {name: kind.approximate for name, kind in KINDS.items()}
    with TemporaryDirectory() as folder:
        table = DistortionTable(canonical.model, batches, approximate, Cache(Path(folder)))
        priced = pipeline.price_distortion(proposed, table)
    named = [run(canonical.model, feeds)[0].argmax(axis=1) if labels else None for feeds in batches]
    return pipeline.price_activations(priced, list(zip(batches, named, strict=True)))


def activations_of(study: Study) -> Activations:
    """The activations of a study, which has some."""
    assert study.activations is not None
    return study.activations


def masked_of(candidate: Candidate) -> Masked:
    """What was masked of a candidate."""
    assert candidate.masked is not None
    return candidate.masked


def planned(study: Study, densities: Sequence[float], rates: Sequence[float]) -> Plan:
    """The layers and the groups of activations at about these shares, whatever that loses."""
    groups = activations_of(study).found.groups
    wished = {**dict(zip((layer.name for layer in study.canonical.layers), densities, strict=False))}
    wished |= dict(zip(groups, rates, strict=False))
    options = {}
    for menu in study.menus:
        many = [menu.option(number) for number in range(1 + sum(len(ladder) for ladder in menu.ladders))]
        share = wished.get(menu.site, 1.0)
        options[menu.site] = min(many, key=lambda option: abs(_share(option, menu) - share))
    return Plan(options, 0.0)


def _share(option: Option, menu: Menu) -> float:
    return option.cost.params / menu.dense.cost.params if menu.dense.cost.params else rate_of(option)
