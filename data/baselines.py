"""What models without a network score: no better than these, and nothing was learnt.

Counted on the training rows, scored on the targets of every validation row, so that whoever looks
at some of the rows has the figures of those.

Legend: N rows, S tokens in a row, D documents, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data.errors import CorruptShardError, TokenOutOfRangeError
from data.ngrams import Ngrams
from data.rows import PADDING, Rows, blocks, spread

BASELINES, ROW_BASELINES = "baselines.json", "baselines.parquet"
"The files of a shards directory that hold them: over all rows, and row by row."
ORDERS = {"unigram_nats": 1, "bigram_nats": 2, "five_gram_nats": 5}
TARGETS = "target_tokens"
READ_TOKENS = 2**18


@dataclass(frozen=True, slots=True)
class Baselines:
    """Cross-entropies of models that only count.

    Units: nats per target token.
    """

    uniform_nats: float
    unigram_nats: float
    bigram_nats: float
    five_gram_nats: float
    num_target_tokens: int


@dataclass(frozen=True, slots=True)
class RowBaselines:
    """The summed losses of every validation row.

    Units: nats.
    """

    nats_N: dict[str, NDArray[np.float64]]
    targets_N: NDArray[np.int64]
    vocab_size: int

    def over(self, chosen: NDArray[np.int64]) -> Baselines:
        """Return the means over the targets of some rows."""
        num_targets = int(self.targets_N[chosen].sum())
        means = {
            name: math.fsum(nats_N[chosen]) / num_targets for name, nats_N in self.nats_N.items()
        }
        uniform = math.log(self.vocab_size)
        return Baselines(uniform_nats=uniform, num_target_tokens=num_targets, **means)

    def write(self, directory: Path) -> None:
        """Write the table beside the rows."""
        table = pa.table({**self.nats_N, TARGETS: self.targets_N})
        pq.write_table(table, directory / ROW_BASELINES, compression="zstd")

    @classmethod
    def read(cls, directory: Path, vocab_size: int) -> "RowBaselines":
        """Read what `write` left.

        Raises: CorruptShardError.
        """
        path = directory / ROW_BASELINES
        if not path.is_file():
            raise CorruptShardError(path, "is missing", "there: make the shards again")
        table = pq.read_table(path)
        nats_N = {name: table[name].to_numpy() for name in ORDERS}
        return cls(nats_N, table[TARGETS].to_numpy(), vocab_size)


def count_and_score(
    train: Rows,
    val: Rows,
    vocab_size: int,
    *,
    max_train_tokens: int,
    tell: Callable[[int, int, int], None] = lambda _done, _all, _tokens: None,
) -> tuple[RowBaselines, int]:
    """Score counting models on every validation row; return how many tokens were counted, too.

    Of more training tokens than `max_train_tokens`, rows spread evenly over them are counted.
    `tell` is called with how many rows of how many are read, and how many tokens were in them.

    Raises: TokenOutOfRangeError.
    """
    every_row = np.arange(len(val))
    chosen = spread(len(train), max(max_train_tokens // train.row_tokens, 1))
    num_done, num_all, num_tokens = 0, 2 * len(val) + len(chosen), 0

    def read(rows: Rows, places: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        nonlocal num_done, num_tokens
        for ids_NS in _read(rows, vocab_size, places):
            yield ids_NS
            num_done += len(ids_NS)
            num_tokens += int((ids_NS != PADDING).sum())
            tell(num_done, num_all, num_tokens)

    ngrams = Ngrams(max(ORDERS.values()), vocab_size)
    for ids_NS in read(val, every_row):
        ngrams.expect(ids_NS)
    for ids_NS in read(train, chosen):
        ngrams.count(ids_NS)
    nats, targets = [], []
    for ids_NS in read(val, every_row):
        nats.append(ngrams.nats(ids_NS))
        targets.append((ids_NS[:, 1:] != PADDING).sum(axis=1))
    nats_NK = np.concatenate(nats)
    nats_N = {name: nats_NK[:, order - 1] for name, order in ORDERS.items()}
    scored = RowBaselines(nats_N, np.concatenate(targets), vocab_size)
    return scored, ngrams.num_counted_tokens


def target_bytes(
    val: Rows,
    chosen: NDArray[np.int64],
    token_bytes: NDArray[np.integer[Any]],
    num_documents: int,
) -> NDArray[np.int64]:
    """Count the UTF-8 bytes of the target tokens of the chosen rows, by document.

    Shapes: (N,), (V,) -> (D,).
    """
    bytes_D = np.zeros(num_documents, np.int64)
    for block in blocks(chosen, READ_TOKENS // val.row_tokens):
        targets_NT, documents_NT = val.take(block)[:, 1:], val.documents_NS(block)[:, 1:]
        is_target_NT = targets_NT != PADDING
        np.add.at(bytes_D, documents_NT[is_target_NT], token_bytes[targets_NT[is_target_NT]])
    return bytes_D


def _read(rows: Rows, vocab_size: int, chosen: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for block in blocks(chosen, READ_TOKENS // rows.row_tokens):
        ids_NS = rows.take(block)
        if ids_NS.max() >= vocab_size:
            where = f"{rows.split} rows"
            raise TokenOutOfRangeError(where, int(ids_NS.max()), vocab_size)
        yield ids_NS
