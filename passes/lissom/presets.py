"""TOML files that are asked for by path, or by name where they ship with lissom."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from lissom_runtime.errors import UsageError

SUFFIX = ".toml"


def names_in(folder: str) -> list[str]:
    """Names of the presets in `folder`, its parts below the package joined by "/"."""
    return sorted(entry.name.removesuffix(SUFFIX) for entry in _open(folder).iterdir() if entry.name.endswith(SUFFIX))


def read_toml(name_or_path: str, folder: str, what: str) -> dict[str, Any]:
    """What a preset or a file says, under "name" what it is called unless it says so itself.

    Args:
        name_or_path: a preset of `folder`, or a file.
        folder: where the presets are.
        what: is read, for errors.

    Raises:
        UsageError: there is no such preset or file, or it is no TOML.
    """
    names = names_in(folder)
    try:
        content = _read(name_or_path, folder, names)
    except (OSError, ValueError) as error:  # a path with a NUL is a ValueError
        raise UsageError(f"expected one of the {what}s {names} or a TOML file, but got {name_or_path!r}") from error
    try:
        return {"name": Path(name_or_path).stem, **tomllib.loads(content.decode("utf-8"))}
    except (ValueError, RecursionError) as error:  # of the parser, for numbers of thousands of digits too
        raise UsageError(f"expected a {what} in TOML, but {name_or_path!r} is not: {error}") from error


def _read(name_or_path: str, folder: str, names: Sequence[str]) -> bytes:
    if name_or_path in names:
        return (_open(folder) / f"{name_or_path}{SUFFIX}").read_bytes()
    return Path(name_or_path).read_bytes()


def _open(folder: str) -> Traversable:
    return resources.files("lissom").joinpath(*folder.split("/"))
