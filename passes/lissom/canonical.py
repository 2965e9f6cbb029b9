"""The canonical model: what every pass may rely on, made by exact rewrites only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lissom.data import Feeds
from lissom.graph.affine import fold_affine
from lissom.graph.constants import fold_constants, lift_constants
from lissom.graph.count import count_macs, count_parameters, mac_tensors
from lissom.graph.layers import Layer, activations, find_layers
from lissom.graph.model import Model
from lissom.graph.naming import name_nodes
from lissom.graph.shapes import infer_shapes
from lissom.graph.sharing import share_constants, unshare_constants
from lissom.graph.steps import Outcome, Step, apply_steps
from lissom.observe import observe_shapes
from lissom.options import Refusal
from lissom.verify import require_same

READING: tuple[Step, ...] = (
    Step("name nodes", name_nodes),
    Step("lift constants", lift_constants),
)
"""Makes the weights of a file visible; nothing is counted before."""

CANONICAL: tuple[Step, ...] = (
    Step("un-share constants", unshare_constants),
    Step("fold constants", fold_constants),
    Step("fold batch normalization", fold_affine),
    Step("infer shapes", infer_shapes),
)
"""Exact rewrites that every pass may rely on."""

FINISHING: tuple[Step, ...] = (Step("share constants", share_constants),)
"""Undoes what made the file larger and no pass needs any more."""


@dataclass(frozen=True)
class Totals:
    """A model's size and work.

    Attributes:
        params: non-zero parameters.
        bytes: bytes of the file.
        macs: multiply-accumulates at the observed input shape.
    """

    params: int
    bytes: int
    macs: int


@dataclass(frozen=True)
class Canonical:
    """A model after the exact rewrites.

    Attributes:
        model: the rewritten model.
        original: what the file held as loaded.
        totals: what it holds after the rewrites.
        outcomes: what each rewrite did.
        feeds: the input at whose shape all is counted.
        layers: the sites.
        refusals: what looked like a layer and is none.
    """

    model: Model
    original: Totals
    totals: Totals
    outcomes: Mapping[str, Outcome]
    feeds: Feeds
    layers: Sequence[Layer]
    refusals: Sequence[Refusal]


def canonicalise(model: Model, feeds: Feeds) -> Canonical:
    """Runs the exact rewrites on a copy of `model` and finds the layers.

    Args:
        model: the model as loaded.
        feeds: one input; its shape is what multiply-accumulates and latency mean.

    Raises:
        LoadError: ONNX Runtime cannot run the model.
        UsageError: a weight is NaN, infinite or empty.
        VerificationError: a rewrite changed what the model computes.
    """
    edited = model.copy()
    outcomes = apply_steps(edited, READING)
    shapes = observe_shapes(edited, mac_tensors(edited), feeds)
    original = replace(totals(edited, shapes), bytes=model.to_proto().ByteSize())
    outcomes |= apply_steps(edited, CANONICAL)
    shapes = observe_shapes(edited, [*activations(edited), *mac_tensors(edited)], feeds)
    census = find_layers(edited, shapes)
    require_same(model, edited, feeds, "the canonical model")
    refusals = [*(refusal for outcome in outcomes.values() for refusal in outcome.refusals), *census.refusals]
    return Canonical(edited, original, _as_written(edited, shapes), outcomes, feeds, census.layers, refusals)


def canonical_of(model: Model, like: Canonical) -> Canonical:
    """What is known of a changed copy of a canonical model, in the place of that one."""
    shapes = observe_shapes(model, [*activations(model), *mac_tensors(model)], like.feeds)
    return replace(like, model=model, totals=_as_written(model, shapes), layers=find_layers(model, shapes).layers)


def _as_written(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> Totals:
    """What `model` would hold in a file, where equal constants are one."""
    finished = model.copy()
    apply_steps(finished, FINISHING)
    return totals(finished, shapes)


def totals(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> Totals:
    """What `model` holds; `shapes` are those of the tensors that `mac_tensors` names."""
    return Totals(count_parameters(model), model.to_proto().ByteSize(), count_macs(model, shapes))
