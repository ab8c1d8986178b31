"""One tokens directory and one shards directory, built once and only read."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from data.corpus import Corpus
from data.pretokenize import TokensIndex, pretokenize
from data.shard import ShardsIndex, shard
from data.units import Given
from tests.data.corpus import TEXTS, bounds, corpus_of, shard_settings, write_texts
from tests.data.inline import InlineUnits

# Reading and writing files on a busy machine has no deadline worth failing for.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@dataclass(frozen=True)
class Tokens:
    corpus: Corpus
    directory: Path
    index: TokensIndex


@dataclass(frozen=True)
class Shards:
    directory: Path
    index: ShardsIndex


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    root = tmp_path_factory.mktemp("tokens")
    (root / "out").mkdir()
    corpus = corpus_of(write_texts(root / "source", TEXTS))
    index = pretokenize(corpus, InlineUnits(root / "units"), out=root / "out")
    return Tokens(corpus, root / "out", index)


@pytest.fixture(scope="session")
def shards(tokens: Tokens, tmp_path_factory: pytest.TempPathFactory) -> Shards:
    root = tmp_path_factory.mktemp("shards")
    (root / "out").mkdir()
    given = Given("the tokens", tokens.directory)
    units = InlineUnits(root / "units")
    index = shard(given, tokens.index, shard_settings(), bounds(), units, out=root / "out")
    return Shards(root / "out", index)
