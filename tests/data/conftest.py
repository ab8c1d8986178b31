"""One tokens directory and one shards directory, built once and only read."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from data.pretokenize import TokensIndex, pretokenize
from data.shard import ShardsIndex, shard
from data.source import SourceListing
from tests.data.corpus import TEXTS, pretokenize_settings, quiet, shard_settings, write_corpus

# Reading and writing files on a busy machine has no deadline worth failing for.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@dataclass(frozen=True)
class Tokens:
    listing: SourceListing
    directory: Path
    index: TokensIndex


@dataclass(frozen=True)
class Shards:
    directory: Path
    index: ShardsIndex


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    listing = write_corpus(tmp_path_factory.mktemp("source"), TEXTS)
    directory = tmp_path_factory.mktemp("tokens") / "out"
    index = pretokenize(listing, pretokenize_settings(), out=directory, on_progress=quiet)
    return Tokens(listing, directory, index)


@pytest.fixture(scope="session")
def shards(tokens: Tokens, tmp_path_factory: pytest.TempPathFactory) -> Shards:
    directory = tmp_path_factory.mktemp("shards") / "out"
    index = shard(
        tokens.directory, tokens.index, shard_settings(), out=directory, on_progress=quiet
    )
    return Shards(directory, index)
