"""The vocabulary of a corpus: a tokenizer trained on a seeded sample of training-side documents.

Units are visited in an order that the seed decides, and each gives what it has up to its share of
the sample: a small sample of a large corpus comes from many places and costs little reading.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data.candidates import Source, SourceUnit
from data.errors import NoTrainingDocumentsError
from data.filters import FilterSettings, screen
from data.split import Holdout
from data.tokenizer import TOKENIZER, TokenizerSettings, train_tokenizer

VERSION = 1
MIN_SHARE_BYTES = 16 * 2**20
"""Less than this from a unit would cost more opening than reading."""


def visits(units: Sequence[SourceUnit], settings: TokenizerSettings) -> tuple[SourceUnit, ...]:
    """Choose the units that the sample comes from, in the order of the visit."""
    order = np.random.default_rng(settings.sample_seed).permutation(len(units))
    return tuple(units[number] for number in order[: -(-settings.sample_bytes // MIN_SHARE_BYTES)])


def make_vocabulary(
    out: Path,
    *fetched: Path,
    source: Source,
    units: Sequence[SourceUnit],
    filters: FilterSettings,
    settings: TokenizerSettings,
    holdout: Holdout,
) -> None:
    """Train a tokenizer on a sample of units; `fetched` are the inputs of all of them, in order.

    Raises: NoTrainingDocumentsError, VocabularyTooLargeError, and what reading the source raises.
    """
    directories = iter(fetched)
    share_bytes = max(settings.sample_bytes // len(units), MIN_SHARE_BYTES)
    texts: list[str] = []
    seen: set[str] = set()
    for unit in units:
        mine = [next(directories) for _ in source.inputs(unit)]
        texts += _share(source, unit, mine, filters, holdout, seen, share_bytes)
    if not texts:
        raise NoTrainingDocumentsError(len(seen), holdout.validation_fraction)
    (out / TOKENIZER).write_bytes(train_tokenizer(texts, settings).encode())


def _share(
    source: Source,
    unit: SourceUnit,
    fetched: Sequence[Path],
    filters: FilterSettings,
    holdout: Holdout,
    seen: set[str],
    share_bytes: int,
) -> Iterator[str]:
    """Yield texts of a unit until its share is full; none twice, none that is held out."""
    num_bytes = 0
    for batch in source.read(unit, *fetched):
        documents, _ = screen(batch, filters)
        columns = (documents[name].to_pylist() for name in ("sha256", "repository", "text"))
        for sha256, repository, text in zip(*columns, strict=True):
            if sha256 in seen or num_bytes >= share_bytes:
                continue
            seen.add(sha256)
            if holdout.side(holdout.group(sha256, repository)) == "train":
                num_bytes += len(text.encode())
                yield text
        if num_bytes >= share_bytes:
            return
