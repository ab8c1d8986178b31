"""Source files to tokens: a vocabulary, documents taken in unit by unit, copies settled, an index.

Every candidate of the source is either a document or a rejection with its reason. The token files
hold the documents and nothing else, in the order of the source, so that a table and a cumulative
sum say where each one lies.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data.accounting import Account
from data.bounds import at_least, share
from data.candidates import Source, SourceUnit
from data.compaction import COUNTS, compact
from data.compaction import VERSION as COMPACTION_VERSION
from data.documents import DOCUMENT_SCHEMA, DOCUMENTS, REJECTED, REJECTION_SCHEMA, join
from data.errors import NoTrainingDocumentsError, NoValidationDocumentsError, WrongSettingError
from data.filters import FilterSettings
from data.intake import VERSION as INTAKE_VERSION
from data.intake import IntakeSettings, take_in
from data.removals import read_removals
from data.settlement import DIGESTS_OF_DECISIONS, settle_units
from data.settlement import VERSION as SETTLEMENT_VERSION
from data.split import GroupBy, Holdout
from data.token_files import TOKENS, DtypeName, adopt, dtype_of, token_file
from data.token_statistics import DegenerateBounds, TokenCounter
from data.tokenizer import TOKENIZER, Tokenizer, TokenizerSettings
from data.units import MakeUnits, Unit
from data.vocabulary import VERSION as VOCABULARY_VERSION
from data.vocabulary import make_vocabulary, visits

VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PretokenizeSettings:
    """Which documents are held out or opted out, and what a token stream must look like."""

    validation_fraction: float
    split_seed: int
    group_by: GroupBy
    """What is held out as one: a document, or all documents of a repository."""
    removal_list: str
    """A file that names what was opted out; empty for none."""
    round_trip_share: float
    max_unk_ratio: float
    min_distinct_ids: int
    max_top_share: float

    def __post_init__(self) -> None:
        """Refuse numbers that no corpus can satisfy.

        Raises: WrongSettingError.
        """
        share("pretokenize.validation_fraction", self.validation_fraction)
        at_least("pretokenize.split_seed", self.split_seed, 0)
        if self.group_by not in ("document", "repository"):
            expected = "'document' or 'repository'"
            raise WrongSettingError("pretokenize.group_by", self.group_by, expected)
        share("pretokenize.round_trip_share", self.round_trip_share)
        if not 0 <= self.max_unk_ratio < 1:
            raise WrongSettingError("pretokenize.max_unk_ratio", self.max_unk_ratio, "in [0, 1)")
        at_least("pretokenize.min_distinct_ids", self.min_distinct_ids, 1)
        share("pretokenize.max_top_share", self.max_top_share)

    @property
    def holdout(self) -> Holdout:
        """How documents are held out."""
        return Holdout(
            validation_fraction=self.validation_fraction,
            seed=self.split_seed,
            group_by=self.group_by,
        )

    @property
    def bounds(self) -> DegenerateBounds:
        """What a token stream must look like."""
        return DegenerateBounds(
            max_unk_ratio=self.max_unk_ratio,
            min_distinct_ids=self.min_distinct_ids,
            max_top_share=self.max_top_share,
        )


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
    """Name and number of tokens of each file, in stream order; a file for each unit that has any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """All that a tokens directory is made with."""

    source: Source
    filters: FilterSettings
    tokenizer: TokenizerSettings
    settings: PretokenizeSettings

    def __post_init__(self) -> None:
        """Refuse sections that contradict each other.

        Raises: WrongSettingError.
        """
        by_repository = self.settings.group_by == "repository"
        if by_repository and self.filters.near_duplicates == "together":
            expected = "'drop' or 'off' where pretokenize.group_by is 'repository'"
            raise WrongSettingError("filters.near_duplicates", "together", expected)


def pretokenize(corpus: Corpus, make_units: MakeUnits, *, out: Path) -> TokensIndex:
    """Write a tokens directory.

    Raises: NoTrainingDocumentsError, NoValidationDocumentsError, DegenerateTokensError, and what
        making a vocabulary and taking in a unit raise.
    """
    vocabulary = vocabulary_unit(corpus)
    (vocabulary_directory,) = make_units("vocabulary", [vocabulary])
    adopt(vocabulary_directory / TOKENIZER, out / TOKENIZER)
    tokenizer = Tokenizer.load(out / TOKENIZER)
    taken = [intake_unit(corpus, unit, vocabulary) for unit in corpus.source.units]
    make_units("take in", taken)
    settled = settlement_unit(corpus, taken)
    (settled_directory,) = make_units("settle", [settled])
    digests = (settled_directory / DIGESTS_OF_DECISIONS).read_text().split()
    compacted = [
        compaction_unit(corpus, tokenizer, number, taken[number], settled, decided)
        for number, decided in enumerate(digests)
    ]
    return _assemble(corpus, tokenizer, make_units("compact", compacted), out)


