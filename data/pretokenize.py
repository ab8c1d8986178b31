"""Source files to tokens: a vocabulary, documents taken in unit by unit, copies settled, an index.

Every candidate of the source is either a document or a rejection with its reason. The token files
hold the documents and nothing else, in the order of the source, so that a table and a cumulative
sum say where each one lies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.accounting import Account
from data.candidates import Source
from data.corpus import Corpus
from data.corpus_units import (
    compaction_unit,
    engine_unit,
    intake_unit,
    settlement_unit,
    vocabulary_unit,
)
from data.documents import (
    DOCUMENT_SCHEMA,
    DOCUMENTS,
    REJECTED,
    REJECTION_SCHEMA,
    join,
    read_pieces,
)
from data.errors import (
    CorruptTokensError,
    NoTrainingDocumentsError,
    NoValidationDocumentsError,
)
from data.fetch import Account as Fetched
from data.fetch import refuse_incomplete
from data.intake import COUNTS
from data.listing_filters import NO_CONTENT
from data.settlement import DIGESTS_OF_DECISIONS
from data.token_files import TOKEN_FILE, TOKENS, DtypeName, adopt, dtype_of, token_file
from data.token_statistics import TokenCounter
from data.tokenizer import TOKENIZER, Tokenizer
from data.units import MakeUnits

VERSION = 2


@dataclass(frozen=True, slots=True)
class TokensIndex:
    """What a tokens directory holds.

    Units: `num_bytes` are those of the documents' text, `entropy_bits` is per token.
    """

    vocab_size: int
    end_of_text_id: int
    dtype: DtypeName
    num_documents: int
    num_train_documents: int
    num_val_documents: int
    num_tokens: int
    num_train_tokens: int
    num_bytes: int
    num_rejected: int
    rejected_by_filter: dict[str, int]
    documents_by_licence: dict[str, int]
    bytes_by_licence: dict[str, int]
    distinct_ids: int
    entropy_bits: float
    unk_ratio: float
    source_sha256: str
    token_files: tuple[tuple[str, int], ...]
    """Name and number of tokens of each file, in stream order; one for each unit that has any."""

    def __post_init__(self) -> None:
        """Refuse names that lead out of the directory of the tokens.

        Raises: CorruptTokensError.
        """
        for name, _ in self.token_files:
            if not TOKEN_FILE.fullmatch(name):
                raise CorruptTokensError(Path(ascii(name)), "named so", "tokens-NNNNN.bin")


def pretokenize(corpus: Corpus, make_units: MakeUnits, *, out: Path) -> TokensIndex:
    """Write a tokens directory.

    Raises: NoTrainingDocumentsError, NoValidationDocumentsError, DegenerateTokensError, and what
        making a vocabulary and taking in a unit raise.
    """
    vocabulary = vocabulary_unit(corpus, make_units)
    engine = engine_unit(corpus, vocabulary)
    (vocabulary_directory,) = make_units("vocabulary", [vocabulary])
    make_units.somewhere("engine", [engine])
    adopt(vocabulary_directory / TOKENIZER, out / TOKENIZER)
    tokenizer = Tokenizer.load(out / TOKENIZER)
    dtype = dtype_of(tokenizer.vocab_size)
    taken = [intake_unit(corpus, unit, dtype, vocabulary, engine) for unit in corpus.source.units]
    make_units.somewhere("take in", taken)
    settled = settlement_unit(corpus, taken)
    (settled_directory,) = make_units("settle", [settled])
    digests = (settled_directory / DIGESTS_OF_DECISIONS).read_text().split()
    compacted = [
        compaction_unit(corpus, tokenizer, number, taken[number], settled, decided)
        for number, decided in enumerate(digests)
    ]
    return _assemble(corpus, tokenizer, make_units("compact", compacted), out)


def _assemble(
    corpus: Corpus, tokenizer: Tokenizer, units: Sequence[Path], out: Path
) -> TokensIndex:
    """Bring the units together under one index."""
    _refuse_incomplete(corpus.source, units)
    dtype = dtype_of(tokenizer.vocab_size)
    counter = TokenCounter(tokenizer.vocab_size, "tokens")
    token_files = []
    for number, unit in enumerate(units):
        counts_V = np.load(unit / COUNTS)
        counter.add_counts(counts_V)
        if counts_V.any():
            name = token_file(number)
            adopt(unit / TOKENS, out / name)
            token_files.append((name, int(counts_V.sum())))
    account = Account()
    join([unit / DOCUMENTS for unit in units], out / DOCUMENTS, DOCUMENT_SCHEMA, account.documents)
    join([unit / REJECTED for unit in units], out / REJECTED, REJECTION_SCHEMA, account.rejections)
    found = counter.statistics(tokenizer.unk_id)
    fraction = corpus.settings.validation_fraction
    if not account.num_documents["train"]:
        raise NoTrainingDocumentsError(account.num_all, fraction)
    if not account.num_documents["val"]:
        raise NoValidationDocumentsError(account.num_all, fraction)
    corpus.settings.bounds.refuse(found, "tokens")
    return TokensIndex(
        vocab_size=tokenizer.vocab_size,
        end_of_text_id=tokenizer.end_of_text_id,
        dtype=dtype,
        num_documents=account.num_all,
        num_train_documents=account.num_documents["train"],
        num_val_documents=account.num_documents["val"],
        num_tokens=found.num_tokens,
        num_train_tokens=account.num_tokens["train"],
        num_bytes=account.num_bytes,
        num_rejected=account.num_rejected,
        rejected_by_filter=dict(sorted(account.by_filter.items())),
        documents_by_licence=dict(sorted(account.documents_by_licence.items())),
        bytes_by_licence=dict(sorted(account.bytes_by_licence.items())),
        distinct_ids=found.distinct_ids,
        entropy_bits=found.entropy_bits,
        unk_ratio=found.unk_ratio,
        source_sha256=corpus.source.sha256,
        token_files=tuple(token_files),
    )


def _refuse_incomplete(source: Source, units: Sequence[Path]) -> None:
    """Refuse a unit of which too much is missing, whatever was allowed when it was taken in.

    Raises: FetchIncompleteError.
    """
    if source.max_missing_share == 1:
        return
    for unit, directory in zip(source.units, units, strict=True):
        found = Fetched()
        for piece in read_pieces(directory / REJECTED, ["filter", "detail"]):
            missing = piece.filter(pc.equal(piece["filter"], NO_CONTENT))
            found.missing.update(missing["detail"].to_pylist())
        tables = (pq.read_metadata(directory / name) for name in (DOCUMENTS, REJECTED))
        found.num_rows = sum(table.num_rows for table in tables)
        label = f"{unit.files[0].path} (unit {unit.number})"
        refuse_incomplete(found, source.max_missing_share, label)
