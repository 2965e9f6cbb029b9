"""`MODULE:FUNCTION`: the user's own code, named on a command line."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

from lissom_runtime.errors import UsageError


def load_function(words: str) -> Callable[..., Any]:
    """The function that `words` names, with modules looked up in the working directory too, as `python -m` does.

    Raises:
        UsageError: the form is wrong, the module cannot be imported, or it has no such function.
    """
    module_name, _, function_name = words.partition(":")
    if not module_name or not function_name:
        raise UsageError(f"expected MODULE:FUNCTION, got {words!r}")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # an import runs any code, and may raise anything
        raise UsageError(f"expected to import {module_name!r} for {words!r}, got: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UsageError(f"expected a function {function_name!r} in {module_name!r}, got {function!r}")
    return function  # type: ignore[no-any-return]  # callable() narrows an attribute of a module to Any
