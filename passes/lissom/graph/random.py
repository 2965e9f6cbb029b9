"""Which outputs of a model are random.

A node draws random numbers when it is a generator without a `seed` attribute (ONNX Runtime
then seeds it from the clock and its place in the graph), or a Dropout that may train: its
`training_mode` is given, is not constant False, and it has no `seed` either. Whatever reads
what such a node gives, in the bodies of If, Loop and Scan too, is random as well: two right
models may differ there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lissom.graph.model import Graph, Model, Node, Tensor, is_constant, is_standard

GENERATORS = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
"""Operators whose result is drawn."""


def random_outputs(model: Model) -> Mapping[str, Node]:
    """The outputs of the graph that differ from run to run, each with a node that draws."""
    sources: dict[int, Node] = {}
    for node in model.graph.nodes:
        drawn = next((inner for inner in _with_bodies(node) if _draws(inner)), None)
        source = drawn or next((sources[id(t)] for t in _read(node) if id(t) in sources), None)
        if source is not None:
            sources.update((id(tensor), source) for tensor in node.outputs)
    return {tensor.name: sources[id(tensor)] for tensor in model.graph.outputs if id(tensor) in sources}


def _draws(node: Node) -> bool:
    if "seed" in node.attrs:
        return False
    if is_standard(node, "Dropout") and len(node.inputs) > 2 and not node.inputs[2].is_empty():
        training = node.inputs[2]
        return not (is_constant(training) and not training.values.any())
    return any(is_standard(node, op) for op in GENERATORS)


def _with_bodies(node: Node) -> Iterator[Node]:
    yield node
    for body in node.subgraphs(recursive=True):
        yield from body.nodes


def _read(node: Node) -> Iterator[Tensor]:
    """What a node reads; of its bodies all tensors, captured ones and outputs included."""
    yield from node.inputs
    bodies: Iterator[Graph] = node.subgraphs(recursive=True)
    for body in bodies:
        for inner in body.nodes:
            yield from inner.inputs
        yield from body.outputs