def vocabulary_unit(corpus: Corpus) -> Unit:
    """Say how the tokenizer comes about."""
    settings, source = corpus.tokenizer, corpus.source
    if settings.kind == "import":
        digest = hashlib.sha256(read_tokenizer(settings.path)).hexdigest()
        return Unit(
            recipe={"kind": "import vocabulary", "version": VOCABULARY_VERSION, "sha256": digest},
            label=f"import {settings.path}",
            make=partial(import_vocabulary, settings=settings),
        )
    units = visits(source.units, settings)
    return Unit(
        recipe={
            "kind": "train vocabulary",
            "version": VOCABULARY_VERSION,
            "units": [_reading(source, unit) for unit in units],
            "filters": corpus.filters.per_document(),
            "tokenizer": settings.training(),
            "holdout": asdict(corpus.settings.holdout),
        },
        label="train the tokenizer",
        make=partial(
            make_vocabulary,
            source=source,
            units=units,
            filters=corpus.filters,
            settings=settings,
            holdout=corpus.settings.holdout,
        ),
        inputs=tuple(each for unit in units for each in source.inputs(unit)),
    )


def intake_unit(corpus: Corpus, unit: SourceUnit, vocabulary: Unit) -> Unit:
    """Say how a unit of the source is taken in."""
    settings = IntakeSettings(
        filters=corpus.filters,
        tokenizer=corpus.tokenizer,
        bounds=corpus.settings.bounds,
        round_trip_share=corpus.settings.round_trip_share,
    )
    return Unit(
        recipe={
            "kind": "take in",
            "version": INTAKE_VERSION,
            "unit": _reading(corpus.source, unit),
            "settings": asdict(settings),
        },
        label=f"take in {unit.files[0].path}",
        make=partial(take_in, source=corpus.source, unit=unit, settings=settings),
        inputs=(vocabulary, *corpus.source.inputs(unit)),
    )


def settlement_unit(corpus: Corpus, taken: Sequence[Unit]) -> Unit:
    """Say how copies are settled among units that were taken in."""
    removals = read_removals(corpus.settings.removal_list)
    holdout = corpus.settings.holdout
    return Unit(
        recipe={
            "kind": "settle",
            "version": SETTLEMENT_VERSION,
            "near_duplicates": corpus.filters.near_duplicates,
            "near_duplicate_jaccard": corpus.filters.near_duplicate_jaccard,
            "removals": removals.sha256,
            "group_by": holdout.group_by,
        },
        label="settle copies",
        make=partial(settle_units, filters=corpus.filters, removals=removals, holdout=holdout),
        inputs=tuple(taken),
    )


def compaction_unit(
    corpus: Corpus, tokenizer: Tokenizer, number: int, taken: Unit, settled: Unit, decided: str
) -> Unit:
    """Say how the documents that stay are copied; `decided` is the digest of the decisions."""
    dtype, holdout = dtype_of(tokenizer.vocab_size), corpus.settings.holdout
    return Unit(
        recipe={
            "kind": "compact",
            "version": COMPACTION_VERSION,
            "number": number,
            "decisions": decided,
            "holdout": asdict(holdout),
        },
        label=f"compact unit {number}",
        make=partial(
            compact,
            number=number,
            dtype=dtype,
            vocab_size=tokenizer.vocab_size,
            holdout=holdout,
        ),
        inputs=(taken,),
        aside=(settled,),
    )


def _reading(source: Source, unit: SourceUnit) -> dict[str, object]:
    """Name all that determines what reading a unit yields."""
    files = [[file.path, file.sha256] for file in unit.files]
    return {"files": files, "number": unit.number, "settings": dict(source.reading)}


def _assemble(
    corpus: Corpus, tokenizer: Tokenizer, units: Sequence[Path], out: Path
) -> TokensIndex:
    """Bring the units together under one index."""
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
