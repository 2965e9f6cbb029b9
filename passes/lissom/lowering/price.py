"""Whether a runtime operator is faster than the layer that it would replace, measured between neighbours.

The operator is timed as in `lissom.price.chain`: some copies of the layer, with all the nodes that go with it, read one
tensor and are summed up, once dense and once lowered. A residual is the sum so far. Each copy has weights of its own,
as in a network. Input, first copy and the call from Python are in both, and in a third network that has nothing else:
the ratio is that of the differences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnx.numpy_helper
from lissom_runtime import library
from lissom_runtime.contract import DOMAIN
from lissom_runtime.latency import PairedLatency, Verdict, compare_many
from lissom_runtime.packing import Packed
from lissom_runtime.providers import CPU, ProviderRequest
from lissom_runtime.session import open_session

from lissom.graph.load import from_proto
from lissom.graph.model import Model, Node, is_constant, node_to_proto
from lissom.lowering.apply import apply
from lissom.lowering.fuse import Tail
from lissom.lowering.propose import Site
from lissom.price.chain import LEAST_CHANNELS, PRODUCER_CHANNELS
from lissom.price.latency import MOST_COPIES, MOST_WEIGHT_BYTES, ROUGH_MACS_PER_US, SCHEDULE, SPAN_US

_ENTRY = "RegisterCustomOps"
"""What ONNX Runtime calls in a library with operators."""
_IR = 8


@dataclass(frozen=True)
class Speed:
    """A lowered layer against itself dense.

    Attributes:
        dense_us: latency of the layer with what goes with it, microseconds.
        ratio: the operator's latency over that.
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


def measure(model: Model, site: Site, packed: Packed, behind: Tail, provider: ProviderRequest) -> Speed:
    """Times a layer dense and lowered.

    Args:
        model: the model that holds the layer; it is not changed.
        site: the layer.
        packed: its weight.
        behind: the nodes behind it that go with it.
        provider: where, with the kernel library (see `native`).
    """
    copies = _copies(site)
    feeds = {"input": np.random.default_rng(0).standard_normal(_input_shape(site)).astype(np.float32)}
    networks = [chain(model, site, behind, 0), chain(model, site, behind, copies)]
    networks.append(_lowered(networks[1], site, packed, behind, copies))
    sessions = [open_session(network.SerializeToString(), provider) for network in networks]
    base, dense, sparse = compare_many([(session, feeds) for session in sessions], schedule=SCHEDULE)
    span = max(dense.median - base.median, 0.0)
    ratio = (sparse.median - base.median) / span if span else float("inf")
    return Speed(span / copies, max(ratio, 0.0), PairedLatency(dense, sparse).verdict)


def chain(model: Model, site: Site, behind: Tail, copies: int) -> onnx.ModelProto:
    """A dense network of the bare layer and `copies` of it with all that goes with it.

    Copy n has its nodes and tensors named "<n>/<name in the model>".
    """
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, npt.NDArray[np.float32]] = {}
    source = "input"
    if _is_behind_another(site):
        channels = site.shape[1]
        weights["pre"] = (
            np.random.default_rng(0).standard_normal((channels, PRODUCER_CHANNELS, 1, 1)).astype(np.float32)
        )
        nodes.append(onnx.helper.make_node("Conv", ["input", "pre"], ["x"], name="pre"))
        source = "x"
    total = ""
    for copy in range(copies + 1):
        renamed = {site.node.inputs[0].name: source}
        if behind.epilogue.residual is not None and copy:
            renamed[behind.epilogue.residual.name] = total
        parts = [site.node, *(behind.nodes if copy else ())]
        nodes.extend(_copy(parts, copy, renamed, weights))
        output = f"{copy}/{parts[-1].outputs[0].name}"
        if copy and behind.epilogue.residual is None:
            nodes.append(onnx.helper.make_node("Add", [output, total], [f"sum_{copy}"], name=f"sum_{copy}"))
            output = f"sum_{copy}"
        total = output
    graph = onnx.helper.make_graph(
        nodes,
        "chain",
        [onnx.helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, _input_shape(site))],
        [onnx.helper.make_tensor_value_info(total, onnx.TensorProto.FLOAT, [None] * len(site.shape))],
        [onnx.numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", model.opset)], ir_version=max(model.ir_version, _IR)
    )


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


def _lowered(dense: onnx.ModelProto, site: Site, packed: Packed, behind: Tail, copies: int) -> onnx.ModelProto:
    """The chain with all copies but the first lowered."""
    edited = from_proto(dense)
    for copy in range(1, copies + 1):
        named = {node.name: node for node in edited.graph.nodes}
        layer, *nodes = [named[f"{copy}/{node.name}"] for node in (site.node, *behind.nodes)]
        epilogue, residual = behind.epilogue, None
        if epilogue.residual is not None:
            taken = {id(tensor) for node in (layer, *nodes) for tensor in node.outputs}
            residual = next(
                tensor
                for node in nodes
                if node.op == "Add"
                for tensor in node.inputs
                if not is_constant(tensor) and id(tensor) not in taken
            )
        last = (layer, *nodes)[-1]
        tail = Tail(nodes, behind.bias, replace(epilogue, residual=residual), last.outputs[0])
        apply(edited, replace(site, name=layer.name, node=layer), packed, tail)
    return edited.to_proto()


def _is_behind_another(site: Site) -> bool:
    return site.convolution is not None and site.shape[1] >= LEAST_CHANNELS


def _input_shape(site: Site) -> tuple[int, ...]:
    if _is_behind_another(site):
        return (site.shape[0], PRODUCER_CHANNELS, *site.shape[2:])
    return site.shape


def _copies(site: Site) -> int:
    """How many copies take about `SPAN_US`."""
    macs = site.weight.size * site.rows
    wanted = int(np.ceil(SPAN_US * ROUGH_MACS_PER_US / macs))
    affordable = int(MOST_WEIGHT_BYTES // site.weight.nbytes)
    return max(1, min(wanted, affordable, MOST_COPIES))
