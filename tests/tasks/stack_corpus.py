"""The Stack v2 in small, with all that goes wrong in it: both layouts, and a bucket of blobs."""

import gzip
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flows.settings import PipelineSettings, load_settings
from tests.data.sources import Blob, python_of, write_file_rows, write_repository_rows
from tests.data.stack_server import StackServer

FILES_EACH = 10
NUM_PER_LAYOUT = 1050
OPTED_OUT = "someone/repo17"
"""A name in both index files: they number their repositories alike."""
NAMES = ("total", "item", "value", "index", "result", "count", "left", "right", "path", "key")
KEY = "AKIA" + "Z7QX4MJT2WLK9RBD"
"""What looks like a credential, and is none."""
DAMAGE: dict[int, tuple[str, bytes | None]] = {
    60: ("missing key", None),
    160: ("bad gzip", b"not gzip at all"),
    260: ("sha1 mismatch", gzip.compress(b"other", mtime=0)),
    360: ("bad gzip", gzip.compress(b"x = 1\n" * 50, mtime=0)[:-12]),
}
OVERRIDES = (
    'source.kind="the-stack-v2"',
    'source.include=["**/*.parquet"]',
    "source.exclude=[]",
    'source.licence=""',
    'source.language="Python"',
    "source.unit_bytes=200_000",
    'source.contents="s3://archive/content"',
    "source.max_blob_bytes=100_000",
    "source.max_missing_share=0.1",
    'filters.allowed_licences=["MIT", "Apache-2.0"]',
    "filters.min_alphabetic_share=0.2",
    # Small enough to hold nothing of what is opted out.
    "tokenizer.sample_bytes=30_000",
    "tokenizer.vocab_size=400",
    "model.vocab_size=400",
    'tokenizer.engine="tokenizers"',
    "pretokenize.validation_fraction=0.2",
    "pretokenize.min_distinct_ids=80",
    "shard.train_shards=8",
    "shard.val_shards=4",
    "runtime.fetch_requests=8",
    "runtime.fetch_retries=3",
)


def stack_settings(index: Path | str, changes: Sequence[str] = ()) -> PipelineSettings:
    """Return settings that pretokenize an index."""
    return load_settings("smoke", (*OVERRIDES, f'source.path="{index}"', *changes))


def put_stack(index: Path, server: StackServer, num_per_layout: int = NUM_PER_LAYOUT) -> int:
    """Write an index of both layouts and its blobs; return how many are in the language."""
    blobs = _blobs(2 * num_per_layout)
    halves = [_repositories(blobs[:num_per_layout]), _repositories(blobs[num_per_layout:])]
    write_file_rows(index / "files.parquet", halves[0])
    write_repository_rows(index / "repositories.parquet", halves[1])
    stored = {f"content/{b.blob_id}": b.object for b in blobs if b.object is not None}
    server.put("archive", stored)
    return sum(1 for half in halves for _ in python_of(half))


def _repositories(blobs: Sequence[Blob]) -> list[list[Blob]]:
    return [list(blobs[start : start + FILES_EACH]) for start in range(0, len(blobs), FILES_EACH)]


def _blobs(num: int) -> list[Blob]:
    drawn = random.Random(7)
    texts = [_text(drawn, number) for number in range(num)]
    blobs = [_blob(number, texts, drawn) for number in range(num)]
    return [
        replace(blob, stored=DAMAGE[number][1]) if number in DAMAGE else blob
        for number, blob in enumerate(blobs)
    ]


def _blob(number: int, texts: Sequence[str], drawn: random.Random) -> Blob:
    """Every so often something is wrong; numbers modulo a hundred tell what."""
    text, path = texts[number], f"/src/f{number}.py"
    latin = f"# caf\xe9\n{text}".encode("latin-1")
    earlier = drawn.randrange(max(number // 100, 1)) * 100
    licences = (("MIT",), ("Apache-2.0", "MIT"))[number % 2]
    odd = {
        3: Blob(text.encode(), f"/src/c{number}.c", language="C"),
        13: Blob(latin, path, encoding="ISO-8859-1"),
        # Says UTF-8, and is not.
        23: Blob(latin, path),
        33: Blob(f"{text}\0".encode(), path),
        43: Blob(f'{text}\naws_key = "{KEY}"\n'.encode(), path),
        53: Blob(text.encode(), path, licences=("GPL-3.0-only",)),
        63: Blob(text.encode(), path, licences=()),
        # As it stands in another repository, often in another unit.
        73: Blob(texts[earlier + 1].encode(), path),
        83: Blob(_nearly(texts[earlier + 2], number), path),
        93: Blob(text.encode(), f"/vendor/f{number}.py"),
    }
    return odd.get(number % 100, Blob(text.encode(), path, licences=licences))


def _nearly(text: str, number: int) -> bytes:
    """Say the same with another last line, and deeper."""
    return "\n".join(f"  {line}" for line in [*text.split("\n"), f"last = {number}"]).encode()


def _text(drawn: random.Random, number: int) -> str:
    lines = [f'"""Module number {number}."""']
    for _ in range(drawn.randint(12, 24)):
        a, b, c = (drawn.choice(NAMES) for _ in range(3))
        lines.append(f"def {a}_{b}_{drawn.randint(0, 999)}({c}, {b}={drawn.randint(0, 99)}):")
        lines.append(f"    for {a} in {c}:\n        {b} += {a} * {drawn.randint(2, 99)}")
        lines.append(f"    return {drawn.choice([b, c])}\n")
    return "\n".join(lines) + "\n"
