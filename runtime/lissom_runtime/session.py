"""Opening a session the one way in which lissom checks and times models, and where its nodes really run.

Options, the same for every session: `threads` within an operator and one between operators, sequential execution, full
graph optimisation. Thread pools stop spinning when no run is active (`session.force_spinning_stop`): spinning within a
run stays as onnxruntime deploys it, but the idle workers of one session do not steal the cores from the next one timed.
Nothing else is changed, denormals included, so that what is measured is what the user will deploy.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime

from lissom_runtime.errors import LoadError
from lissom_runtime.ort_errors import reported
from lissom_runtime.providers import CPU, ProviderRequest, configure

KEY_OPERATORS = frozenset(
    {
        *("Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "FusedGemm", "FusedMatMul"),
        *("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "QGemm", "Attention", "LSTM", "GRU"),
    }
)
"""Operators that decide the latency of a network. The `ai.lissom` ones are not among them: they are CPU kernels."""

FATAL_ONLY = 4
"""onnxruntime's log level at which it does not print what it also raises."""


@dataclass(frozen=True)
class PlacedNode:
    """A node as its provider got it: after the graph optimisations that no provider owns, before fusions."""

    name: str
    operator: str
    domain: str


def open_session(
    model: bytes | Path, request: ProviderRequest | None = None, profile: Path | None = None
) -> onnxruntime.InferenceSession:
    """An inference session that runs `model` where `request` asks (default: the CPU provider, one thread).

    Args:
        model: the bytes of a model, or its path (needed for external data).
        request: providers, libraries and threads.
        profile: how the path of a file begins that onnxruntime writes its runs to, until `end_profiling`; None: none.

    Raises:
        LoadError: the model or a library cannot be loaded, a provider is absent, or key nodes fell back to the CPU.
        UsageError: a plugin offers no device of the asked type.
    """
    request = request or ProviderRequest()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = request.threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = FATAL_ONLY
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = os.fspath(profile)
    providers = configure(options, request)
    name, source = ("the model", model) if isinstance(model, bytes) else (str(model), os.fspath(model))
    with reported(f"expected {name} to load in onnxruntime {onnxruntime.__version__} on {', '.join(request.names)}"):
        session = onnxruntime.InferenceSession(source, options, providers=providers or None, enable_fallback=0)
    check_placement(session, request)
    return session


def run_session(
    session: onnxruntime.InferenceSession, feeds: Mapping[str, Any], names: Sequence[str] | None = None
) -> list[Any]:
    """The outputs (default: all that the model declares; else those of `names`) of one run.

    Raises:
        LoadError: onnxruntime fails while it runs the model.
    """
    with reported(f"expected the model to run in onnxruntime {onnxruntime.__version__}"):
        outputs: list[Any] = session.run(None if names is None else list(names), dict(feeds))
    return outputs


def check_placement(session: onnxruntime.InferenceSession, request: ProviderRequest) -> None:
    """Checks that the nodes that matter run on providers that were asked for.

    Raises:
        LoadError: a provider was dropped, key nodes fell back to the CPU, or this onnxruntime cannot tell.
    """
    missing = [name for name in request.names if name not in session.get_providers()]
    if missing:
        raise LoadError(f"expected the provider {missing[0]} to start, got {', '.join(session.get_providers())}")
    if CPU in request.names:
        return
    if not hasattr(session, "get_provider_graph_assignment_info"):
        raise LoadError(
            f"expected an onnxruntime that tells which nodes {request.names[0]} runs, got {onnxruntime.__version__}: "
            "ask for the CPU provider as well to accept nodes that fall back to it"
        )
    fallen = [node for node in nodes_by_provider(session).get(CPU, []) if node.operator in KEY_OPERATORS]
    if fallen:
        names = ", ".join(f"{node.name or 'a nameless node'} ({node.operator})" for node in fallen[:3])
        raise LoadError(f"expected key nodes to run on {request.names[0]}, got {len(fallen)} on the CPU: {names}")


def nodes_by_provider(session: onnxruntime.InferenceSession) -> Mapping[str, list[PlacedNode]]:
    """Full provider name -> the nodes that it runs, for a session that `open_session` opened.

    Nodes folded into constants while loading are nowhere.
    """
    placed: dict[str, list[PlacedNode]] = {}
    for part in session.get_provider_graph_assignment_info():
        nodes: list[Any] = part.get_nodes()
        placed.setdefault(part.ep_name, []).extend(PlacedNode(n.name, n.op_type, n.domain) for n in nodes)
    return placed
