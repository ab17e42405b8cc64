"""Which passes a target gets, and why."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """One pass of a policy and the measurement or the limit of the runtime that chose it."""

    name: str
    why: str


@dataclass(frozen=True)
class Policy:
    """The passes that a target gets, in order."""

    passes: tuple[Choice, ...]

    @property
    def names(self) -> list[str]:
        """The names of the passes, in order."""
        return [choice.name for choice in self.passes]
