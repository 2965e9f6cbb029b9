"""onnxruntime's errors, put in one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from lissom_runtime.errors import LissomError, LoadError

_CODE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_SOURCE = re.compile(r"\S+\.(?:cc|h|cpp):\d+ (?:\S+ )*?[\w:~<>]+\([^)]*\)[^:]*? (?=\S)")


def plain(error: Exception) -> str:
    """The message of an onnxruntime error on one line, without its code, source files and function names."""
    words = " ".join(str(error).split())
    return _SOURCE.sub("", _CODE.sub("", words)).rstrip(".")


@contextmanager
def reported(expected: str) -> Iterator[None]:
    """Turns any error inside into a `LoadError` that says what was expected and what onnxruntime answered.

    Raises:
        LoadError: the body raised something that is not lissom's own.
    """
    try:
        yield
    except LissomError:
        raise
    except Exception as error:  # onnxruntime's errors have no narrower common base
        raise LoadError(f"{expected}, got: {plain(error)}") from error
