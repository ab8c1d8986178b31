"""The Stack v2: index files that list blobs of the Software Heritage archive.

Rows are files (`the-stack-v2`, `the-stack-v2-dedup`) or repositories with nested files
(`the-stack-v2-train-full-ids`, `the-stack-v2-train-smol-ids`); the columns tell which. A unit is a
range of rows of one index file, cut where the listed lengths of the language have filled it, and
has to be fetched before it can be read. License types stand where no licence was detected.

Shapes: R rows of an index file, F listed files.
"""

import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data.candidates import SourceFile, SourceUnit
from data.fetch import CONTENTS, Fetching, FetchJob, fetch_unit, read_account, refuse_incomplete
from data.source_columns import Columns, candidates, choose, flat, is_in_language, selected
from data.source_errors import EmptyLanguageError
from data.source_places import Place, check_digest, pins_sha256
from data.source_tables import batches, leaf_columns, open_parquet
from data.units import Unit

OPENING_THREADS = 8
FIELDS = {
    "path": ("path", "files.path"),
    "repository": ("repo_name",),
    "revision": ("revision_id",),
    "blob_id": ("blob_id", "files.blob_id"),
    "content_id": ("content_id", "files.content_id"),
    "licences": ("detected_licenses", "files.detected_licenses"),
    "is_vendored": ("is_vendor", "files.is_vendor"),
    "is_generated": ("is_generated", "files.is_generated"),
    "encoding": ("src_encoding", "files.src_encoding"),
    "language": ("language", "files.language"),
    "license_type": ("license_type", "files.license_type"),
    "length": ("length_bytes", "files.length_bytes"),
}
NO_CANDIDATE = ("language", "license_type", "length")
NEEDED = ("path", "blob_id", "language", "length", "encoding")


@dataclass(frozen=True, slots=True)
class IndexRange:
    """Rows of an index file that are one unit."""

    file: SourceFile
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class StackV2Source:
    """Ranges of index files in path order and row order."""

    place: Place
    files: tuple[SourceFile, ...]
    ranges: tuple[IndexRange, ...]
    revision: str
    job: FetchJob
    fetching: Fetching

    @property
    def units(self) -> tuple[SourceUnit, ...]:
        """Every range of rows is one."""
        return tuple(SourceUnit(number, (r.file,)) for number, r in enumerate(self.ranges))

    @property
    def sha256(self) -> str:
        """Digest of revision, paths and contents of the index files."""
        return pins_sha256(self.revision, self.files)

    @property
    def bare(self) -> "StackV2Source":
        """The source without its list."""
        return replace(self, files=(), ranges=())

    @property
    def max_missing_share(self) -> float:
        """That of the settings."""
        return self.job.max_missing_share

    def inputs(self, unit: SourceUnit) -> tuple[Unit, ...]:
        """Return the fetch of the unit's blobs; an index from elsewhere is a unit of its own."""
        found = self.ranges[unit.number]
        rows = {"index_sha256": found.file.sha256, "start": found.start, "stop": found.stop}
        label = f"{found.file.path} rows {found.start}-{found.stop}"
        index = () if self.place.is_local else (self._index_unit(found.file),)
        path = self.place.local(found.file.path, Path()) if self.place.is_local else None
        make = partial(make_fetch, self.job, self.fetching, found, path, label)
        return (Unit(recipe={**self.job.recipe, **rows}, label=label, make=make, inputs=index),)

    def read(self, unit: SourceUnit, *inputs: Path) -> Iterator[pa.RecordBatch]:
        """Yield the listed files of the language with what was fetched of them.

        Raises: CorruptSourceError, FetchIncompleteError.
        """
        (fetched,) = inputs
        label = f"{unit.files[0].path} (unit {unit.number})"
        refuse_incomplete(read_account(fetched), self.job.max_missing_share, label)
        path = fetched / CONTENTS
        with open_parquet(path, str(path)) as file:
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group).combine_chunks().to_batches()

    def _index_unit(self, file: SourceFile) -> Unit:
        recipe = {"kind": "source file", "version": 1, "sha256": file.sha256}
        return Unit(recipe=recipe, label=file.path, make=partial(copy_file, self.place, file))


def open_stack_v2(
    place: Place,
    files: tuple[SourceFile, ...],
    revision: str,
    job: FetchJob,
    unit_bytes: int,
    fetching: Fetching,
) -> StackV2Source:
    """Cut the index files into units.

    Raises: EmptyLanguageError, MissingColumnError, CorruptSourceError, and what the place raises.
    """
    with ThreadPoolExecutor(OPENING_THREADS) as threads:
        cut = threads.map(lambda file: _cut(place, file, job.language, unit_bytes), files)
        found = list(cut)
    ranges = tuple(r for ranges, _ in found for r in ranges)
    if not ranges:
        languages = sorted({language for _, there in found for language in there})
        raise EmptyLanguageError(place.name, job.language, tuple(languages))
    return StackV2Source(place, files, ranges, revision, job, fetching)


