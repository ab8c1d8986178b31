"""The vocabulary of a corpus, and the engine that encodes with it: both proven before use."""

import json
from importlib.metadata import version
from pathlib import Path

from data.encoders import describe, differing_code_points
from data.errors import NoTrainingDocumentsError, WrongTokenizerError
from data.removals import Removals
from data.split import Holdout
from data.tokenizer import TOKENIZER, Tokenizer, TokenizerSettings, train_tokenizer
from data.tokenizer_gates import prove_tokenizer
from data.tokenizer_sample import count_sample, sampled_texts

VERSION = 1
ENGINE = "engine.json"


def train_vocabulary(
    out: Path,
    sample: Path,
    *,
    settings: TokenizerSettings,
    removals: Removals,
    holdout: Holdout,
) -> None:
    """Train a tokenizer on what was not opted out of a sample, and prove it on the other side.

    Raises: NoTrainingDocumentsError, VocabularyTooLargeError, TokenizerGateError.
    """
    if next(sampled_texts(sample, "train", removals), None) is None:
        raise NoTrainingDocumentsError(count_sample(sample), holdout.validation_fraction)
    definition = train_tokenizer(
        sampled_texts(sample, "train", removals),
        vocab_size=settings.vocab_size,
        min_merge_frequency=settings.min_merge_frequency,
        specials=settings.specials,
    )
    (out / TOKENIZER).write_text(definition)
    proof = list(sampled_texts(sample, "val", removals))
    prove_tokenizer(Tokenizer.load(out / TOKENIZER), proof)


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
