"""Intake: one unit of a source to encoded documents and rejections, checked as they are written.

What comes out is final but for what only the whole corpus can tell: which documents are copies of
others, and which side of the split they are on.

Legend: D documents, N tokens, V vocabulary, P permutations of MinHash.
"""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data.array_file import ArrayWriter
from data.candidates import Source, SourceUnit
from data.checked_encoder import CheckedEncoder
from data.digests import DIGEST_BYTES, digests_of
from data.documents import DOCUMENTS, REJECTED, TableWriter, read_pieces
from data.errors import RoundTripError
from data.filter_settings import FilterSettings
from data.minhash import NUM_PERMUTATIONS, signatures
from data.screen import REJECTIONS, SCREENED, screen
from data.token_files import LITTLE_ENDIAN, TOKENS, dtype_of
from data.token_statistics import DegenerateBounds, TokenCounter
from data.tokenizer import TOKENIZER, Tokenizer, TokenizerSettings
from data.vocabulary import ENGINE

VERSION = 2
COUNTS = "counts.npy"
DIGESTS = "digests.npy"
SIGNATURES = "signatures.npy"
ENCODED = SCREENED.remove(SCREENED.get_field_index("text")).append(
    pa.field("num_tokens", pa.int64(), nullable=False)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeSettings:
    """What one unit is made with."""

    filters: FilterSettings
    tokenizer: TokenizerSettings
    bounds: DegenerateBounds
    round_trip_share: float
    """Share of the documents that are decoded again from what was written."""


def take_in(
    out: Path,
    vocabulary: Path,
    engine: Path,
    *fetched: Path,
    source: Source,
    unit: SourceUnit,
    settings: IntakeSettings,
) -> None:
    """Screen and encode a unit's candidates.

    Raises: whatever reading the source raises, EncoderMismatchError, DegenerateTokensError,
        TokenOutOfRangeError, RoundTripError.
    """
    tokenizer = Tokenizer.load(vocabulary / TOKENIZER, settings.tokenizer.specials[0])
    width = LITTLE_ENDIAN[dtype_of(tokenizer.vocab_size)]
    where = f"unit {unit.number} ({unit.files[0].path})"
    counter = TokenCounter(tokenizer.vocab_size, where)
    signed = settings.filters.near_duplicates != "off"
    with (
        CheckedEncoder(
            tokenizer,
            settings.tokenizer.engine,
            differing=json.loads((engine / ENGINE).read_text())["differing"],
            checked_share=settings.tokenizer.checked_share,
            where=where,
        ) as encoder,
        TableWriter(out / DOCUMENTS, ENCODED) as documents,
        (out / TOKENS).open("xb") as tokens,
        ArrayWriter(out / DIGESTS, (DIGEST_BYTES,), np.uint8) as digests,
        _sketches(out) if signed else nullcontext() as sketches,
    ):
        for batch in _screened(source.read(unit, *fetched), settings.filters, out):
            encoded = encoder.encode(batch["text"])
            ids = encoded.ended(tokenizer.end_of_text_id, width)
            counter.add(ids)
            tokens.write(ids.data)
            documents.write(_with_lengths(batch, encoded.lengths_D + 1))
            digests.write(digests_of(batch["sha256"]))
            if sketches:
                sketches.write(signatures(batch["text"], settings.filters.minhash_seed))
    ends = int(counter.counts_V[tokenizer.end_of_text_id])
    assert ends == documents.num_rows, "a forged end of text"
    np.save(out / COUNTS, counter.counts_V)
    settings.bounds.refuse(counter.statistics(tokenizer.unk_id), where)
    check_round_trips(out, tokenizer, settings.round_trip_share)


def _sketches(out: Path) -> ArrayWriter:
    return ArrayWriter(out / SIGNATURES, (NUM_PERMUTATIONS,), np.uint32)


def _with_lengths(batch: pa.RecordBatch, length_D: NDArray[np.int64]) -> pa.RecordBatch:
    return batch.drop_columns(["text"]).append_column("num_tokens", pa.array(length_D))


def _screened(
    candidates: Iterator[pa.RecordBatch], filters: FilterSettings, out: Path
) -> Iterator[pa.RecordBatch]:
    """Yield the documents of every batch that has any; write down the rest."""
    with TableWriter(out / REJECTED, REJECTIONS) as rejected:
        for batch in candidates:
            kept, refused = screen(batch, filters)
            rejected.write(refused)
            if kept.num_rows:
                yield kept


def check_round_trips(directory: Path, tokenizer: Tokenizer, share: float) -> int:
    """Decode documents from what is on disk and compare with their digests; count them.

    The first document is always among them; of the others those with the least digests.

    Raises: RoundTripError.
    """
    dtype = LITTLE_ENDIAN[dtype_of(tokenizer.vocab_size)]
    start, checked = 0, 0
    for piece in read_pieces(directory / DOCUMENTS, ["path", "sha256", "num_tokens"]):
        ids = np.memmap(directory / TOKENS, dtype=dtype, mode="r")
        length_D = piece["num_tokens"].to_numpy()
        first_D = np.ascontiguousarray(digests_of(piece["sha256"])[:, :8]).view(">u8")[:, 0]
        is_checked_D = first_D < share * 2**64
        is_checked_D[0] |= start == 0
        ends_D = start + np.cumsum(length_D)
        for place in np.flatnonzero(is_checked_D).tolist():
            found = tokenizer.text_sha256(ids[ends_D[place] - length_D[place] : ends_D[place]])
            path, sha256 = (piece[name][place].as_py() for name in ("path", "sha256"))
            if found != sha256:
                raise RoundTripError(path, found, sha256)
            checked += 1
        start = int(ends_D[-1])
    return checked
