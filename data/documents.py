"""The tables beside token files: what every document is, and what every rejected file was.

Tables are written and read a piece at a time, since a corpus has more documents than memory.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.candidates import CANDIDATES

DOCUMENTS = "documents.parquet"
REJECTED = "rejected.parquet"
GROUP_BYTES = 4 * 2**20
"""How much of a table may wait before it is written down; a piece more at most."""

_IDENTITY = [CANDIDATES.field(name) for name in ("row", "path", "repository", "blob_id")]
KEPT_SCHEMA = pa.schema(
    [
        *_IDENTITY,
        *map(CANDIDATES.field, ("revision", "content_id", "licences")),
        # Of the text as it was encoded; the tokens include the end of text.
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("num_bytes", pa.int64(), nullable=False),
        pa.field("num_tokens", pa.int64(), nullable=False),
        # What stays together on one side of the split and in the order of the shards.
        pa.field("group", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
    ]
)
DROPPED_SCHEMA = pa.schema(
    [
        *_IDENTITY,
        pa.field("num_bytes", pa.int64(), nullable=False),
        pa.field("filter", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)
"""Both of one unit, which does not know its number: files that come before it change that."""
# The unit of the source that holds the file, in which it has its row.
_UNIT = pa.field("unit", pa.int64(), nullable=False)
DOCUMENT_SCHEMA, REJECTION_SCHEMA = (
    schema.insert(0, _UNIT) for schema in (KEPT_SCHEMA, DROPPED_SCHEMA)
)
ROW_DOCUMENT_SCHEMA = pa.schema(
    [
        # By which the tokens' table of documents knows it too.
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("num_tokens", pa.int64(), nullable=False),
    ]
)


class TableWriter:
    """Writes a parquet file piece by piece, in row groups of many pieces."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._waiting: list[pa.Table] = []
        self._waiting_bytes = 0
        self.schema = schema
        self.num_rows = 0

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def write(self, piece: pa.Table | pa.RecordBatch) -> None:
        """Append rows; columns come in the order of the schema."""
        self.num_rows += piece.num_rows
        columns = [piece[name].cast(self.schema.field(name).type) for name in self.schema.names]
        self._waiting.append(pa.table(columns, schema=self.schema))
        self._waiting_bytes += self._waiting[-1].nbytes
        if self._waiting_bytes >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        # A group costs milliseconds whatever is in it.
        group = pa.concat_tables([self.schema.empty_table(), *self._waiting])
        self._waiting, self._waiting_bytes = [], 0
        if group.num_rows:
            self._writer.write_table(group)


def read_pieces(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Read a table a bounded number of rows at a time."""
    # Buffering ahead would hold on to all that was read until the end.
    with pq.ParquetFile(path, pre_buffer=False) as file:
        yield from file.iter_batches(batch_size=1 << 16, columns=columns)


def read_beside(left: Path, right: Path) -> Iterator[pa.Table]:
    """Read two tables of equally many rows side by side, a bounded number of rows at a time."""
    others = read_pieces(right)
    rest = pq.read_schema(right).empty_table()
    for piece in read_pieces(left):
        while rest.num_rows < piece.num_rows:
            rest = pa.concat_tables([rest, pa.Table.from_batches([next(others)])])
        both = pa.Table.from_batches([piece])
        for name in rest.column_names:
            both = both.append_column(rest.schema.field(name), rest[name][: piece.num_rows])
        yield both
        rest = rest.slice(piece.num_rows)


def join(
    units: Sequence[Path], path: Path, schema: pa.Schema, look: Callable[[pa.RecordBatch], None]
) -> None:
    """Write the rows of the units' tables, in order, to one that numbers the units.

    `look` sees every piece.
    """
    with TableWriter(path, schema) as writer:
        for number, unit in enumerate(units):
            for piece in read_pieces(unit):
                numbers = pa.array(np.full(piece.num_rows, number, np.int64))
                whole = piece.append_column("unit", numbers)
                look(whole)
                writer.write(whole)
