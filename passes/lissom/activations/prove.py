"""Whether a network with masks computes what was planned.

A mask decides: an activation that lies on its threshold passes in one order of summation and not in another. On some
inputs such a decision tips, and what comes of it is no rounding. A defect of the surgery does not depend on the input.
So what must hold is tried on up to `TRIES` inputs, and holds if it does on one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from lissom_runtime.errors import VerificationError

from lissom.data import Feeds

TRIES = 8
"""Inputs that are tried."""

Value = TypeVar("Value")


def on_some(check: Callable[[Feeds], Value], inputs: Iterable[Feeds]) -> Value:
    """What a check gives on the first of some inputs that passes it.

    Raises:
        VerificationError: none of the first `TRIES` does; the message is of the first.
    """
    first: VerificationError | None = None
    for feeds in islice(inputs, TRIES):
        try:
            return check(feeds)
        except VerificationError as error:
            first = first or error
    assert first is not None
    raise first


def like(feeds: Feeds, batches: Sequence[Feeds]) -> Iterator[Feeds]:
    """An input, and as many samples as it has from the beginning of each batch."""
    yield feeds
    size = len(next(iter(feeds.values())))
    for batch in batches:
        yield {name: values[:size] for name, values in batch.items()}
