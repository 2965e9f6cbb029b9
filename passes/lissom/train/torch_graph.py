"""`TorchGraph`: an ONNX graph as a module of torch, whose weights are trained and written back into the same graph.

The graph is interpreted: node after node, by the functions of `lissom.train.table`. So a constant that several nodes
read is one parameter with one gradient, whatever reads it, and a graph is written back by its constants alone.

1. Floating-point constants that `trained` chooses are parameters; all other constants are buffers.
2. Model-local functions are inlined first, and packed sparse weights become dense (`graph/unpacking.py`). Trained
   values go back into the model that was read so, not into the packed one: `lissom lower` packs again.
3. A mask says which elements of a parameter may differ from zero. The others are zero wherever the parameter is read,
   here and when it is written back, so that their gradient is zero and no step of an optimizer moves them.
4. The running statistics of a BatchNormalization are kept, unless `statistics` is "updated" and the module is in
   training mode: then each run normalises by its batch and moves them.
5. With `dtype`, every floating-point tensor is of it, inputs and casts included; what is written back is rounded to the
   type that the file has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import torch
from lissom_runtime.errors import UsageError

from lissom.graph.model import Model
from lissom.train.node import Function, Node, Tensor
from lissom.train.norms import update_batch_norm
from lissom.train.reading import inlined, read_constants, read_nodes
from lissom.train.roles import Weight, find_weights, is_learned
from lissom.train.writing import stored_tensors, with_values

Array = npt.NDArray[Any]


class TorchGraph(torch.nn.Module):
    """An ONNX graph that can be differentiated.

    Args:
        source: a valid model, with external data loaded; it is not changed.
        trained: chooses the constants that are parameters.
        masks: by name of a parameter, a boolean array of its shape: False where the element is zero for good.
        dtype: element type of every floating-point tensor; None: those of the file.
        statistics: whether batch normalisations in training mode keep the statistics of the file.

    Attributes:
        inputs: names of the inputs.
        outputs: names of the outputs.
        weights: the floating-point constants, trained or not, without numbers that stand in attributes.

    Raises:
        UsageError: an operator, an attribute or an element type is not known here, a mask does not fit, or `trained`
            chooses statistics of a normalisation.
    """

    def __init__(
        self,
        source: Model | onnx.ModelProto,
        trained: Callable[[Weight], bool] = is_learned,
        masks: Mapping[str, Array] | None = None,
        dtype: torch.dtype | None = None,
        statistics: Literal["frozen", "updated"] = "frozen",
    ) -> None:
        super().__init__()
        proto = inlined(source)
        constants = read_constants(proto)
        self.inputs = [value.name for value in proto.graph.input if value.name not in constants]
        self.outputs = [value.name for value in proto.graph.output]
        self._dtype = dtype
        self._steps = read_nodes(proto, dtype)
        nodes = [node for node, _ in self._steps]
        self._dead = _last_reads(nodes, self.outputs)
        floating = {name: constants[name].shape for name in stored_tensors(proto) if constants[name].dtype.kind == "f"}
        self.weights = find_weights(nodes, floating)
        self._stored = {name: constants[name].dtype for name in floating}
        self._slots: dict[str, str] = {}
        self._masks: dict[str, str] = {}
        self._trained = [weight.name for weight in self.weights if trained(weight)]
        for weight in self.weights:
            if weight.role == "statistic" and weight.name in self._trained:
                raise UsageError(f"expected weights to train, but {weight.name!r} holds statistics")
        for number, (name, values) in enumerate(constants.items()):
            self._slots[name] = f"constant_{number}"
            tensor = self._float(torch.from_numpy(values))
            if name in self._trained:
                self.register_parameter(self._slots[name], torch.nn.Parameter(tensor))
            else:
                self.register_buffer(self._slots[name], tensor)
        moving = [node for node in nodes if node.op == "BatchNormalization" and statistics == "updated"]
        self._updates: dict[str, Function] = {node.outputs[0]: update_batch_norm(node) for node in moving}
        self._moved = [name for node in moving for name in node.inputs[3:5] if name in constants]
        for name in self._moved:
            if self._moved.count(name) > 1:
                raise UsageError(f"expected batch normalisations with statistics of their own, but they share {name!r}")
        self._behind: dict[str, list[Callable[[Tensor], Tensor]]] = {}
        self._before: dict[tuple[str, int], list[Callable[[Tensor], Tensor]]] = {}
        for name, mask in (masks or {}).items():
            self._add_mask(name, mask)

    def forward(self, feeds: Mapping[str, Tensor], also: Sequence[str] = ()) -> dict[str, Tensor]:
        """Runs the graph.

        Args:
            feeds: one tensor per input, by name.
            also: names of other tensors of the graph that are returned as well.

        Returns:
            The outputs and the tensors of `also`, by name.

        Raises:
            UsageError: an input is missing, a name of `also` is none of the graph, or torch cannot run a node.
        """
        known = {name: self._read(name) for name in self._slots}
        for name in self.inputs:
            if name not in feeds:
                raise UsageError(f"expected a tensor for input {name!r}, but got those for {sorted(feeds)}")
            known[name] = self._float(feeds[name])
        wanted = [*self.outputs, *also]
        for (node, function), dead in zip(self._steps, self._dead, strict=True):
            if self.training:
                function = self._updates.get(node.outputs[0], function)
            known |= zip(node.outputs, _run(node, function, self._inputs(node, known)), strict=False)
            for name in node.outputs:
                for change in self._behind.get(name, ()):
                    known[name] = change(known[name])
            for name in dead:
                if name not in wanted:
                    del known[name]
        for name in also:
            if name not in known:
                raise UsageError(f"expected the name of a tensor of the graph, but it has no {name!r}")
        return {name: known[name] for name in wanted}

    def trained(self) -> dict[str, Tensor]:
        """The parameters by the names of their constants."""
        return {name: getattr(self, self._slots[name]) for name in self._trained}

    def moved(self) -> dict[str, Tensor]:
        """The statistics that runs in training mode move, by the names of their constants."""
        return {name: getattr(self, self._slots[name]) for name in self._moved}

    def put_behind(self, name: str, change: Callable[[Tensor], Tensor]) -> None:
        """Changes a tensor of the graph where it is computed; all that reads it reads what `change` makes of it.

        Raises:
            UsageError: no node gives a tensor of that name.
        """
        if not any(name in node.outputs for node, _ in self._steps if name):
            raise UsageError(f"expected the name of a tensor that a node gives, but got {name!r}")
        self._behind.setdefault(name, []).append(change)

    def put_before(self, reader: str, position: int, change: Callable[[Tensor], Tensor]) -> None:
        """Changes what one node reads as its input of that position; what others read of the tensor stays.

        Raises:
            UsageError: no node, or more than one, has that name, or it has no such input.
        """
        found = [node for node, _ in self._steps if node.name == reader]
        if len(found) != 1 or not 0 <= position < len(found[0].inputs) or not found[0].inputs[position]:
            raise UsageError(f"expected one node {reader!r} with an input {position}, but the graph has none")
        self._before.setdefault((reader, position), []).append(change)

    def values(self) -> dict[str, Array]:
        """What training may have changed, as it is written back: masked, in the element types of the file."""
        names = dict.fromkeys([*self._trained, *self._moved])
        return {name: self._read(name).detach().cpu().numpy().astype(self._stored[name]) for name in names}

    def keep_zeros(self) -> None:
        """Masks the trained weights of layers that have zeros, so that these stay zero."""
        for weight in self.weights:
            if weight.role == "weight" and weight.name in self._trained and weight.name not in self._masks:
                kept = getattr(self, self._slots[weight.name]).detach().cpu().numpy() != 0
                if not kept.all():
                    self._add_mask(weight.name, kept)

    def write_back(self, proto: onnx.ModelProto) -> onnx.ModelProto:
        """A copy of `proto`, the model that this graph was made from, with the trained values.

        Raises:
            UsageError: `proto` lacks one of the constants, or has another in its place.
        """
        return with_values(proto, self.values())

    def _read(self, name: str) -> Tensor:
        """A constant, with zeros where its mask has them."""
        values = getattr(self, self._slots[name])
        if name not in self._masks:
            return values
        return torch.where(getattr(self, self._masks[name]), values, torch.zeros_like(values))

    def _inputs(self, node: Node, known: Mapping[str, Tensor]) -> list[Tensor | None]:
        """What a node reads; None where an input is left out."""
        found = [known[name] if name else None for name in node.inputs]
        for position in range(len(found) if self._before else 0):
            for change in self._before.get((node.name, position), ()):
                found[position] = change(found[position])
        return found

    def _float(self, tensor: Tensor) -> Tensor:
        """`tensor`, of the type of all floating-point tensors if it is one."""
        return tensor.to(self._dtype) if self._dtype is not None and tensor.is_floating_point() else tensor

    def _add_mask(self, name: str, mask: Array) -> None:
        if name not in self._trained:
            raise UsageError(f"expected masks of trained constants, but {name!r} is none")
        shape = tuple(getattr(self, self._slots[name]).shape)
        if mask.dtype != np.bool_ or mask.shape != shape:
            raise UsageError(
                f"expected a mask bool{list(shape)} for {name!r}, but got {mask.dtype.name}{list(mask.shape)}"
            )
        self._masks[name] = f"mask_of_{self._slots[name]}"
        self.register_buffer(
            self._masks[name], torch.from_numpy(mask.copy()).to(getattr(self, self._slots[name]).device)
        )


def _run(node: Node, function: Function, inputs: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """The outputs of a node."""
    try:
        made = function(*inputs)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(f"expected torch to run node {node.name!r} ({node.op}), but it says: {reason}") from error
    outputs: tuple[Tensor, ...] = made if isinstance(made, tuple) else (made,)
    if len(outputs) < len(node.outputs):
        raise node.refuse(f"at most {len(outputs)} outputs", len(node.outputs))
    return outputs


def _last_reads(nodes: Sequence[Node], outputs: Sequence[str]) -> list[list[str]]:
    """The tensors that no node behind each node reads, and that are no outputs of the graph."""
    last: dict[str, int] = {}
    for number, node in enumerate(nodes):
        last |= dict.fromkeys((name for name in (*node.outputs, *node.inputs) if name), number)
    dead: list[list[str]] = [[] for _ in nodes]
    for name, number in last.items():
        if name not in outputs:
            dead[number].append(name)
    return dead
