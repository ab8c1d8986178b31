"""Which documents are held out: decided by content, so that no document is on both sides."""

import hashlib
from dataclasses import dataclass
from typing import Literal, TypeAlias

SplitName: TypeAlias = Literal["train", "val"]
SPLITS: tuple[SplitName, ...] = ("train", "val")
GroupBy: TypeAlias = Literal["document", "repository"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdout:
    """How much is held out, and what is held out as one."""

    validation_fraction: float
    seed: int
    group_by: GroupBy

    def group(self, sha256: str, repository: str) -> str:
        """Name what a document stays together with: its repository, or itself alone."""
        return repository if self.group_by == "repository" and repository else sha256

    def side(self, group: str) -> SplitName:
        """Name the side that a group of documents is on."""
        return "val" if is_chosen(group, self.validation_fraction, self.seed) else "train"


def is_chosen(name: str, share: float, seed: int = 0) -> bool:
    """Tell whether a name is among a pseudo-random share of all names.

    The decision depends on nothing else, so that it survives a growing corpus.
    """
    keyed = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(keyed[:8], "big") < share * 2**64
