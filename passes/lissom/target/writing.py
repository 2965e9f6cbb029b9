"""A `Target` as TOML, which Python reads and does not write.

Values come before tables, as TOML wants it; what is None is left out, because TOML has no word for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lissom_runtime.errors import UsageError

from lissom.files import write_text
from lissom.target.schema import Target

HEAD = "# A processor profile of lissom: docs/target.md says what the numbers mean. What is changed by hand counts.\n"


def to_toml(target: Target) -> str:
    """The target as a file; its name is the file's."""
    return HEAD + "\n".join(_lines(target.model_dump(mode="json", exclude={"name"}, exclude_none=True), "")) + "\n"


def write_target(target: Target, path: Path) -> None:
    """Writes the file, whole or not at all.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        write_text(path, to_toml(target))
    except OSError as error:
        raise UsageError(f"expected to write {path}, but got: {error.strerror}") from error


def _lines(table: Mapping[str, Any], path: str) -> Iterator[str]:
    tables = {key: value for key, value in table.items() if _is_table(value) or _is_tables(value)}
    yield from (f"{key} = {_value(value)}" for key, value in table.items() if key not in tables)
    for key, value in tables.items():
        name = f"{path}{key}"
        for entry in value if _is_tables(value) else [value]:
            yield ""
            yield f"[[{name}]]" if _is_tables(value) else f"[{name}]"
            yield from _lines(entry, f"{name}.")


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_table(entry) for entry in value)


def _value(value: object) -> str:
    """Booleans, numbers, strings and arrays of them; JSON writes them as TOML does, but for one control character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