def make_fetch(
    job: FetchJob,
    fetching: Fetching,
    rows: IndexRange,
    local: Path | None,
    label: str,
    out: Path,
    *inputs: Path,
) -> None:
    """Fetch the blobs of a range; the index is local, or else the input.

    Raises: ChangedSourceError, CorruptSourceError, MissingColumnError, and what `fetch_unit` does.
    """
    path = local or inputs[0] / Path(rows.file.path).name
    check_digest(path, rows.file, str(path))
    fetch_unit(job, fetching, read_index(path, job.language, rows.start, rows.stop), label, out)


def copy_file(place: Place, file: SourceFile, out: Path) -> None:
    """Copy a pinned file into a unit's directory.

    Raises: ChangedSourceError, and what the place raises.
    """
    with tempfile.TemporaryDirectory(dir=out) as directory:
        copied = place.local(file.path, Path(directory))
        check_digest(copied, file, place.where(file.path)).rename(out / copied.name)


def read_index(path: Path, language: str, start: int, stop: int) -> pa.Table:
    """Return the listed files of a language in a range of rows, as candidates without content.

    Their listed length is in a column of its own.

    Raises: CorruptSourceError, MissingColumnError.
    """
    parts: list[pa.Table] = []
    with open_parquet(path, str(path)) as file:
        names = choose(file.schema_arrow, FIELDS, NEEDED, str(path))
        groups, row = _groups(file.metadata, start, stop)
        for batch in batches(file, tuple(names.values()), groups):
            first, last = max(start - row, 0), min(stop - row, len(batch))
            row += len(batch)
            if first < last:
                parts.append(_listed(batch.slice(first, last - first), names, language, str(path)))
    return pa.concat_tables(parts)


def _groups(metadata: pq.FileMetaData, start: int, stop: int) -> tuple[list[int], int]:
    """Return the row groups that hold a range of rows, and the first row that they hold."""
    sizes = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
    stops = list(accumulate(sizes))
    firsts = [end - size for end, size in zip(stops, sizes, strict=True)]
    held = [n for n in range(len(sizes)) if firsts[n] < stop and stops[n] > start]
    return held, firsts[held[0]]


def _listed(batch: pa.RecordBatch, names: Mapping[str, str], language: str, where: str) -> pa.Table:
    fields = {field: name for field, name in names.items() if field not in NO_CANDIDATE}
    columns = Columns(fields, names["language"], language)
    table = candidates(batch, columns, where)
    wanted = [names[field] for field in NO_CANDIDATE if field in names]
    arrays = flat(batch, wanted, where)
    chosen = selected(arrays, columns)
    lengths = arrays[names["length"]].filter(chosen).cast(pa.int64())
    if "license_type" in names:
        kinds = arrays[names["license_type"]].filter(chosen).to_pylist()
        at, kept = table.schema.get_field_index("licences"), table.schema.field("licences")
        table = table.set_column(at, kept, _licences(table["licences"], kinds))
    return table.append_column("length_bytes", lengths)


def _licences(detected: pa.ChunkedArray, kinds: list[str | None]) -> pa.Array:
    """Where no licence was detected, a license type stands that says that there is one."""
    found = [
        licences or ([kind] if kind and kind != "no_license" else [])
        for licences, kind in zip(detected.to_pylist(), kinds, strict=True)
    ]
    return pa.array(found, detected.type)


def _cut(
    place: Place, file: SourceFile, language: str, unit_bytes: int
) -> tuple[list[IndexRange], set[str]]:
    """Return the units of an index file, and some languages of a file that has none."""
    lengths_R, languages = _lengths(place, file, language)
    filled_R = lengths_R >= 0
    before_R = np.cumsum(np.maximum(lengths_R, 0)) - np.maximum(lengths_R, 0)
    (rows,) = np.nonzero(filled_R)
    if not len(rows):
        return [], languages
    _, firsts = np.unique(before_R[rows] // unit_bytes, return_index=True)
    starts = [int(rows[first]) for first in firsts]
    stops = [*starts[1:], int(rows[-1]) + 1]
    return [IndexRange(file, a, b) for a, b in zip(starts, stops, strict=True)], set()


def _lengths(place: Place, file: SourceFile, language: str) -> tuple[NDArray[np.int64], set[str]]:
    """Return for every row the bytes in the language, -1 where it has no file in it."""
    where = place.where(file.path)
    parts: list[NDArray[np.int64]] = []
    languages: set[str] = set()
    with place.open(file.path) as stream, open_parquet(stream, where) as parquet:
        names = choose(parquet.schema_arrow, FIELDS, NEEDED, where)
        wanted = (names["language"], names["length"])
        for batch in parquet.iter_batches(columns=leaf_columns(parquet, wanted)):
            row_numbers = pa.array(np.arange(len(batch)))
            arrays = flat(
                batch.append_column("row number", row_numbers), (*wanted, "row number"), where
            )
            found_F = arrays[names["language"]].cast(pa.string())
            languages.update(pc.unique(found_F.drop_null()).to_pylist()[:20])
            mine_F = is_in_language(found_F, language)
            rows_F = arrays["row number"].filter(mine_F).to_numpy()
            bytes_F = arrays[names["length"]].filter(mine_F).fill_null(0).to_numpy()
            lengths_R = np.full(len(batch), -1, np.int64)
            lengths_R[rows_F] = 0
            np.add.at(lengths_R, rows_F, bytes_F)
            parts.append(lengths_R)
    return np.concatenate(parts or [np.empty(0, np.int64)]), languages
