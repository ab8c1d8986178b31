"""The tables beside token files: what every document is, and what every rejected file was.

Tables are written and read a piece at a time, since a corpus has more documents than memory.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from data.candidates import CANDIDATES

DOCUMENTS = "documents.parquet"
REJECTED = "rejected.parquet"
GROUP_ROWS = 1 << 14
"""Rows after which a table writes down what waits; a piece more at most."""

_IDENTITY = [
    # The unit of the source that holds the file, and its place there.
    pa.field("unit", pa.int64(), nullable=False),
    *map(CANDIDATES.field, ("row", "path", "repository", "blob_id")),
]
DOCUMENT_SCHEMA = pa.schema(
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
REJECTION_SCHEMA = pa.schema(
    [
        *_IDENTITY,
        pa.field("num_bytes", pa.int64(), nullable=False),
        pa.field("filter", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
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
        if sum(waiting.num_rows for waiting in self._waiting) >= GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        # A group costs milliseconds whatever is in it.
        group = pa.concat_tables([self.schema.empty_table(), *self._waiting])
        self._waiting.clear()
        if group.num_rows:
            self._writer.write_table(group)


def read_pieces(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Read a table a bounded number of rows at a time."""
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=1 << 16, columns=columns)


def join(
    parts: Sequence[Path], path: Path, schema: pa.Schema, look: Callable[[pa.RecordBatch], None]
) -> None:
    """Write the rows of several tables, in order, to one; `look` sees every piece."""
    with TableWriter(path, schema) as writer:
        for part in parts:
            for piece in read_pieces(part):
                look(piece)
                writer.write(piece)
