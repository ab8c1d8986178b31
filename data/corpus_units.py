"""The units of work that a corpus is pretokenized in, each with all that determines it."""

import platform
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from data.candidates import SourceUnit
from data.compaction import VERSION as COMPACTION_VERSION
from data.compaction import compact
from data.corpus import Corpus
from data.digests import file_sha256
from data.errors import MissingFileError
from data.filter_settings import FilterSettings
from data.intake import VERSION as INTAKE_VERSION
from data.intake import IntakeSettings, take_in
from data.settlement import VERSION as SETTLEMENT_VERSION
from data.settlement import settle_units
from data.token_files import DtypeName, dtype_of, tokens_written
from data.tokenizer import Tokenizer, TokenizerSettings
from data.tokenizer_sample import VERSION as SAMPLE_VERSION
from data.tokenizer_sample import draw_sample, name_sample, removed_digests, visits
from data.units import MakeUnits, Unit
from data.vocabulary import VERSION as VOCABULARY_VERSION
from data.vocabulary import engine_versions, import_vocabulary, prove_engine, train_vocabulary

OF_COPIES = ("near_duplicates", "near_duplicate_jaccard", "minhash_seed")
"""Filter settings that say nothing about a document by itself."""
OF_VERDICTS = ("max_missing_share",)
"""Source settings that refuse what was read, and change nothing of it."""
SAMPLING = ("sample_bytes", "sample_seed")
"""Tokenizer settings that decide which documents it is trained on."""
LEARNING = ("vocab_size", "min_merge_frequency", "specials")
"""Tokenizer settings that decide what is learnt from them."""


def vocabulary_unit(corpus: Corpus, make_units: MakeUnits) -> Unit:
    """Say how the tokenizer comes about; the sample that it is trained on is drawn for that."""
    if corpus.tokenizer.kind == "import":
        return _imported_vocabulary(corpus.tokenizer)
    sample = sample_unit(corpus)
    (named,) = make_units("sample", [_named_sample(sample)])
    removed = removed_digests(named, corpus.removals)
    return _trained_vocabulary(corpus, sample, removed)


def sample_unit(corpus: Corpus) -> Unit:
    """Say how the sample is drawn, whatever is opted out of it."""
    source, settings = corpus.source, corpus.tokenizer
    inputs = {unit: source.inputs(unit) for unit in visits(source.units, settings)}
    return Unit(
        recipe={
            "kind": "draw sample",
            "version": SAMPLE_VERSION,
            "units": [_reading(corpus, unit) for unit in inputs],
            "filters": _per_document(corpus.filters),
            "tokenizer": _chosen(settings, SAMPLING),
            "holdout": asdict(corpus.settings.holdout),
        },
        label="draw the tokenizer's sample",
        make=partial(
            draw_sample,
            source=source.bare,
            visited=[(unit, len(needs)) for unit, needs in inputs.items()],
            filters=corpus.filters,
            settings=settings,
            holdout=corpus.settings.holdout,
        ),
        inputs=tuple(each for needs in inputs.values() for each in needs),
    )


def _named_sample(sample: Unit) -> Unit:
    return Unit(
        recipe={"kind": "name sample", "version": SAMPLE_VERSION},
        label="name the tokenizer's sample",
        make=name_sample,
        inputs=(sample,),
    )


def _trained_vocabulary(corpus: Corpus, sample: Unit, removed: list[str]) -> Unit:
    return Unit(
        recipe={
            "kind": "train vocabulary",
            "version": VOCABULARY_VERSION,
            "removed": removed,
            "tokenizer": _chosen(corpus.tokenizer, LEARNING),
        },
        label="train the tokenizer",
        make=partial(
            train_vocabulary,
            settings=corpus.tokenizer,
            removals=corpus.removals,
            holdout=corpus.settings.holdout,
        ),
        inputs=(sample,),
    )


def _imported_vocabulary(settings: TokenizerSettings) -> Unit:
    return Unit(
        recipe={
            "kind": "import vocabulary",
            "version": VOCABULARY_VERSION,
            "sha256": _file_sha256("tokenizer.path", settings.path),
            "vocab_size": settings.vocab_size,
            "end_of_text": settings.specials[0],
        },
        label=f"import {settings.path}",
        make=partial(import_vocabulary, settings=settings),
    )


def engine_unit(corpus: Corpus, vocabulary: Unit) -> Unit:
    """Say how the engine is proven; with another version of it, again."""
    return Unit(
        recipe={
            "kind": "engine",
            "version": VOCABULARY_VERSION,
            "engine": corpus.tokenizer.engine,
            "versions": engine_versions(corpus.tokenizer),
        },
        label=f"prove {corpus.tokenizer.engine}",
        make=partial(prove_engine, settings=corpus.tokenizer),
        inputs=(vocabulary,),
    )


def intake_unit(
    corpus: Corpus, unit: SourceUnit, dtype: DtypeName, vocabulary: Unit, engine: Unit
) -> Unit:
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
            "unit": _reading(corpus, unit),
            "filters": _per_document(corpus.filters),
            "signed": corpus.filters.near_duplicates != "off",
            "minhash_seed": corpus.filters.minhash_seed,
            "tokenizer": _encoding(corpus.tokenizer),
            "bounds": asdict(settings.bounds),
            "round_trip_share": settings.round_trip_share,
        },
        label=f"take in {unit.files[0].path}",
        make=partial(take_in, source=corpus.source.bare, unit=unit, settings=settings),
        inputs=(vocabulary, engine, *corpus.source.inputs(unit)),
        count_tokens=partial(tokens_written, dtype=dtype),
    )


def settlement_unit(corpus: Corpus, taken: Sequence[Unit]) -> Unit:
    """Say how copies are settled among units that were taken in."""
    removals, holdout = corpus.removals, corpus.settings.holdout
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
        count_tokens=partial(tokens_written, dtype=dtype),
    )


def _per_document(filters: FilterSettings) -> dict[str, object]:
    """Name all that decides about a document by itself: settings, and what Python brings along."""
    found = {name: value for name, value in asdict(filters).items() if name not in OF_COPIES}
    found["unicode"] = unicodedata.unidata_version
    if filters.must_parse:
        found["python"] = platform.python_version()
    return found


def _chosen(settings: TokenizerSettings, names: Sequence[str]) -> dict[str, object]:
    return {name: value for name, value in asdict(settings).items() if name in names}


def _encoding(settings: TokenizerSettings) -> dict[str, object]:
    """Name the settings that decide how documents are encoded, the vocabulary given."""
    elsewhere = {*SAMPLING, *LEARNING, "kind", "path"}
    return {name: value for name, value in asdict(settings).items() if name not in elsewhere}


def _file_sha256(setting: str, path: str) -> str:
    """Digest a file that a setting names.

    Raises: MissingFileError.
    """
    if not Path(path).is_file():
        raise MissingFileError(setting, Path(path))
    return file_sha256(Path(path))


def _reading(corpus: Corpus, unit: SourceUnit) -> dict[str, object]:
    """Name all that determines what reading a unit yields, its inputs given."""
    files = [[file.path, file.sha256] for file in unit.files]
    settings = {name: v for name, v in corpus.reading.items() if name not in OF_VERDICTS}
    return {"files": files, "settings": settings}
