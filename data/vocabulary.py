"""The vocabulary of a corpus, and the engine that encodes with it: both proven before use.

A tokenizer is trained on a seeded sample of training-side documents. Units are visited in an order
that the seed decides, as many as a sample of this size needs: a small sample of a large corpus
comes from many places and costs little reading.
"""

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from data.candidates import Source, SourceUnit
from data.encoders import describe, differing_code_points
from data.errors import NoTrainingDocumentsError, WrongTokenizerError
from data.filter_settings import FilterSettings
from data.screen import screen
from data.split import Holdout
from data.text_sample import TextSample
from data.tokenizer import TOKENIZER, Tokenizer, TokenizerSettings, train_tokenizer
from data.tokenizer_gates import prove_tokenizer

VERSION = 1
ENGINE = "engine.json"
VISITS = 64
"""Units that a sample comes from, more of them if it is large."""
UNIT_SHARE_BYTES = 16 * 2**20
"""What a unit gives to a large sample."""
PROOF_BYTES = 32 * 2**20
"""Held-out text that a tokenizer must give back byte for byte: some 10,000 documents."""


def visits(units: Sequence[SourceUnit], settings: TokenizerSettings) -> tuple[SourceUnit, ...]:
    """Choose the units that the sample comes from, in the order of the visit."""
    order = np.random.default_rng(settings.sample_seed).permutation(len(units))
    num_visits = max(VISITS, -(-settings.sample_bytes // UNIT_SHARE_BYTES))
    return tuple(units[number] for number in order[:num_visits])


def train_vocabulary(
    out: Path,
    *fetched: Path,
    source: Source,
    units: Sequence[SourceUnit],
    filters: FilterSettings,
    settings: TokenizerSettings,
    holdout: Holdout,
) -> None:
    """Train a tokenizer on a sample of units; `fetched` are the inputs of all of them, in order.

    Raises: NoTrainingDocumentsError, VocabularyTooLargeError, TokenizerGateError, and what reading
        the source raises.
    """
    samples = {
        "train": TextSample(settings.sample_bytes, settings.sample_seed),
        "val": TextSample(PROOF_BYTES, settings.sample_seed),
    }
    directories, seen = iter(fetched), set[str]()
    for unit in units:
        mine = [next(directories) for _ in source.inputs(unit)]
        for batch in source.read(unit, *mine):
            documents, _ = screen(batch, filters)
            columns = (documents[name].to_pylist() for name in ("sha256", "repository", "text"))
            for sha256, repository, text in zip(*columns, strict=True):
                sample = samples[holdout.side(holdout.group(sha256, repository))]
                if sha256 not in seen and sample.wants(sha256):
                    sample.add(sha256, text)
                seen.add(sha256)
    texts = samples["train"].texts()
    if not texts:
        raise NoTrainingDocumentsError(len(seen), holdout.validation_fraction)
    definition = train_tokenizer(
        texts,
        vocab_size=settings.vocab_size,
        min_merge_frequency=settings.min_merge_frequency,
        specials=settings.specials,
    )
    (out / TOKENIZER).write_text(definition)
    prove_tokenizer(Tokenizer.load(out / TOKENIZER), samples["val"].texts())


def import_vocabulary(out: Path, *, settings: TokenizerSettings) -> None:
    """Take over a tokenizer that exists.

    Raises: WrongTokenizerError, TokenizerGateError.
    """
    path = Path(settings.path)
    tokenizer = Tokenizer.load(path, settings.specials[0])
    if tokenizer.vocab_size != settings.vocab_size:
        expected = f"{settings.vocab_size} as in tokenizer.vocab_size"
        raise WrongTokenizerError(path, f"{tokenizer.vocab_size} ids", expected)
    prove_tokenizer(tokenizer, [])
    (out / TOKENIZER).write_bytes(path.read_bytes())


def prove_engine(out: Path, vocabulary: Path, *, settings: TokenizerSettings) -> None:
    """Ask the engine where it may differ from Hugging Face, and write down the answer.

    Raises: UnusableEngineError.
    """
    tokenizer = Tokenizer.load(vocabulary / TOKENIZER, settings.specials[0])
    differing = differing_code_points(settings.engine, tokenizer.engine_definition)
    found = {**describe(settings.engine, tokenizer, differing), "differing": differing}
    (out / ENGINE).write_text(json.dumps(found, indent=1) + "\n")


def engine_versions(settings: TokenizerSettings) -> dict[str, str]:
    """Return the versions that the engine's answer depends on."""
    return {name: version(name) for name in sorted({settings.engine, "tokenizers"})}
