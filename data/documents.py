"""The tables beside token files: what every document is, and what every rejected file was."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data.filters import Rejection
from data.split import SplitName

DOCUMENTS = "documents.parquet"
REJECTED = "rejected.parquet"

DOCUMENT_SCHEMA = pa.schema(
    [
        pa.field("document", pa.int64(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("num_bytes", pa.int64(), nullable=False),
        pa.field("num_tokens", pa.int64(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("licence", pa.string(), nullable=False),
    ]
)
REJECTION_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("num_bytes", pa.int64(), nullable=False),
        pa.field("filter", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Document:
    """One document; `document` is its place in the token files, in which its source is spelt."""

    document: int
    path: str
    sha256: str
    num_bytes: int
    num_tokens: int
    """The end of text included."""
    split: SplitName
    licence: str


def write_documents(path: Path, documents: Iterable[Document]) -> None:
    """Write documents in the given order."""
    rows = [asdict(document) for document in documents]
    pq.write_table(pa.Table.from_pylist(rows, schema=DOCUMENT_SCHEMA), path)


def read_documents(path: Path) -> tuple[Document, ...]:
    """Read documents in the order in which they were written."""
    table = pq.read_table(path, schema=DOCUMENT_SCHEMA)
    return tuple(Document(**row) for row in table.to_pylist())


def write_rejections(path: Path, rejections: Iterable[Rejection]) -> None:
    """Write rejections in the given order."""
    rows = [asdict(rejection) for rejection in rejections]
    pq.write_table(pa.Table.from_pylist(rows, schema=REJECTION_SCHEMA), path)
