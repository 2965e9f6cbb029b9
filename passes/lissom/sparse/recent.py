"""What was found lately for arrays of the same content: the probes and rounds of one layer share what costs most."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from lissom.sparse.blocks import Array

_Value = TypeVar("_Value")


class Recent(Generic[_Value]):
    """Values by the content that they were made of; beyond some bytes the least recent are forgotten.

    Args:
        most_bytes: of the values that are kept.
        size_of: bytes of one value.
    """

    def __init__(self, most_bytes: int, size_of: Callable[[_Value], int]) -> None:
        self._most = most_bytes
        self._size_of = size_of
        self._known: OrderedDict[bytes, _Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, arrays: tuple[Array, ...], words: object, make: Callable[[], _Value]) -> _Value:
        """The value of `arrays` and `words` (told apart by their repr), made if it is not known."""
        digest = hashlib.blake2b(repr(words).encode(), digest_size=32)
        for array in arrays:
            digest.update(repr((array.shape, array.dtype.str)).encode())
            digest.update(array.tobytes())
        key = digest.digest()
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        value = make()
        with self._lock:
            self._known[key] = value
            while len(self._known) > 1 and sum(map(self._size_of, self._known.values())) > self._most:
                self._known.popitem(last=False)
        return value
