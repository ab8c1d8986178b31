"""Candidates: what a source holds, before anything is known about it.

A source is a fixed list of units, each with the digest of its files, and hands out the candidates
of a unit in a fixed order. What is a document among them, the filters decide.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from data.units import Unit

CANDIDATES = pa.schema(
    [
        # The place within the unit, counting every candidate, also those without content.
        pa.field("row", pa.int64(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        # Empty where the source knows none, like the fields that follow.
        pa.field("repository", pa.string(), nullable=False),
        pa.field("revision", pa.string(), nullable=False),
        # sha1 of the bytes and of the git blob, as Software Heritage names them.
        pa.field("blob_id", pa.string(), nullable=False),
        pa.field("content_id", pa.string(), nullable=False),
        # SPDX identifiers as the source gives them; none where it found none.
        pa.field(
            "licences", pa.list_(pa.field("item", pa.string(), nullable=False)), nullable=False
        ),
        pa.field("is_vendored", pa.bool_(), nullable=False),
        pa.field("is_generated", pa.bool_(), nullable=False),
        # The declared encoding of `content`, as a Python codec name.
        pa.field("encoding", pa.string(), nullable=False),
        # Null where the source lists a file that it could not give; `absence` says why.
        pa.field("content", pa.large_binary()),
        pa.field("absence", pa.string(), nullable=False),
    ]
)
BATCH_BYTES = 8 * 2**20
"""Content of one batch of candidates, unless a single one is larger."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One pinned file; `path` is POSIX and relative to the source's root."""

    path: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class SourceUnit:
    """The files that are read as one unit of work."""

    number: int
    files: tuple[SourceFile, ...]


class Source(Protocol):
    """What every source of candidates offers; picklable."""

    @property
    def units(self) -> tuple[SourceUnit, ...]:
        """Every unit, in order."""

    @property
    def sha256(self) -> str:
        """Digest of all that is pinned: revision, and path and sha256 of every file."""

    @property
    def bare(self) -> "Source":
        """A source that reads units as this one does and lists none: it travels light."""

    @property
    def max_missing_share(self) -> float:
        """The share of a unit's candidates that may be without content."""

    def inputs(self, unit: SourceUnit) -> tuple[Unit, ...]:
        """Units of work that must be done before this one can be read: what has to be fetched."""

    def read(self, unit: SourceUnit, *inputs: Path) -> Iterator[pa.RecordBatch]:
        """Yield the candidates of a unit, in the schema and the order that never change.

        `inputs` are the directories of `self.inputs(unit)`.

        Raises: ChangedSourceError, CorruptSourceError.
        """
