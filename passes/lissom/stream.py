"""A network that is run a part at a time, on calibration samples.

A `Stream` stands somewhere in a network: some nodes have run, and of what they gave it keeps what others still read.
`advance` runs the nodes that lie between there and the tensors that are asked for. Asked for tensors in topological
order, every node runs once, however many stops there are; a weight may be changed until the node that reads it runs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnx
from lissom_runtime.session import open_session, run_session

from lissom.graph.extract import part, reads

Array = npt.NDArray[Any]
Batch = TypeVar("Batch", bound=Mapping[str, Array])


class Stream:
    """A network between two of its nodes.

    Args:
        proto: the network; it may be changed behind the nodes that have run.
        batches: its inputs, batch by batch.

    Attributes:
        proto: the network.
        batches: the tensors that are kept, by name, of each batch.
    """

    def __init__(self, proto: onnx.ModelProto, batches: Sequence[Mapping[str, Array]]) -> None:
        self.proto = proto
        self.batches: list[dict[str, Array]] = [dict(feeds) for feeds in batches]
        self._outputs = {value.name for value in proto.graph.output}
        self._reads = [frozenset(reads(node)) for node in proto.graph.node]
        self._producer = {name: i for i, node in enumerate(proto.graph.node) for name in node.output if name}
        self._useful = self._before(self._outputs, frozenset())
        self._done: frozenset[int] = frozenset()

    def fork(self, proto: onnx.ModelProto) -> Stream:
        """A stream at the same place of another network, whose nodes and tensors have the same names."""
        twin = Stream(proto, self.batches)
        twin._done = self._done
        return twin

    def advance(self, wanted: Collection[str], later: Collection[str] = ()) -> None:
        """Runs what `wanted` need and has not run yet.

        Args:
            wanted: tensors that `batches` hold afterwards.
            later: tensors that will be asked for; they are kept once they are known.
        """
        fresh = self._before(wanted, self._done)
        done = self._done | fresh
        live = {name for i in self._useful - done for name in self._reads[i]} | self._outputs | {*wanted, *later}
        made = [name for i in sorted(fresh) for name in self.proto.graph.node[i].output if name in live]
        if made:
            read = {name for i in fresh for name in self._reads[i]}
            given = {name: value.dtype for name, value in self.batches[0].items() if name in read}
            session = open_session(part(self.proto, given, made).SerializeToString())
            for number, batch in enumerate(self.batches):
                values = run_session(session, {name: batch[name] for name in given}, made)
                kept = {name: value for name, value in batch.items() if name in live}
                self.batches[number] = kept | dict(zip(made, map(np.asarray, values), strict=True))
        self._done = done

    def kept_bytes(self) -> int:
        """Bytes of the tensors that are kept."""
        return sum(value.nbytes for batch in self.batches for value in batch.values())

    def _before(self, wanted: Collection[str], done: frozenset[int]) -> frozenset[int]:
        """Positions of the nodes that `wanted` need, without those that are done."""
        found: set[int] = set()
        waiting = list(wanted)
        while waiting:
            position = self._producer.get(waiting.pop())
            if position is not None and position not in found and position not in done:
                found.add(position)
                waiting.extend(self._reads[position])
        return frozenset(found)


def affordable_batches(
    proto: onnx.ModelProto, feeds: Mapping[str, Array], stops: Sequence[Collection[str]], most: int, limit: int
) -> int:
    """How many batches, 1 to `most`, a stream may have for its tensors to take at most `limit` bytes at any stop.

    Args:
        proto: the network.
        feeds: one batch, which is run ahead of the others to see.
        stops: the tensors that will be asked for, stop by stop.
        most: batches that there are.
        limit: bytes.
    """
    probe = Stream(proto, [feeds])
    peak = probe.kept_bytes()
    for number, wanted in enumerate(stops):
        probe.advance(wanted, set().union(*stops[number + 1 :]))
        peak = max(peak, probe.kept_bytes())
    return max(1, min(most, limit // max(peak, 1)))


def spread(batches: Sequence[Batch], most: int) -> list[Batch]:
    """At most `most` of some batches, evenly spaced."""
    most = min(most, len(batches))
    return [batches[number * len(batches) // most] for number in range(most)]
