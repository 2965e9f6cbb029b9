"""What a target lets each site do: the decision of Scalpel, as a constraint on the menus that the one allocator sees.

1. Zeros come in the blocks that the target can use (`for_target`), channels in its multiples; a target that can use no
   zeros is offered none, whatever the recipe.
2. A recipe `by_target` gives each layer one of two methods, by `Target.favours` from its size alone: with few threads
   in step zeros everywhere, with many channels everywhere, between them zeros in layers that wait for memory
   (`only_favoured`). The recipe's `methods` come first. A channel group is offered where some layer that gives, passes
   on or reads it is to lose channels.

A layer's input is taken as its output positions times the strides: exact without padding.

Source: Yu et al., "Scalpel: Customizing DNN Pruning to the Underlying Hardware Parallelism", ISCA 2017, section 3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from math import prod

from lissom_runtime.errors import UsageError
from pydantic import ValidationError

from lissom.graph.layers import Layer
from lissom.nodes.groups import KIND as NODES
from lissom.options import Menu, Refusal
from lissom.pipeline import Study, with_menus
from lissom.recipe import Method, Recipe
from lissom.recipe_tables import Sparse
from lissom.sparse.propose import KIND as SPARSE
from lissom.target.schema import Target

FLOAT_BYTES = 4

METHODS = "methods"
"""Kind of the refusal of a pattern that finds nothing."""


def for_target(recipe: Recipe, target: Target) -> Recipe:
    """The recipe with the zeros that a target can use.

    N:M patterns are no blocks, and stay as they are unless the target can use no zeros at all.

    Raises:
        UsageError: it can use none, and the recipe offers nothing else, or gives zeros to some layers.
    """
    sparse, usable = recipe.sparse, target.sparse
    if not sparse.enabled:
        return recipe
    if not usable.widths:
        asked = next((pattern for pattern, method in recipe.methods.items() if method == "sparse"), None)
        if asked is not None:
            raise UsageError(
                f"expected a target that can use zeros for the method of {asked!r} in the recipe {recipe.name!r}, "
                f"but {target.name!r} can use none"
            )
        if recipe.by_target:
            return recipe
        try:
            return Recipe.model_validate({**recipe.model_dump(), "sparse": Sparse()})
        except ValidationError as error:
            raise UsageError(
                f"expected a recipe of options that the target {target.name!r} can use, "
                f"but {recipe.name!r} offers zeros only"
            ) from error
    if sparse.pattern not in ("columns", "rows"):
        return recipe
    blocks = sparse.model_copy(update={"pattern": usable.pattern, "widths": usable.widths})
    return recipe.model_copy(update={"sparse": blocks})


def only_favoured(study: Study, target: Target) -> Study:
    """The study where each layer has only the method that it is to have, with a refusal of the other."""
    asked = {layer.name: method_of(layer.name, study.recipe.methods) for layer in study.canonical.layers}
    methods = {layer.name: asked[layer.name] or favoured(layer, target) for layer in study.canonical.layers}

    def who(*layers: str) -> str:
        """Who decided about some layers, and the verb."""
        by_recipe = {asked[layer] is not None for layer in layers}
        recipe = f"the recipe {study.recipe.name!r}"
        profile = f"the target {target.name!r} ({target.parallelism} parallelism)"
        if len(by_recipe) > 1:
            return f"{recipe} and {profile} favour"
        return f"{recipe if by_recipe.pop() else profile} favours"

    groups = {} if study.widths is None else study.widths.groups
    idle = [pattern for pattern in study.recipe.methods if not any(re.search(pattern, layer) for layer in asked)]
    menus: list[Menu] = []
    refusals = [*study.refusals, *(Refusal(pattern, METHODS, "it finds the name of no layer") for pattern in idle)]
    for menu in study.menus:
        if menu.site in groups:
            group = groups[menu.site]
            around = [layer for layer in (*group.rows, *group.through, *group.columns) if layer in methods]
            if not around or any(methods[layer] == "nodes" for layer in around):
                menus.append(menu)
                continue
            refusals.append(Refusal(group.name, NODES, f"{who(*around)} zeros in all layers around it"))
            menus.append(Menu(menu.site, menu.dense, ()))
        elif methods[menu.site] == "nodes" and any(ladder.kind == SPARSE for ladder in menu.ladders):
            refusals.append(Refusal(menu.site, SPARSE, f"{who(menu.site)} whole channels here"))
            others = tuple(ladder for ladder in menu.ladders if ladder.kind != SPARSE)
            menus.append(Menu(menu.site, menu.dense, others))
        else:
            menus.append(menu)
    return replace(with_menus(study, menus), refusals=refusals)


def method_of(name: str, methods: Mapping[str, Method]) -> Method | None:
    """What a recipe gives the layer `name`, or None where it leaves that to the target."""
    return next((method for pattern, method in methods.items() if re.search(pattern, name)), None)


def favoured(layer: Layer, target: Target) -> Method:
    """The method that a target favours for a layer."""
    geometry = layer.geometry
    read = geometry.in_channels * prod(geometry.strides) * geometry.out_positions
    written = geometry.out_channels * geometry.out_positions
    return target.favours(geometry.macs, FLOAT_BYTES * geometry.weight_size, FLOAT_BYTES * (read + written))
