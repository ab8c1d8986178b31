"""Cut one shard: gather its documents, lay them out in rows, shuffle the rows, check the file.

Legend: M documents of the shard in the order of its stream, N rows, S tokens in a row.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data.documents import DOCUMENTS, ROW_DOCUMENT_SCHEMA, TableWriter
from data.errors import CorruptTokensError, RoundTripError
from data.packing import lay_out
from data.plan import ShardPlan
from data.split import SplitName, is_chosen
from data.token_files import LITTLE_ENDIAN, DtypeName, TokenReader
from data.token_statistics import DegenerateBounds, TokenCounter
from data.tokenizer import TOKENIZER, Tokenizer

VERSION = 1
ROWS, FIRST_DOCUMENTS = "rows.bin", "first.bin"
COUNTS, SIZES = "counts.npy", "sizes.npy"
FIRST_DOCUMENT_DTYPE = np.dtype("<u4")
BLOCK_TOKENS = 2**21
"""Tokens that are looked at, written or read back at a time."""

Packing: TypeAlias = Literal["concatenate", "whole"]
SPLIT_KEYS: dict[SplitName, int] = {"train": 0, "val": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class CutSettings:
    """How a shard is cut."""

    row_tokens: int
    packing: Packing
    seed: int
    round_trip_share: float
    bounds: DegenerateBounds


@dataclass(frozen=True, slots=True)
class TokenFiles:
    """How to read a tokens directory."""

    dtype: DtypeName
    token_files: tuple[tuple[str, int], ...]

    @property
    def width(self) -> np.dtype[Any]:
        """The type of an id on disk."""
        return LITTLE_ENDIAN[self.dtype]


@dataclass(frozen=True, slots=True)
class Layout:
    """The rows of a shard before they are shuffled."""

    rows_NS: NDArray[np.integer[Any]]
    order_M: NDArray[np.int64]
    """The planned documents in the order in which the rows hold them."""
    first_N: NDArray[np.int64]
    """For each row the place, in that order, of the document of its first position."""
    dropped_tokens: int


def cut(
    out: Path,
    plan: Path,
    tokens: Path,
    *,
    split: SplitName,
    number: int,
    files: TokenFiles,
    settings: CutSettings,
) -> None:
    """Write the rows of a shard, its documents, and what was counted.

    Raises: CorruptTokensError, TokenOutOfRangeError, DegenerateTokensError, RoundTripError.
    """
    tokenizer = Tokenizer.load(tokens / TOKENIZER)
    planned = ShardPlan.read(plan, split, number)
    layout = _lay_out(
        _gather(tokens, files, planned, tokenizer.end_of_text_id),
        planned.lengths_M,
        settings,
        tokenizer.end_of_text_id,
    )
    shuffle = np.random.default_rng([settings.seed, SPLIT_KEYS[split], number])
    shuffled_N = shuffle.permutation(len(layout.rows_NS))
    _write_rows(out / ROWS, layout.rows_NS, shuffled_N)
    layout.first_N[shuffled_N].astype(FIRST_DOCUMENT_DTYPE).tofile(out / FIRST_DOCUMENTS)
    order_M, dropped_tokens = layout.order_M, layout.dropped_tokens
    del layout
    _write_documents(out / DOCUMENTS, planned, order_M)
    counter = TokenCounter(tokenizer.vocab_size, f"{split} shard {number}")
    written = Written(out, files.width, settings.row_tokens, shuffled_N, tokenizer.end_of_text_id)
    for block in written.blocks():
        counter.add(block)
    np.save(out / COUNTS, counter.counts_V)
    np.save(out / SIZES, [len(shuffled_N), dropped_tokens])
    settings.bounds.refuse(counter.statistics(tokenizer.unk_id), counter.where)
    check_documents(written.blocks(), planned, order_M, tokenizer, settings.round_trip_share)


def tokens_cut(unit: Path) -> int:
    """Count the tokens in the rows of a shard, once they are counted."""
    # Written after them, so that they are complete.
    return int(np.load(unit / COUNTS).sum()) if (unit / SIZES).is_file() else 0


def _gather(
    tokens: Path, files: TokenFiles, planned: ShardPlan, end_of_text_id: int
) -> NDArray[np.integer[Any]]:
    """Read the documents of a shard into one stream, in the order in which they lie on disk."""
    reader = TokenReader(tokens, files.token_files, files.dtype)
    end_M = np.cumsum(planned.lengths_M)
    stream = np.empty(int(planned.lengths_M.sum()), files.width)
    for place in np.argsort(planned.starts_M, kind="stable").tolist():
        length = int(planned.lengths_M[place])
        stream[end_M[place] - length : end_M[place]] = reader.read(
            int(planned.starts_M[place]), length
        )
    pieces = (stream[at : at + BLOCK_TOKENS] for at in range(0, len(stream), BLOCK_TOKENS))
    num_ends = sum(int(np.count_nonzero(piece == end_of_text_id)) for piece in pieces)
    if num_ends != len(end_M) or (stream[end_M - 1] != end_of_text_id).any():
        found = f"{num_ends} ends of text in {len(end_M)} documents, or not at their ends"
        raise CorruptTokensError(tokens, found, "one at the end of each document")
    return stream


def _lay_out(
    stream: NDArray[np.integer[Any]],
    length_M: NDArray[np.int64],
    settings: CutSettings,
    end_of_text_id: int,
) -> Layout:
    row_tokens = settings.row_tokens
    if settings.packing == "whole":
        return Layout(*lay_out(stream, length_M, row_tokens, padding=end_of_text_id), 0)
    num_rows, dropped_tokens = divmod(len(stream), row_tokens)
    starts = np.arange(num_rows) * row_tokens
    first_N = np.searchsorted(np.cumsum(length_M), starts, side="right")
    rows_NS = stream[: num_rows * row_tokens].reshape(num_rows, row_tokens)
    return Layout(rows_NS, np.arange(len(length_M)), first_N, dropped_tokens)


def _write_rows(
    path: Path, rows_NS: NDArray[np.integer[Any]], shuffled_N: NDArray[np.int64]
) -> None:
    with path.open("xb") as file:
        for block in _blocks(shuffled_N, rows_NS.shape[1]):
            file.write(rows_NS[block].tobytes())


def _blocks(rows_N: NDArray[np.int64], row_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Yield as many rows at a time as a block of tokens has."""
    step = max(BLOCK_TOKENS // row_tokens, 1)
    return (rows_N[first : first + step] for first in range(0, len(rows_N), step))


def _write_documents(path: Path, planned: ShardPlan, order_M: NDArray[np.int64]) -> None:
    digests = [planned.hex_digest(place) for place in order_M.tolist()]
    columns = [digests, planned.lengths_M[order_M]]
    with TableWriter(path, ROW_DOCUMENT_SCHEMA) as writer:
        writer.write(pa.table(columns, schema=ROW_DOCUMENT_SCHEMA))


@dataclass(frozen=True, slots=True)
class Written:
    """The rows of a shard on disk, read back by their places before they were shuffled."""

    directory: Path
    width: np.dtype[Any]
    row_tokens: int
    shuffled_N: NDArray[np.int64]
    end_of_text_id: int

    def blocks(self) -> Iterator[NDArray[np.integer[Any]]]:
        """Yield the tokens in the order in which they were laid out, without the padding."""
        if not len(self.shuffled_N):
            return
        shape = (len(self.shuffled_N), self.row_tokens)
        rows_NS = np.memmap(self.directory / ROWS, self.width, mode="r", shape=shape)
        follows_end = False
        for block in _blocks(np.argsort(self.shuffled_N), self.row_tokens):
            ids = rows_NS[block].reshape(-1)
            is_end = ids == self.end_of_text_id
            # An end of text after another is padding: without it, the documents follow each other.
            is_padding = is_end & np.append(follows_end, is_end[:-1])
            follows_end = bool(is_end[-1])
            yield np.asarray(ids[~is_padding])


def check_documents(
    content: Iterator[NDArray[np.integer[Any]]],
    planned: ShardPlan,
    order_M: NDArray[np.int64],
    tokenizer: Tokenizer,
    share: float,
) -> int:
    """Decode documents of what is read back and compare with their digests; count them.

    Raises: RoundTripError.
    """
    checked = 0
    documents = _documents(content, planned.lengths_M[order_M])
    for place, ids in zip(order_M.tolist(), documents, strict=False):
        digest = planned.hex_digest(place)
        if not checked or is_chosen(digest, share):
            found = tokenizer.text_sha256(ids)
            if found != digest:
                raise RoundTripError("a document of a shard", found, digest)
            checked += 1
    return checked


def _documents(
    content: Iterator[NDArray[np.integer[Any]]], length_M: NDArray[np.int64]
) -> Iterator[NDArray[np.integer[Any]]]:
    """Yield the whole documents of a stream that comes in blocks."""
    rest = next(content, np.empty(0, np.uint16))
    for length in length_M.tolist():
        while len(rest) < length:
            if (block := next(content, None)) is None:
                return
            rest = np.concatenate([rest, block])
        yield rest[:length]
        rest = rest[length:]
