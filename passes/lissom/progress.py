"""How long loops tell how far they are, without knowing who listens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Progress(Protocol):
    """Shows a loop as it advances; the command line draws a bar, the library nothing."""

    def __call__(self, items: Sequence[Item], what: str) -> Iterable[Item]:
        """The same items, told as they are taken."""
        ...


def silent(items: Sequence[Item], what: str) -> Iterable[Item]:
    """A `Progress` that shows nothing."""
    del what
    return items
