"""Compaction: a unit's tokens without the documents that settlement dropped.

Legend: D documents of a piece, V vocabulary.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data.documents import (
    DOCUMENTS,
    DROPPED_SCHEMA,
    KEPT_SCHEMA,
    REJECTED,
    TableWriter,
    read_beside,
    read_pieces,
)
from data.intake import COUNTS
from data.settlement import decisions_file
from data.split import Holdout
from data.token_files import LITTLE_ENDIAN, TOKENS, DtypeName, adopt
from data.token_statistics import TokenCounter

VERSION = 3


def compact(
    out: Path,
    taken: Path,
    settled: Path,
    *,
    number: int,
    dtype: DtypeName,
    vocab_size: int,
    holdout: Holdout,
) -> None:
    """Copy the tokens of the documents that stay, and complete both tables.

    `taken` is the unit of this number as it was taken in; `settled` holds what was decided about
    each of its documents.
    """
    decisions = settled / decisions_file(number)
    counts_V = _copy_tokens(taken, out, decisions, dtype, vocab_size)
    with (
        TableWriter(out / DOCUMENTS, KEPT_SCHEMA) as documents,
        TableWriter(out / REJECTED, DROPPED_SCHEMA) as rejected,
    ):
        for piece in read_pieces(taken / REJECTED):
            rejected.write(piece)
        for decided in read_beside(taken / DOCUMENTS, decisions):
            is_kept_D = pc.equal(decided["filter"], "")
            documents.write(_sided(decided.filter(is_kept_D), holdout))
            rejected.write(decided.filter(pc.invert(is_kept_D)))
    np.save(out / COUNTS, counts_V)


def _copy_tokens(
    taken: Path, out: Path, decisions: Path, dtype: DtypeName, vocab_size: int
) -> NDArray[np.int64]:
    """Copy runs of documents that stay, or nothing where all do; count what there is then.

    Shapes: (V,).
    """
    counts_V: NDArray[np.int64] = np.load(taken / COUNTS)
    kept_D = pc.equal(pq.read_table(decisions, columns=["filter"])["filter"], "").to_numpy()
    if kept_D.all():
        adopt(taken / TOKENS, out / TOKENS)
        return counts_V
    tokens = np.memmap(taken / TOKENS, dtype=LITTLE_ENDIAN[dtype], mode="r")
    length_D = pq.read_table(taken / DOCUMENTS, columns=["num_tokens"])["num_tokens"].to_numpy()
    dropped = TokenCounter(vocab_size, str(taken / TOKENS))
    with (out / TOKENS).open("xb") as file:
        for is_kept, run in _runs(tokens, kept_D, length_D):
            if is_kept:
                file.write(run.data)
            else:
                dropped.add(np.asarray(run))
    return np.asarray(counts_V - dropped.counts_V)


def _sided(documents: pa.Table, holdout: Holdout) -> pa.Table:
    sides = [holdout.side(group) for group in documents["group"].to_pylist()]
    return documents.append_column("split", pa.array(sides, pa.string()))


def _runs(
    ids: NDArray[np.integer], kept_D: NDArray[np.bool_], length_D: NDArray[np.int64]
) -> Iterator[tuple[bool, NDArray[np.integer]]]:
    """Yield the tokens of documents in a row that all stay or all go, without copying them."""
    ends_D = np.cumsum(length_D)
    last = np.flatnonzero(np.append(kept_D[1:] != kept_D[:-1], [True]))
    stops = ends_D[last].tolist()
    yield from (
        (bool(kept_D[place]), ids[start:stop])
        for place, start, stop in zip(last, [0, *stops[:-1]], stops, strict=True)
    )
