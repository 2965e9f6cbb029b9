"""The errors that lissom raises on purpose, each with the exit code of the command line."""

from __future__ import annotations

from typing import ClassVar


class LissomError(Exception):
    """A condition that is explained in one sentence: what was expected, what came, where."""

    exit_code: ClassVar[int] = 2


class GoalMissed(LissomError):
    """The result is valid, but a goal or a budget was not reached (exit 1)."""

    exit_code = 1


class UsageError(LissomError):
    """A flag, a recipe, a path or the data given is not acceptable (exit 2)."""

    exit_code = 2


class LoadError(LissomError):
    """A model, a library or an execution provider cannot be loaded (exit 3)."""

    exit_code = 3


class VerificationError(LissomError):
    """The compressed model is not what the plan says it is (exit 4)."""

    exit_code = 4
