"""Units of work: one input, one output directory, done or not done.

A stage says what its units are; who makes them, in how many processes or on which machines, is the
business of the caller. A unit is known by all that determines its output, so that one that exists
need not be made again, whoever made it and for whatever stage.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Given:
    """An input that is no unit: a directory, and the name that its content goes by."""

    name: str
    directory: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One piece of a stage's work.

    `make(out, *inputs, *aside)` fills the empty directory `out`; it gets the directories of what
    it needs. It must be picklable: a module's function, or a `functools.partial` of one.
    """

    recipe: Mapping[str, Any]
    """Kind, version and settings, as plain values: with the inputs, all that determines `out`."""
    label: str
    make: Callable[..., None]
    inputs: "tuple[Unit | Given, ...]" = ()
    aside: "tuple[Unit | Given, ...]" = ()
    """What only a part of matters here: the recipe holds the digest of that part instead."""
    count_tokens: Callable[[Path], int] | None = None
    """Counts the tokens in `out`, also while it is being made; picklable, for whoever watches."""


class MakeUnits(Protocol):
    """Makes those units that do not exist yet; `what` is what a person would call the kind."""

    def __call__(self, what: str, units: Sequence[Unit]) -> list[Path]:
        """Return the directories of all, in order."""

    def somewhere(self, what: str, units: Sequence[Unit]) -> None:
        """Make units that are needed by other units alone, wherever those are made."""
