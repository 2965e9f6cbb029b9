"""The kinds of options, one row a kind: how it is offered, applied, and put into a network for timing.

This table is what the pipeline knows of a kind. A new kind is a folder of its own, and a row here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from lissom.clustered.monochromatic import apply as monochromatic_surgery
from lissom.clustered.monochromatic import propose as monochromatic_options
from lissom.clustered.tiles import apply as tile_surgery
from lissom.clustered.tiles import propose as tile_options
from lissom.cp import apply as cp_surgery
from lissom.cp import propose as cp_options
from lissom.graph.geometry import Geometry
from lissom.graph.layers import Layer
from lissom.graph.model import Model
from lissom.lowrank import apply as low_rank_surgery
from lissom.lowrank import propose as low_rank_options
from lissom.lowrank.foldings import Array
from lissom.options import Cost, FloatArray, Ladder, Menu, Option, Parameters
from lissom.price.latency import EmitOption
from lissom.price.probing import Approximate
from lissom.recipe import Recipe
from lissom.rewrite import Rewrite
from lissom.sparse import apply as sparse_surgery
from lissom.sparse import propose as sparse_options
from lissom.tucker import apply as tucker_surgery
from lissom.tucker import propose as tucker_options


@dataclass(frozen=True)
class Site:
    """What an offer sees of a layer: plain data without the graph, so that another process can work on it.

    Attributes:
        name: name of the layer.
        weight: weight[f, c, *kernel].
        geometry: what the layer computes.
        readers: layers that share the weight.
    """

    name: str
    weight: Array
    geometry: Geometry
    readers: int = 1

    @classmethod
    def of(cls, layer: Layer) -> Site:
        """The site that `layer` is."""
        return cls(layer.name, layer.weight, layer.geometry, layer.readers)


@dataclass(frozen=True)
class Kind:
    """One kind of options.

    Attributes:
        offer: offer(site, recipe, block, moment) gives the site's ladders; `block` is the target's channel
            block, `moment` the second moment[columns, columns] of its input, or None.
        apply: apply(model, layer, parameters, moment, mean) puts an option in the place of the layer; its bias takes
            up the mean error that the option makes on inputs of `mean`[columns], unless that is None.
        approximate: approximate(layer, parameters, moment) is the dense weight that an option stands for.
        emit_random: `apply` with random weights, for timing.
        narrowed: narrowed(parameters, wide, narrow) is the option for a layer that has lost channels; None where there
            is none, and the kind cannot be offered beside narrower layers.
        keeps_zeros: whether its options are dense weights with zeros: the refit then gives what is left other numbers,
            and chooses no other zeros.
    """

    offer: Callable[[Site, Recipe, int, FloatArray | None], list[Ladder]]
    apply: Callable[[Model, Layer, Parameters, FloatArray | None, FloatArray | None], Rewrite]
    approximate: Approximate
    emit_random: EmitOption
    narrowed: Callable[[Parameters, Geometry, Geometry], Parameters] | None = None
    keeps_zeros: bool = False


def menu(
    name: str, weight: Array, geometry: Geometry, metric: str, ladders: Iterable[Ladder], readers: int = 1
) -> Menu:
    """The menu of a layer: its ladders, and keeping it dense (error 0).

    Args:
        name: the site.
        weight: weight[f, c, *kernel].
        geometry: what the layer computes.
        metric: what the errors measure.
        ladders: the options.
        readers: layers that share the weight; each bears an equal part of its parameters and bytes.
    """
    cost = Cost(np.count_nonzero(weight) / readers, 4 * geometry.weight_size / readers, geometry.macs)
    shared = (replace(lad, params=lad.params / readers, bytes=lad.bytes / readers) for lad in ladders)
    return Menu(name, Option(name, "dense", {}, cost, 0.0, metric), tuple(shared))


def _offer_low_rank(site: Site, recipe: Recipe, block: int, moment: FloatArray | None) -> list[Ladder]:
    asked = recipe.low_rank
    if not asked.enabled:
        return []
    multiple = block if asked.rank_multiple == "target" else asked.rank_multiple
    return low_rank_options.ladders(
        site.name,
        site.weight,
        site.geometry,
        asked.metric,
        asked.foldings,
        asked.sides,
        moment,
        multiple,
        asked.groups,
    )


def _offer_tucker(site: Site, recipe: Recipe, block: int, moment: FloatArray | None) -> list[Ladder]:
    asked = recipe.tucker
    if not asked.enabled:
        return []
    multiple = block if asked.rank_multiple == "target" else asked.rank_multiple
    return tucker_options.ladders(
        site.name, site.weight, site.geometry, asked.metric, asked.ranks == "vbmf", moment, multiple
    )


def _offer_cp(site: Site, recipe: Recipe, block: int, moment: FloatArray | None) -> list[Ladder]:
    asked = recipe.cp
    if not asked.enabled:
        return []
    multiple = block if asked.rank_multiple == "target" else asked.rank_multiple
    return cp_options.ladders(site.name, site.weight, site.geometry, asked.metric, moment, multiple)


def _offer_tiles(site: Site, recipe: Recipe, _block: int, moment: FloatArray | None) -> list[Ladder]:
    asked = recipe.tiles
    if not asked.enabled:
        return []
    return tile_options.ladders(
        site.name, site.weight, site.geometry, asked.metric, asked.inputs, asked.outputs, asked.order, moment
    )


def _offer_monochromatic(site: Site, recipe: Recipe, _block: int, moment: FloatArray | None) -> list[Ladder]:
    asked = recipe.monochromatic
    if not asked.enabled:
        return []
    return monochromatic_options.ladders(site.name, site.weight, site.geometry, asked.metric, moment)


def _offer_block_sparse(site: Site, recipe: Recipe, _block: int, moment: FloatArray | None) -> list[Ladder]:
    asked = recipe.sparse
    if not asked.enabled:
        return []
    return sparse_options.ladders(
        site.name,
        site.weight,
        site.geometry,
        asked.pattern,
        asked.widths,
        asked.importance,
        asked.metric,
        moment,
        sparse_options.DENSITIES if asked.densities is None else asked.densities,
        asked.threshold,
        asked.damping,
    )


KINDS: Mapping[str, Kind] = {
    low_rank_options.KIND: Kind(
        _offer_low_rank, low_rank_surgery.apply, low_rank_surgery.approximate, low_rank_surgery.emit_random
    ),
    tucker_options.KIND: Kind(
        _offer_tucker, tucker_surgery.apply, tucker_surgery.approximate, tucker_surgery.emit_random
    ),
    cp_options.KIND: Kind(_offer_cp, cp_surgery.apply, cp_surgery.approximate, cp_surgery.emit_random),
    tile_options.KIND: Kind(_offer_tiles, tile_surgery.apply, tile_surgery.approximate, tile_surgery.emit_random),
    monochromatic_options.KIND: Kind(
        _offer_monochromatic,
        monochromatic_surgery.apply,
        monochromatic_surgery.approximate,
        monochromatic_surgery.emit_random,
    ),
    sparse_options.KIND: Kind(
        _offer_block_sparse,
        sparse_surgery.apply,
        sparse_surgery.approximate,
        sparse_surgery.emit_random,
        sparse_surgery.narrowed,
        keeps_zeros=True,
    ),
}
"""Every kind, by the name that its options bear."""


def offer(recipe: Recipe, block: int, item: tuple[Site, FloatArray | None]) -> Menu:
    """All that the recipe's kinds offer one site.

    Args:
        recipe: which options.
        block: the target's channel block.
        item: the site, and the second moment[columns, columns] of its input or None.
    """
    site, moment = item
    ladders = chain.from_iterable(kind.offer(site, recipe, block, moment) for kind in KINDS.values())
    return menu(site.name, site.weight, site.geometry, recipe.metric, ladders, site.readers)
