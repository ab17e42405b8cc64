"""Errors that are for the user: one line of what is wrong, one of how to mend it, and an exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from deploy_kit.outcome import Outcome


class DeployKitError(Exception):
    """Something that the user can understand and mend.

    ``str(error)`` says what is wrong; ``fix`` says what to do about it, or is empty.
    """

    exit_code = 1

    def __init__(self, message: str, *, fix: str = ""):
        super().__init__(message)
        self.fix = fix


class UserError(DeployKitError):
    """What was asked for cannot be: a wrong name, shape, file or option."""

    exit_code = 2


class MissingDependencyError(UserError):
    """An optional package or program is needed and not installed; ``fix`` holds the command for it."""

    outcome = Outcome.UNAVAILABLE


class ExportError(DeployKitError):
    """A stage of an export failed; the message names the stage, the model and the target."""

    def __init__(self, message: str, *, fix: str = "", outcome: Outcome = Outcome.EXPORT_FAILED):
        super().__init__(message, fix=fix)
        self.outcome = outcome


class ProofError(DeployKitError):
    """An artifact does not compute what its model computes, or loses more than its precision may."""

    def __init__(self, message: str, *, fix: str = "", outcome: Outcome = Outcome.MISMATCH):
        super().__init__(message, fix=fix)
        self.outcome = outcome


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """A `UserError` for a name that is not in ``known``, suggesting the nearest ones."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    listed = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
    return UserError(f"there is no {kind} called {name!r}", fix=listed)
