"""Tiny corpora, settings and hand-made shards that the tests of this folder share."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.corpus import Corpus, PretokenizeSettings
from data.fetch import Fetching
from data.removals import read_removals
from data.shard import ShardIndex, ShardSettings, ShardsIndex, SplitIndex
from data.source import SourceSettings, open_source, reading
from data.token_statistics import DegenerateBounds
from data.tokenizer import TokenizerSettings
from tests.data.candidates import filter_settings

TEXTS = {
    "a.py": b"import os\n\n\ndef here():\n    return os.getcwd()\n",
    "b.py": b"import sys\n\n\ndef there():\n    return sys.path[0]\n",
    "crlf.py": b"x = 1\r\ny = 22\r\nz = 4444\r\n",
    "deep/c.py": b"class Deep:\n    def here(self):\n        return self.depth\n",
    "deep/d.py": b"class Deeper(Deep):\n    def there(self):\n        return self.depth + 1\n",
    "eot.py": b'END = "<|endoftext|>"\nprint("<|endoftext|>" + END)\n',
    "unicode.py": "name = 'Za\u017c\u00f3\u0142\u0107 \u6587\u5b57 \U0001f40d e\u0301'\n".encode(),
}

TINY_FILTERS: Mapping[str, Any] = {
    "max_file_bytes": 1000,
    "drop_vendored": False,
    "drop_generated": False,
    "max_lines": 1000,
    "max_mean_line_length": 1000.0,
    "max_encoded_run": 1000,
    "max_encoded_share": 1.0,
}


def source_settings(root: Path, **changes: Any) -> SourceSettings:
    settings: dict[str, Any] = {
        "kind": "directory",
        "path": str(root),
        "revision": "",
        "anonymous": False,
        "include": ("**/*.py",),
        "exclude": (),
        "licence": "MIT",
        "language": "",
        "text_column": "",
        "licence_column": "",
        "path_column": "",
        "repository_column": "",
        "unit_bytes": 2**20,
        "contents": "",
        "max_blob_bytes": 0,
        "max_missing_share": 0.0,
    }
    return SourceSettings(**(settings | changes))


def tokenizer_settings(**changes: Any) -> TokenizerSettings:
    settings: dict[str, Any] = {
        "kind": "train",
        "path": "",
        "vocab_size": 280,
        "min_merge_frequency": 2,
        "sample_bytes": 10**6,
        "sample_seed": 0,
        "specials": ("<|endoftext|>",),
        "engine": "tokenizers",
        "checked_share": 0.5,
    }
    return TokenizerSettings(**(settings | changes))


def pretokenize_settings(**changes: Any) -> PretokenizeSettings:
    settings: dict[str, Any] = {
        "validation_fraction": 0.3,
        "split_seed": 0,
        "group_by": "document",
        "removal_list": "",
        "round_trip_share": 0.5,
        "max_unk_ratio": 0.01,
        "min_distinct_ids": 20,
        "max_top_share": 0.5,
    }
    return PretokenizeSettings(**(settings | changes))


def shard_settings(**changes: Any) -> ShardSettings:
    settings: dict[str, Any] = {
        "context_length": 7,
        "packing": "concatenate",
        "seed": 3,
        "train_shards": 3,
        "val_shards": 1,
        "round_trip_share": 0.5,
        "baseline_tokens": 10**6,
    }
    return ShardSettings(**(settings | changes))


def bounds() -> DegenerateBounds:
    return pretokenize_settings().bounds


def write_texts(root: Path, texts: Mapping[str, bytes]) -> Path:
    for path, content in texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def corpus_of(
    root: Path,
    *,
    source: Mapping[str, Any] | None = None,
    filters: Mapping[str, Any] | None = None,
    tokenizer: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Corpus:
    """Ask for the corpus of a directory, with changes to any section."""
    asked = source_settings(root, **(source or {}))
    pretokenize = pretokenize_settings(**settings)
    fetching = Fetching(
        cache=str(root / "cache"), max_in_flight=1, max_retries=0, patience_seconds=1.0
    )
    return Corpus(
        source=open_source(asked, fetching=fetching),
        reading=reading(asked),
        filters=filter_settings(**{**TINY_FILTERS, **(filters or {})}),
        tokenizer=tokenizer_settings(**(tokenizer or {})),
        settings=pretokenize,
        removals=read_removals(pretokenize.removal_list),
    )


def write_shards(
    directory: Path,
    train: Sequence[Sequence[Sequence[int]]],
    val: Sequence[Sequence[Sequence[int]]],
    *,
    vocab_size: int,
    num_documents: int = 1,
) -> ShardsIndex:
    """Write shards by hand: per split the shards, per shard the rows; every row is document 0."""

    def one(name: str, rows: Sequence[Sequence[int]]) -> ShardIndex:
        (directory / f"{name}.bin").write_bytes(np.array(rows, dtype="<u2").tobytes())
        (directory / f"{name}.first.bin").write_bytes(bytes(4 * len(rows)))
        num_tokens = len(rows) * len(rows[0])
        return ShardIndex(name, len(rows), num_tokens, num_documents, 0, 0, 0, 0.0, 0.0)

    def split(name: str, shards: Sequence[Sequence[Sequence[int]]]) -> SplitIndex:
        (directory / name).mkdir(parents=True)
        entries = tuple(
            one(f"{name}/shard-{number:05d}", rows) for number, rows in enumerate(shards)
        )
        num_rows, num_tokens = (
            sum(getattr(entry, field) for entry in entries) for field in ("num_rows", "num_tokens")
        )
        return SplitIndex(
            num_rows, num_tokens, num_documents * len(entries), 0, 0, 0, 0.0, 0.0, entries
        )

    return ShardsIndex(
        vocab_size=vocab_size,
        end_of_text_id=0,
        dtype="uint16",
        context_length=len(train[0][0]) - 1,
        packing="concatenate",
        train=split("train", train),
        val=split("val", val),
    )
