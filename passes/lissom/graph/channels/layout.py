"""Rules of the operators that move channels: reshaping, joining, splitting, slicing, padding.

A Reshape is followed where the channel axis stays, is merged with its neighbours (Flatten: every channel then stands
at many positions), or is split: then one of the new axes bears the channels, and they are one across the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from lissom.graph.channels.atoms import Channels, IntArray, Pin
from lissom.graph.channels.edits import Count, Places, Sizes
from lissom.graph.channels.flow import Declined, Flow, Literal
from lissom.graph.model import Node

Shape = Sequence[int]


def reshape(flow: Flow, node: Node) -> None:
    """Reshape: the number of channels in the new shape changes with them."""
    source = flow.source(node)
    entries = flow.entries(node, 1)
    if source is None:
        flow.require_free(entries)
        return
    found = _reshaped(flow, node, source)
    for axis, entry in enumerate(entries or [None] * len(flow.shape(node.outputs[0]))):
        value = entry.value if isinstance(entry, Literal) else None
        if axis == found.axis:
            if value != -1 and not (value == 0 and axis == source.axis):
                flow.count(entry, found.atoms)
        elif value == 0 and axis == source.axis:
            raise Declined("gives the number of channels to another axis")
        else:
            flow.require_free([entry])
    flow.give(node, found)


def refold(flow: Flow, node: Node) -> None:
    """Flatten, Squeeze, Unsqueeze: a Reshape that adapts by itself."""
    source = flow.source(node)
    if source is not None:
        flow.give(node, _reshaped(flow, node, source))


def transpose(flow: Flow, node: Node) -> None:
    """Transpose."""
    source = flow.source(node)
    if source is None:
        return
    rank = len(flow.shape(node.inputs[0]))
    order = [int(axis) for axis in node.attrs.get("perm", range(rank - 1, -1, -1))]
    flow.give(node, Channels(order.index(source.axis), source.atoms))


def concat(flow: Flow, node: Node) -> None:
    """Concat, along the channels or along another axis."""
    known = [flow.channels[tensor.name] for tensor in node.inputs if tensor.name in flow.channels]
    if not known:
        return
    axis = int(node.attrs["axis"]) % len(flow.shape(node.outputs[0]))
    if len({channels.axis for channels in known}) > 1:
        raise Declined("joins tensors whose channels are along different axes")
    if axis == known[0].axis:
        atoms = np.concatenate([_own_or_kept(flow, node, tensor.name, axis) for tensor in node.inputs])
    elif len(known) < len(node.inputs):
        raise Declined("joins tensors of which some have channels that cannot be cut")
    else:
        atoms = flow.tie(np.stack([channels.atoms for channels in known]))
    flow.give(node, Channels(known[0].axis, atoms))


def split(flow: Flow, node: Node) -> None:
    """Split: the parts are as large as what is left of each."""
    source = flow.source(node)
    if source is None:
        return
    axis = int(node.attrs.get("axis", 0)) % len(flow.shape(node.inputs[0]))
    if axis != source.axis:
        parts = [source.atoms] * len(node.outputs)
    else:
        if len(node.inputs) > 1 and flow.numbers(node, 1) is None:
            raise Declined("splits into sizes that are computed")
        ends = np.cumsum([flow.shape(tensor)[axis] for tensor in node.outputs])
        parts = np.split(source.atoms, ends[:-1])
        flow.edits.append(Sizes(node.name, parts))
    for tensor, atoms in zip(node.outputs, parts, strict=True):
        flow.channels[tensor.name] = Channels(source.axis, atoms)


def slice_(flow: Flow, node: Node) -> None:
    """Slice: along the channels only consecutive ones."""
    source = flow.source(node)
    if source is None:
        return
    starts, ends = flow.numbers(node, 1), flow.numbers(node, 2)
    rank = len(flow.shape(node.inputs[0]))
    named = flow.numbers(node, 3) if len(node.inputs) > 3 and not node.inputs[3].is_empty() else range(rank)
    if named is None:
        raise Declined("slices axes that are computed")
    axes = [axis % rank for axis in named]
    if source.axis not in axes:
        flow.give(node, source)
        return
    place = axes.index(source.axis)
    step = flow.numbers(node, 4) if len(node.inputs) > 4 else [1] * len(axes)
    if starts is None or ends is None or step is None:
        raise Declined("slices at computed bounds")
    if place >= len(starts):  # no axes are named, and the bounds are of the first ones
        flow.give(node, source)
        return
    if step[place] != 1:
        raise Declined("takes every second channel, or in reverse")
    first, last, _ = slice(starts[place], ends[place], 1).indices(len(source.atoms))
    flow.edits.append(Count(node.name, 1, place, source.atoms[:first]))
    flow.edits.append(Count(node.name, 2, place, source.atoms[:last]))
    flow.give(node, Channels(source.axis, source.atoms[first:last]))


def gather(flow: Flow, node: Node) -> None:
    """Gather: along the channels with constant indices."""
    source = flow.source(node)
    if source is None:
        return
    axis = int(node.attrs.get("axis", 0)) % len(flow.shape(node.inputs[0]))
    rank = len(flow.shape(node.inputs[1]))
    if axis != source.axis:
        flow.give(node, Channels(source.axis + (rank - 1 if axis < source.axis else 0), source.atoms))
        return
    indices = flow.numbers(node, 1)
    if indices is None or rank != 1:
        raise Declined("picks channels by computed indices, or a single one")
    flow.edits.append(Places(node.name, 1, source.atoms))
    flow.give(node, Channels(axis, source.atoms[indices]))


def pad(flow: Flow, node: Node) -> None:
    """Pad: channels of a constant value are fresh atoms."""
    source = flow.source(node)
    if source is None:
        return
    rank, pads = len(flow.shape(node.inputs[0])), flow.numbers(node, 1)
    named = flow.numbers(node, 3) if len(node.inputs) > 3 and not node.inputs[3].is_empty() else range(rank)
    if pads is None or named is None:
        raise Declined("pads by computed widths")
    axes = [axis % rank for axis in named]
    if source.axis not in axes:
        flow.give(node, source)
        return
    place = axes.index(source.axis)
    before, after = pads[place], pads[place + len(axes)]
    if (before or after) and (node.attrs.get("mode", "constant") != "constant" or min(before, after) < 0):
        raise Declined("pads the channels by other channels, or crops them")
    ahead, behind = flow.atoms.fresh(before), flow.atoms.fresh(after)
    flow.edits.append(Count(node.name, 1, place, ahead))
    flow.edits.append(Count(node.name, 1, place + len(axes), behind))
    flow.give(node, Channels(source.axis, np.concatenate([ahead, source.atoms, behind])))


def resize(flow: Flow, node: Node) -> None:
    """Resize over space."""
    source = flow.source(node)
    if source is None:
        return
    before, after = flow.shape(node.inputs[0]), flow.shape(node.outputs[0])
    if before[source.axis] != after[source.axis] or node.attrs.get("coordinate_transformation_mode") == (
        "tf_crop_and_resize"
    ):
        raise Declined("resizes the channels")
    axes = [int(axis) % len(before) for axis in node.attrs.get("axes", range(len(before)))]
    if len(node.inputs) > 3 and not node.inputs[3].is_empty() and source.axis in axes:
        entries = flow.entries(node, 3)
        flow.count(None if entries is None else entries[axes.index(source.axis)], source.atoms)
    elif source.axis in axes and flow.numbers(node, 2) is None:
        raise Declined("resizes by computed scales")
    flow.give(node, source)


def expand(flow: Flow, node: Node) -> None:
    """Expand: along other axes than the channels."""
    source, entries = flow.source(node), flow.entries(node, 1)
    if source is None:
        flow.require_free(entries)
        return
    rank = len(flow.shape(node.outputs[0]))
    axis = source.axis + rank - len(flow.shape(node.inputs[0]))
    if entries is None or flow.shape(node.outputs[0])[axis] != len(source.atoms):
        raise Declined("expands the channels, or to a shape that is computed")
    place = axis - rank + len(entries)
    flow.require_free([entry for number, entry in enumerate(entries) if number != place])
    entry = entries[place] if place >= 0 else None
    if place >= 0 and not (isinstance(entry, Literal) and entry.value == 1):
        flow.count(entry, source.atoms)
    flow.give(node, Channels(axis, source.atoms))


def depth_to_space(flow: Flow, node: Node) -> None:
    """DepthToSpace: the channels that become the pixels of one channel are one."""
    source = flow.source(node, axis=1)
    if source is None:
        return
    block = int(node.attrs["blocksize"]) ** 2
    table = (
        source.atoms.reshape(block, -1) if node.attrs.get("mode", "DCR") == "DCR" else source.atoms.reshape(-1, block).T
    )
    flow.give(node, Channels(1, flow.tie(table)))


def space_to_depth(flow: Flow, node: Node) -> None:
    """SpaceToDepth: the pixels of a channel become channels of one atom."""
    source = flow.source(node, axis=1)
    if source is not None:
        flow.give(node, Channels(1, np.tile(source.atoms, int(node.attrs["blocksize"]) ** 2)))


def _own_or_kept(flow: Flow, node: Node, name: str, axis: int) -> IntArray:
    """The atoms of one input of a Concat along the channels; those of an opaque one are pinned."""
    if name in flow.channels:
        return flow.channels[name].atoms
    tensor = next(tensor for tensor in node.inputs if tensor.name == name)
    atoms = flow.atoms.fresh(flow.shape(tensor)[axis])
    flow.atoms.pin(atoms, Pin(node.name, f"joins them with channels of {name}, which cannot be cut"))
    return atoms


def _reshaped(flow: Flow, node: Node, source: Channels) -> Channels:
    """Where the channels are after the elements were put into the shape of the output, in their order."""
    before, after = flow.shape(node.inputs[0]), flow.shape(node.outputs[0])
    if len(source.atoms) == 1 or 0 in before:
        raise Declined("reshapes one channel, or none")
    old, new = _segment(before, after, source.axis)
    if len(new) == 1:
        place = old.index(source.axis)
        inner, outer = prod(before[axis] for axis in old[place + 1 :]), prod(before[axis] for axis in old[:place])
        return Channels(new[0], np.tile(np.repeat(source.atoms, inner), outer))
    if len(old) > 1:
        raise Declined("mixes the channels with other axes")
    table = source.atoms.reshape([after[axis] for axis in new])
    tables = [np.moveaxis(table, place, -1).reshape(-1, table.shape[place]) for place in range(len(new))]
    alike = [place for place, rows in enumerate(tables) if (rows == rows[0]).all()]
    place = alike[-1] if alike else max(range(len(new)), key=lambda place: (table.shape[place], place))
    return Channels(new[place], flow.tie(tables[place]))


def _segment(before: Shape, after: Shape, axis: int) -> tuple[list[int], list[int]]:
    """The fewest consecutive axes of both shapes, with `axis` of the first, that hold equally many elements.

    Axes of extent 1 are in no segment.
    """
    olds = [number for number, extent in enumerate(before) if extent != 1]
    news = [number for number, extent in enumerate(after) if extent != 1]
    while olds:
        old, new = [olds.pop(0)], [news.pop(0)]
        while (gap := prod(before[i] for i in old) - prod(after[i] for i in new)) != 0:
            if gap < 0:
                old.append(olds.pop(0))
            else:
                new.append(news.pop(0))
        if axis in old:
            return old, new
    raise Declined("has lost the channel axis")
