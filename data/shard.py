"""Tokens to rows: per split, shuffle documents, cut rows of equal length, shuffle the rows.

A row holds one token more than the context, so that it carries its own targets; no token is in
two rows. What does not fill a last row is dropped and counted. For each row the document of its
first position is kept; the document of position t is that one plus the ends of text before t.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.bounds import at_least
from data.documents import DOCUMENTS, Document, read_documents, write_documents
from data.errors import CorpusTooSmallError, CorruptTokensError, LeakError
from data.pretokenize import TOKENIZER, TokensIndex
from data.progress import Progress
from data.split import SplitName
from data.stream import Stream
from data.token_files import LITTLE_ENDIAN, DtypeName, TokenReader
from data.token_statistics import TokenCounter
from data.tokenizer import Tokenizer

VERSION = 1
ROW_DOCUMENTS = "row-documents.bin"
ROW_DOCUMENT_DTYPE = np.dtype("<u4")
BLOCK_TOKENS = 2**20
"""Tokens counted and written at a time; what a shard holds is never in memory as a whole."""
# The streams of random numbers: one for each split and purpose, all from one seed.
SPLIT_KEYS: dict[SplitName, int] = {"train": 0, "val": 1}
ORDER_DOCUMENTS, ORDER_ROWS = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSettings:
    """How long rows are, in which order they come, and how many of them make a file."""

    context_length: int
    seed: int
    shard_rows: int

    def __post_init__(self) -> None:
        """Refuse rows without a target and files without a row.

        Raises: WrongSettingError.
        """
        at_least("shard.context_length", self.context_length, 1)
        at_least("shard.seed", self.seed, 0)
        at_least("shard.shard_rows", self.shard_rows, 1)


@dataclass(frozen=True, slots=True)
class SplitIndex:
    """What the directory of one split holds.

    Units: `num_tokens` are those of the rows, `entropy_bits` is per token.
    """

    num_rows: int
    num_tokens: int
    num_documents: int
    dropped_tokens: int
    distinct_ids: int
    entropy_bits: float
    unk_ratio: float
    shards: tuple[tuple[str, int], ...]
    """Path and number of rows of each shard, in row order."""


@dataclass(frozen=True, slots=True)
class ShardsIndex:
    """What a shards directory holds."""

    vocab_size: int
    end_of_text_id: int
    dtype: DtypeName
    context_length: int
    train: SplitIndex
    val: SplitIndex


def shard(
    directory: Path,
    tokens: TokensIndex,
    settings: ShardSettings,
    *,
    out: Path,
    on_progress: Progress,
) -> ShardsIndex:
    """Write a shards directory from a tokens directory.

    Raises: CorruptTokensError, LeakError, CorpusTooSmallError, TokenOutOfRangeError.
    """
    documents = _documents(directory, tokens)
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(directory / TOKENIZER, out / TOKENIZER)
    reader = TokenReader(directory, tokens.token_files, tokens.dtype)
    unk_id = Tokenizer.load(out / TOKENIZER).unk_id

    def split(name: SplitName) -> SplitIndex:
        cutter = Cutter(name, tokens, settings, out, unk_id)
        return cutter.cut(reader, documents, on_progress)

    return ShardsIndex(
        vocab_size=tokens.vocab_size,
        end_of_text_id=tokens.end_of_text_id,
        dtype=tokens.dtype,
        context_length=settings.context_length,
        train=split("train"),
        val=split("val"),
    )


class Cutter:
    """Cuts one split into rows and writes them."""

    def __init__(
        self,
        split: SplitName,
        tokens: TokensIndex,
        settings: ShardSettings,
        out: Path,
        unk_id: int | None,
    ) -> None:
        self._split, self._settings, self._out, self._unk_id = split, settings, out, unk_id
        self._row_tokens = settings.context_length + 1
        self._dtype = LITTLE_ENDIAN[tokens.dtype]
        self._counter = TokenCounter(tokens.vocab_size, f"{split} rows")

    def cut(
        self, reader: TokenReader, documents: tuple[Document, ...], on_progress: Progress
    ) -> SplitIndex:
        """Write the documents of this split as shuffled rows."""
        (self._out / self._split).mkdir()
        stream, ordered = self._stream(reader, documents)
        num_rows, dropped_tokens = divmod(len(stream), self._row_tokens)
        if not num_rows:
            raise CorpusTooSmallError(self._split, len(stream), self._row_tokens)
        write_documents(self._out / self._split / DOCUMENTS, ordered)
        rows = self._generator(ORDER_ROWS).permutation(num_rows)
        self._write_row_documents(stream, rows)
        shards = tuple(self._write_shards(stream, rows, on_progress))
        found = self._counter.statistics(self._unk_id)
        return SplitIndex(
            num_rows=num_rows,
            num_tokens=found.num_tokens,
            num_documents=len(ordered),
            dropped_tokens=dropped_tokens,
            distinct_ids=found.distinct_ids,
            entropy_bits=found.entropy_bits,
            unk_ratio=found.unk_ratio,
            shards=shards,
        )

    def _generator(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self._settings.seed, SPLIT_KEYS[self._split], purpose])

    def _stream(
        self, reader: TokenReader, documents: tuple[Document, ...]
    ) -> tuple[Stream, list[Document]]:
        lengths = np.array([document.num_tokens for document in documents], dtype=np.int64)
        starts = np.cumsum(lengths) - lengths
        mine = np.flatnonzero([document.split == self._split for document in documents])
        order = self._generator(ORDER_DOCUMENTS).permutation(mine)
        ordered = [documents[number] for number in order]
        return Stream(reader, starts[order], lengths[order]), ordered

    def _write_row_documents(self, stream: Stream, rows: NDArray[np.int64]) -> None:
        first = [stream.document_at(int(row) * self._row_tokens) for row in rows]
        content = np.array(first, dtype=ROW_DOCUMENT_DTYPE).tobytes()
        (self._out / self._split / ROW_DOCUMENTS).write_bytes(content)

    def _write_shards(
        self, stream: Stream, rows: NDArray[np.int64], on_progress: Progress
    ) -> Iterator[tuple[str, int]]:
        step = self._settings.shard_rows
        for number, first in enumerate(range(0, len(rows), step)):
            path = f"{self._split}/shard-{number:05d}.bin"
            chosen = rows[first : first + step]
            with (self._out / path).open("xb") as file:
                for block in _blocks(chosen, BLOCK_TOKENS // self._row_tokens):
                    ids = self._read(stream, block)
                    self._counter.add(ids)
                    file.write(ids.astype(self._dtype).tobytes())
            on_progress(f"shard {self._split}", first + len(chosen), len(rows))
            yield path, len(chosen)

    def _read(self, stream: Stream, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        starts = (int(row) * self._row_tokens for row in rows)
        return np.concatenate([stream.read(at, at + self._row_tokens) for at in starts])


def _blocks(rows: NDArray[np.int64], num_rows: int) -> Iterator[NDArray[np.int64]]:
    step = max(num_rows, 1)
    return (rows[first : first + step] for first in range(0, len(rows), step))


def _documents(directory: Path, tokens: TokensIndex) -> tuple[Document, ...]:
    """Read the documents, refusing a table that contradicts the index or leaks."""
    path = directory / DOCUMENTS
    documents = read_documents(path)
    found = (len(documents), sum(document.num_tokens for document in documents))
    if found != (tokens.num_documents, tokens.num_tokens):
        expected = f"{tokens.num_documents} documents of {tokens.num_tokens} tokens"
        raise CorruptTokensError(path, f"{found[0]} documents of {found[1]} tokens", expected)
    train, val = (
        {document.sha256 for document in documents if document.split == split}
        for split in SPLIT_KEYS
    )
    if train & val:
        raise LeakError(path, len(train & val), min(train & val))
    return documents
