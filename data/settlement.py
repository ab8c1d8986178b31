"""Settlement: what only the whole corpus can tell about a document.

Which documents were opted out, which are copies of an earlier one, and which stay together. Units
are looked at in order, so that the survivor of several copies is the first of them, whatever made
the units. Memory holds some 20 bytes for each document of the corpus, and a working set.

Legend: D documents of all units, in order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data.digests import file_sha256
from data.documents import DOCUMENTS, TableWriter, read_pieces
from data.duplicates import Numbers, everybody, exact_duplicates, near_duplicates
from data.filter_settings import FilterSettings
from data.intake import DIGESTS, SIGNATURES
from data.removals import FIELDS, Removals
from data.split import Holdout

VERSION = 2
DIGESTS_OF_DECISIONS = "decisions.sha256"
OPTED_OUT, EXACT, NEAR = "opted_out", "duplicate", "near_duplicate"
DECISIONS = pa.schema(
    [
        # Empty for a document that is kept.
        pa.field("filter", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        # What stays together on one side of the split.
        pa.field("group", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Settlement:
    """Which document each one is a copy of: itself where it is none."""

    removed_D: NDArray[np.bool_]
    exact_D: Numbers
    near_D: Numbers
    jaccard_D: NDArray[np.float32]
    """Estimated Jaccard similarity with the document that `near_D` names."""
    start: int = 0
    """The first of the documents."""

    def part(self, start: int, stop: int) -> "Settlement":
        """Return what is known about a range of the documents."""
        chosen = slice(start, stop)
        return Settlement(
            self.removed_D[chosen],
            self.exact_D[chosen],
            self.near_D[chosen],
            self.jaccard_D[chosen],
            start,
        )

    def copies(self, first_D: Numbers) -> NDArray[np.int64]:
        """Find the documents that are a copy of another one, counted from the first."""
        return np.flatnonzero(first_D != np.arange(self.start, self.start + len(first_D)))


class Leaders:
    """Names documents by their digests, in whatever unit they are."""

    def __init__(self, units: Sequence[Path]) -> None:
        self._digests = _digests(units)
        self._starts = np.cumsum([0] + [len(each) for each in self._digests])

    def sha256(self, document: int) -> str:
        """Return the digest of a document in hex."""
        number = int(np.searchsorted(self._starts, document, side="right")) - 1
        return str(self._digests[number][document - int(self._starts[number])].tobytes().hex())


def settle(
    units: Sequence[Path], filters: FilterSettings, removals: Removals, *, scratch: Path
) -> Settlement:
    """Look for what was opted out, then for copies among the rest.

    The directory `scratch` takes what does not fit into memory.
    """
    removed_D = np.concatenate([_removed(unit, removals) for unit in units])
    exact_D = exact_duplicates(_digests(units), ~removed_D)
    itself_D = everybody(len(removed_D))
    if filters.near_duplicates == "off":
        return Settlement(removed_D, exact_D, itself_D, np.ones(len(itself_D), np.float32))
    alone_D = ~removed_D & (exact_D == itself_D)
    del itself_D
    sketches = [np.load(unit / SIGNATURES, mmap_mode="r") for unit in units]
    near_D, jaccard_D = near_duplicates(
        sketches, filters.near_duplicate_jaccard, alone_D, scratch=scratch
    )
    return Settlement(removed_D, exact_D, near_D, jaccard_D)


def settle_units(
    out: Path,
    *taken: Path,
    filters: FilterSettings,
    removals: Removals,
    holdout: Holdout,
) -> None:
    """Decide about every document of every unit; write a table a unit, and the digest of each."""
    settled, start = settle(taken, filters, removals, scratch=out), 0
    leaders, digests = Leaders(taken), []
    for number, unit in enumerate(taken):
        path = out / decisions_file(number)
        with TableWriter(path, DECISIONS) as writer:
            for documents in _identities(unit):
                part = settled.part(start, start + len(documents))
                near = filters.near_duplicates
                writer.write(_decisions(documents, part, leaders, near, removals, holdout))
                start += len(documents)
        digests.append(file_sha256(path))
    (out / DIGESTS_OF_DECISIONS).write_text("".join(f"{digest}\n" for digest in digests))


def decisions_file(number: int) -> str:
    """Name the table of decisions about a unit."""
    return f"decisions-{number:05d}.parquet"


def _decisions(
    documents: pa.RecordBatch,
    part: Settlement,
    leaders: Leaders,
    near: str,
    removals: Removals,
    holdout: Holdout,
) -> pa.Table:
    filters, details = [""] * len(documents), removals.details(documents)
    own = (documents[name].to_pylist() for name in ("sha256", "repository"))
    groups = [holdout.group(*names) for names in zip(*own, strict=True)]
    for place in part.copies(part.near_D):
        leader = leaders.sha256(int(part.near_D[place]))
        if near == "drop":
            filters[place] = NEAR
            details[place] = f"Jaccard {part.jaccard_D[place]:.2f} with {leader}"
        else:
            groups[place] = leader
    for place in part.copies(part.exact_D):
        filters[place] = EXACT
        details[place] = f"same text as {leaders.sha256(int(part.exact_D[place]))}"
    for place in np.flatnonzero(part.removed_D):
        filters[place] = OPTED_OUT
    return pa.table([filters, details, groups], schema=DECISIONS)


def _digests(units: Sequence[Path]) -> list[NDArray[np.uint8]]:
    return [np.load(unit / DIGESTS, mmap_mode="r") for unit in units]


def _identities(unit: Path) -> Iterator[pa.RecordBatch]:
    return read_pieces(unit / DOCUMENTS, FIELDS)


def _removed(unit: Path, removals: Removals) -> NDArray[np.bool_]:
    """Tell which documents of a unit were opted out; shapes: (D,)."""
    if not removals.names:
        return np.zeros(len(np.load(unit / DIGESTS, mmap_mode="r")), bool)
    details = (removals.details(documents) for documents in _identities(unit))
    return np.array([bool(detail) for piece in details for detail in piece], bool)
