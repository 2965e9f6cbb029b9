"""Whether a runtime operator is faster than the layers that it would replace, measured between neighbours.

What is timed is a *segment*: a layer, or the layers of a chain, with all the nodes that go with them (`chains.Link`).
It is timed as in `lissom.price.chain`: some copies of it read one tensor and are summed up, once dense and once for
each way to lower them. A residual is the sum so far, which is also what a copy reads where both are one tensor. Each
copy has weights of its own, as in a network. Input, first copy (without what follows the last layer) and the call from
Python are in all, and in one more network that has nothing else: the ratio is that of the differences.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnx.numpy_helper
from lissom_runtime import library
from lissom_runtime.contract import DOMAIN
from lissom_runtime.latency import PairedLatency, Samples, Verdict, compare_many
from lissom_runtime.ort_errors import reported
from lissom_runtime.providers import CPU, ProviderRequest
from lissom_runtime.session import open_session

from lissom.graph.load import from_proto
from lissom.graph.model import Model, Node, is_constant, node_to_proto
from lissom.lowering.chains import Link
from lissom.lowering.propose import Site
from lissom.price.chain import LEAST_CHANNELS, PRODUCER_CHANNELS
from lissom.price.latency import MOST_COPIES, MOST_WEIGHT_BYTES, ROUGH_MACS_PER_US, SCHEDULE

Lower = Callable[[Model, Sequence[Link]], object]
"""Lowers the segment `links` of a model."""

SPAN_US = 1200.0
"""The copies of a segment take about this long, so that they outweigh what is common to the networks that are timed."""

LEAST_COPIES = 3

_ENTRY = "RegisterCustomOps"
"""What ONNX Runtime calls in a library with operators."""
_IR = 8


@dataclass(frozen=True)
class Speed:
    """A lowered segment against itself dense.

    Attributes:
        dense_us: latency of the segment dense, microseconds.
        ratio: its latency lowered over that.
        verdict: what may be said of the two networks that were timed.
    """

    dense_us: float
    ratio: float
    verdict: Verdict


def native_obstacle(provider: ProviderRequest) -> str | None:
    """Why the operators do not run natively on `provider`, or None: they are CPU kernels of the kernel library."""
    if provider.names != (CPU,):
        return f"its kernels are of {CPU}, not of {', '.join(provider.names)}"
    if not library.available():
        return library.describe()
    return None if hasattr(library.load(), _ENTRY) else f"{library.get_library_path()} has no operators"


def native(provider: ProviderRequest) -> ProviderRequest | None:
    """`provider` with the kernel library, or None where the operators do not run natively."""
    if native_obstacle(provider) is not None:
        return None
    libraries = dict.fromkeys((*provider.custom_op_libraries, library.get_library_path()))
    return replace(provider, custom_op_libraries=tuple(libraries))


def provider_of(models: Sequence[onnx.ModelProto], provider: ProviderRequest) -> ProviderRequest:
    """`provider` with the kernel library if one of `models` uses its operators and they run natively there."""
    uses = any(entry.domain == DOMAIN for proto in models for entry in proto.opset_import)
    return (native(provider) if uses else None) or provider


def operators() -> frozenset[str]:
    """Names of the operators that the kernel library has.

    Raises:
        LoadError: there is no library.
    """
    function = library.load().lissom_operator_names
    function.restype = ctypes.POINTER(ctypes.c_char_p)
    count = ctypes.c_int64()
    names = function(ctypes.byref(count))
    return frozenset(name.decode() for name in names[: count.value])


def measure(model: Model, links: Sequence[Link], ways: Sequence[Lower], provider: ProviderRequest) -> list[Speed]:
    """Times a segment dense and lowered, all in the same rounds.

    Args:
        model: the model that holds the segment; it is not changed.
        links: the segment.
        ways: each lowers it in another way.
        provider: where, with the kernel library (see `native`).

    Returns:
        The speed of each way.

    Raises:
        LoadError: the segment cannot run at this shape.
    """
    copies = _copies(links)
    feeds = {"input": np.random.default_rng(0).standard_normal(_input_shape(links[0].site)).astype(np.float32)}
    dense = network(model, links, copies)
    networks = [network(model, links, 0), dense, *(lowered(dense, links, copies, way) for way in ways)]
    sessions = [open_session(proto.SerializeToString(), provider) for proto in networks]
    with reported(
        f"expected node {links[0].site.name!r} to run, dense and sparse, on an input of {feeds['input'].shape}"
    ):
        base, before, *others = compare_many([(session, feeds) for session in sessions], schedule=SCHEDULE)
    span = max(before.median - base.median, 0.0)

    def speed(after: Samples) -> Speed:
        ratio = (after.median - base.median) / span if span else float("inf")
        return Speed(span / copies, max(ratio, 0.0), PairedLatency(before, after).verdict)

    return [speed(after) for after in others]


def network(model: Model, links: Sequence[Link], copies: int) -> onnx.ModelProto:
    """A dense network of the bare segment and `copies` of it with all that follows its last layer.

    Copy n has its nodes and tensors named "<n>/<name in the model>".
    """
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, npt.NDArray[np.float32]] = {}
    first, residual = links[0].site, links[-1].residual
    whole = _nodes(links)
    source = "input"
    if _is_behind_another(first):
        channels = first.shape[1]
        weights["pre"] = (
            np.random.default_rng(0).standard_normal((channels, PRODUCER_CHANNELS, 1, 1)).astype(np.float32)
        )
        nodes.append(onnx.helper.make_node("Conv", ["input", "pre"], ["x"], name="pre"))
        source = "x"
    total = ""
    for copy in range(copies + 1):
        renamed = {first.node.inputs[0].name: source}
        if residual is not None and copy:
            renamed[residual.name] = total
        parts = whole if copy else whole[: len(whole) - len(links[-1].behind.nodes)]
        nodes.extend(_copy(parts, copy, renamed, weights))
        output = f"{copy}/{parts[-1].outputs[0].name}"
        if copy and residual is None:
            nodes.append(onnx.helper.make_node("Add", [output, total], [f"sum_{copy}"], name=f"sum_{copy}"))
            output = f"sum_{copy}"
        total = output
    graph = onnx.helper.make_graph(
        nodes,
        "copies",
        [onnx.helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, _input_shape(first))],
        [onnx.helper.make_tensor_value_info(total, onnx.TensorProto.FLOAT, [None] * len(first.shape))],
        [onnx.numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", model.opset)], ir_version=max(model.ir_version, _IR)
    )


def lowered(dense: onnx.ModelProto, links: Sequence[Link], copies: int, way: Lower) -> onnx.ModelProto:
    """The network with all copies but the first lowered."""
    edited = from_proto(dense)
    named = {node.name: node for node in edited.graph.nodes}
    for copy in range(1, copies + 1):
        twins: dict[int, Any] = {}
        for node in _nodes(links):
            twin = twins[id(node)] = named[f"{copy}/{node.name}"]
            twins |= {id(ours): theirs for ours, theirs in zip(node.inputs, twin.inputs, strict=True)}
            twins |= {id(ours): theirs for ours, theirs in zip(node.outputs, twin.outputs, strict=True)}
        way(edited, [link.at(twins) for link in links])
    return edited.to_proto()


def _copy(
    parts: Sequence[Node], copy: int, renamed: Mapping[str, str], weights: dict[str, npt.NDArray[np.float32]]
) -> list[onnx.NodeProto]:
    """The nodes under the names of one copy, the constants that they read put into `weights`."""
    protos = []
    for node in parts:
        proto = node_to_proto(node)
        for tensor in node.inputs:
            if is_constant(tensor):
                weights[f"{copy}/{tensor.name}"] = tensor.values
        names = [renamed.get(name, name and f"{copy}/{name}") for name in proto.input]
        proto.input[:] = names
        proto.output[:] = [f"{copy}/{name}" for name in proto.output]
        proto.name = f"{copy}/{proto.name}"
        protos.append(proto)
    return protos


def _nodes(links: Sequence[Link]) -> list[Node]:
    return [node for link in links for node in link.nodes]


def _is_behind_another(site: Site) -> bool:
    return site.convolution is not None and site.shape[1] >= LEAST_CHANNELS


def _input_shape(site: Site) -> tuple[int, ...]:
    if _is_behind_another(site):
        return (site.shape[0], PRODUCER_CHANNELS, *site.shape[2:])
    return site.shape


def _copies(links: Sequence[Link]) -> int:
    """How many copies take about `SPAN_US`, as far as their weights are affordable."""
    macs = sum(link.site.weight.size * link.site.rows for link in links)
    wanted = int(np.ceil(SPAN_US * ROUGH_MACS_PER_US / macs))
    affordable = int(MOST_WEIGHT_BYTES // sum(link.site.weight.nbytes for link in links))
    return max(1, min(max(wanted, LEAST_COPIES), affordable, MOST_COPIES))
