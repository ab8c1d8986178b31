"""Tiny corpora, settings and hand-made shards that the tests of this folder share."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.pretokenize import PretokenizeSettings
from data.shard import ShardIndex, ShardSettings, ShardsIndex, SplitIndex
from data.source import SourceListing, SourceSettings, list_files

TEXTS = {
    "a.py": b"import os\n\n\ndef here():\n    return os.getcwd()\n",
    "b.py": b"import sys\n\n\ndef there():\n    return sys.path[0]\n",
    "crlf.py": b"x = 1\r\ny = 22\r\nz = 4444\r\n",
    "deep/c.py": b"class Deep:\n    def here(self):\n        return self.depth\n",
    "deep/d.py": b"class Deeper(Deep):\n    def there(self):\n        return self.depth + 1\n",
    "eot.py": b'END = "<|endoftext|>"\nprint("<|endoftext|>" + END)\n',
    "unicode.py": "name = 'Za\u017c\u00f3\u0142\u0107 \u6587\u5b57 \U0001f40d e\u0301'\n".encode(),
}


def quiet(what: str, done: int, total: int) -> None:
    assert what
    assert 0 <= done <= total


def source_settings(root: Path, **changes: Any) -> SourceSettings:
    settings: dict[str, Any] = {
        "kind": "directory",
        "path": str(root),
        "include": ("**/*.py",),
        "exclude": (),
        "licence": "MIT",
    }
    return SourceSettings(**(settings | changes))


def pretokenize_settings(**changes: Any) -> PretokenizeSettings:
    settings: dict[str, Any] = {
        "vocab_size": 280,
        "min_merge_frequency": 2,
        "validation_fraction": 0.3,
        "split_seed": 0,
        "max_file_bytes": 1000,
        "min_document_bytes": 1,
        "max_unk_ratio": 0.01,
        "min_distinct_ids": 20,
        "round_trip_documents": 100,
    }
    return PretokenizeSettings(**(settings | changes))


def shard_settings(**changes: Any) -> ShardSettings:
    return ShardSettings(**({"context_length": 7, "seed": 3, "shard_rows": 4} | changes))


def write_corpus(root: Path, texts: Mapping[str, bytes]) -> SourceListing:
    for path, content in texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return list_files(source_settings(root))


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
        return ShardIndex(name, len(rows), num_tokens, num_documents, 0, 0, 0.0, 0.0)

    def split(name: str, shards: Sequence[Sequence[Sequence[int]]]) -> SplitIndex:
        (directory / name).mkdir(parents=True)
        entries = tuple(
            one(f"{name}/shard-{number:05d}", rows) for number, rows in enumerate(shards)
        )
        num_rows, num_tokens = (
            sum(getattr(entry, field) for entry in entries) for field in ("num_rows", "num_tokens")
        )
        return SplitIndex(
            num_rows, num_tokens, num_documents * len(entries), 0, 0, 0.0, 0.0, entries
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
