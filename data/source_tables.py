"""Tables of rows as sources: parquet and JSON lines, one file a unit.

Files elsewhere are copied to a temporary directory for as long as they are read.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from data.candidates import BATCH_BYTES, SourceFile, SourceUnit
from data.source_columns import Columns, candidates, choose, numbered
from data.source_errors import CorruptSourceError, MissingColumnError
from data.source_places import Place, pins_sha256, verified
from data.units import Unit

MAX_BATCH_ROWS = 65_536
LIST_WRAPPERS = frozenset({"list", "element", "item", "bag", "array", "array_element"})
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


@dataclass(frozen=True, slots=True)
class TableSource:
    """Files of rows, in path order and row order."""

    place: Place
    files: tuple[SourceFile, ...]
    revision: str
    format: Literal["jsonl", "parquet"]
    alternatives: Mapping[str, tuple[str, ...]]
    """For every field of a candidate the columns that may hold it, the first that exists does."""
    needed: tuple[str, ...]
    language: str
    licence: str

    @property
    def units(self) -> tuple[SourceUnit, ...]:
        """Every file is one."""
        return tuple(SourceUnit(number, (file,)) for number, file in enumerate(self.files))

    @property
    def sha256(self) -> str:
        """Digest of revision, paths and contents."""
        return pins_sha256(self.revision, self.files)

    @property
    def bare(self) -> "TableSource":
        """The source without its list."""
        return replace(self, files=())

    @property
    def max_missing_share(self) -> float:
        """What a cell lacks is for the filters to count."""
        return 1.0

    def inputs(self, unit: SourceUnit) -> tuple[Unit, ...]:
        """Nothing has to be fetched beforehand."""
        del unit
        return ()

    def read(self, unit: SourceUnit, *inputs: Path) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a file, those of the language if one is asked for.

        Raises: ChangedSourceError, CorruptSourceError, MissingColumnError.
        """
        del inputs
        with verified(self.place, unit.files[0]) as path:
            where = self.place.where(unit.files[0].path)
            read = self._parquet if self.format == "parquet" else self._json
            tables = read(path, where)
            yield from numbered(tables)

    def _parquet(self, path: Path, where: str) -> Iterator[pa.Table]:
        with open_parquet(path, where) as file:
            columns = self._columns(file.schema_arrow, where)
            yield from (candidates(b, columns, where) for b in batches(file, columns.read))

    def _json(self, path: Path, where: str) -> Iterator[pa.Table]:
        columns: Columns | None = None
        for batch in _json_batches(path, where, [names[0] for names in self.alternatives.values()]):
            columns = columns or self._columns(batch.schema, where)
            yield candidates(batch, columns, where)

    def _columns(self, schema: pa.Schema, where: str) -> Columns:
        names = choose(schema, self.alternatives, self.needed, where)
        language = names.pop("language", "") if self.language else ""
        return Columns(names, language, self.language, self.licence)


@contextmanager
def open_parquet(source: Path | IO[bytes], where: str) -> Iterator[pq.ParquetFile]:
    """Open a parquet file; what goes wrong with its content, also later on, names the file.

    Raises: CorruptSourceError.
    """
    try:
        is_local = isinstance(source, Path)
        # Buffering ahead saves questions to a server, and holds on to all that was read.
        with pq.ParquetFile(source, memory_map=is_local, pre_buffer=not is_local) as file:
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        # The last is a column whose name is no UTF-8.
        if getattr(error, "errno", None):
            raise
        raise CorruptSourceError(where, brief(error), "a whole parquet file") from error


def batches(
    file: pq.ParquetFile, names: tuple[str, ...], groups: Sequence[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield batches of about the same bytes as a batch of candidates, with the columns' leaves.

    They are of all row groups unless some are given.
    """
    metadata = file.metadata
    num_bytes = sum(metadata.row_group(n).total_byte_size for n in range(metadata.num_row_groups))
    rows = metadata.num_rows * BATCH_BYTES // max(num_bytes, 1)
    leaves = leaf_columns(file, names)
    size = min(max(rows, 1), MAX_BATCH_ROWS)
    yield from file.iter_batches(size, row_groups=groups, columns=leaves)


def leaf_columns(file: pq.ParquetFile, names: tuple[str, ...]) -> list[str]:
    """Return the parquet columns that hold the named columns.

    Their paths hold steps for every list, whose names depend on the writer.
    """
    paths = [file.schema.column(n).path for n in range(len(file.schema))]
    return [path for path in paths if any(_leads_to(path, name) for name in names)]


def brief(error: Exception) -> str:
    """Return the beginning of what a library says, in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _leads_to(path: str, name: str) -> bool:
    if path == name or path.startswith(f"{name}."):
        return True
    steps, wanted = path.split("."), name.split(".")
    plain = [step for step in steps if step not in LIST_WRAPPERS or step in wanted]
    return plain[: len(wanted)] == wanted


def _json_batches(path: Path, where: str, names: list[str]) -> Iterator[pa.RecordBatch]:
    rows: list[dict[str, Any]] = []
    num_bytes, is_first = 0, True
    for number, line in enumerate(_lines(path, where), 1):
        if not line.strip():
            continue
        rows.append(_parse(line, f"{where}:{number}"))
        num_bytes += len(line)
        if is_first:
            _refuse_missing(rows[0], names, f"{where}:{number}")
            is_first = False
        if num_bytes >= BATCH_BYTES:
            yield _json_batch(rows, names, f"{where}:{number}")
            rows, num_bytes = [], 0
    if rows:
        yield _json_batch(rows, names, f"{where}:{number}")


def _lines(path: Path, where: str) -> Iterator[bytes]:
    compression = COMPRESSIONS.get(path.suffix)
    try:
        with pa.input_stream(str(path), compression=compression, buffer_size=2**20) as stream:
            rest = b""
            while chunk := stream.read(2**20):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from lines
            if rest:
                yield rest
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None):
            raise
        raise CorruptSourceError(where, brief(error), f"whole {compression}") from error


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = orjson.loads(line)
    except ValueError:
        row = _parse_leniently(line, where)
    if not isinstance(row, dict):
        raise CorruptSourceError(where, f"a JSON {type(row).__name__}", "a JSON object")
    return row


def _parse_leniently(line: bytes, where: str) -> Any:
    """Parse what orjson refuses and others write: NaN, and halves of surrogate pairs."""
    try:
        return json.loads(line)
    except ValueError as error:
        raise CorruptSourceError(where, brief(error), "one JSON object a line") from error


def _refuse_missing(row: dict[str, Any], names: list[str], where: str) -> None:
    """Refuse a first row without a column; later rows may leave out what is null."""
    for name in names:
        if name not in row:
            raise MissingColumnError(where, name, tuple(row))


def _json_batch(rows: list[dict[str, Any]], names: list[str], where: str) -> pa.RecordBatch:
    return pa.record_batch(
        [_json_array([row.get(name) for row in rows], name, where) for name in names], names=names
    )


def _json_array(values: list[Any], name: str, where: str) -> pa.Array:
    """Return text as bytes, since half a surrogate pair has no other form, or lists of texts."""
    try:
        if any(isinstance(value, list) for value in values):
            return pa.array(values, pa.list_(pa.string()))
        encoded = [v if v is None else v.encode("utf-8", "surrogatepass") for v in values]
        return pa.array(encoded, pa.large_binary())
    except (pa.ArrowException, AttributeError, TypeError, UnicodeError) as error:
        found = next(type(v).__name__ for v in values if not isinstance(v, str | None))
        raise CorruptSourceError(where, f"{name} is {found} up to here", "text or null") from error
