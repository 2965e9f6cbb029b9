"""Which layers the user asked for."""

from __future__ import annotations

import re


def not_asked_for(name: str, include: str | None, exclude: str | None) -> str | None:
    """Why the user's regular expressions leave the layer `name` out, or None."""
    if include is not None and not re.search(include, name):
        return f"--include {include!r} does not find its name"
    if exclude is not None and re.search(exclude, name):
        return f"--exclude {exclude!r} finds its name"
    return None
