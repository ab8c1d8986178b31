"""What a corpus consists of: counted from the tables of its documents and rejections."""

from collections import Counter

import pyarrow as pa


class Account:
    """Counts that grow with every piece of a table."""

    def __init__(self) -> None:
        self.num_documents: Counter[str] = Counter()
        self.num_tokens: Counter[str] = Counter()
        self.num_bytes = 0
        self.by_filter: Counter[str] = Counter()
        self.documents_by_licence: Counter[str] = Counter()
        self.bytes_by_licence: Counter[str] = Counter()

    @property
    def num_all(self) -> int:
        """Number of documents on both sides."""
        return self.num_documents.total()

    @property
    def num_rejected(self) -> int:
        """Number of rejections by all filters."""
        return self.by_filter.total()

    def documents(self, piece: pa.RecordBatch) -> None:
        """Count documents, by the side of the split and by licence."""
        names = ("split", "licences", "num_bytes", "num_tokens")
        columns = (piece[name].to_pylist() for name in names)
        for split, licences, num_bytes, num_tokens in zip(*columns, strict=True):
            licence = licence_name(licences)
            self.num_documents[split] += 1
            self.num_tokens[split] += num_tokens
            self.num_bytes += num_bytes
            self.documents_by_licence[licence] += 1
            self.bytes_by_licence[licence] += num_bytes

    def rejections(self, piece: pa.RecordBatch) -> None:
        """Count rejections by filter."""
        self.by_filter.update(piece["filter"].to_pylist())


def licence_name(licences: list[str]) -> str:
    """Name the licences of a document as one."""
    return " AND ".join(sorted(licences)) or "none"
