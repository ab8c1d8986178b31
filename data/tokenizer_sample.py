"""The documents that a tokenizer is trained on and proven with, and what must not be among them.

The sample is drawn before it is known what was opted out; what was is left out when the tokenizer
is trained. So a removal changes the tokenizer if it hits the sample, and else does not.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.candidates import BATCH_BYTES, Source, SourceUnit
from data.documents import read_pieces
from data.errors import NoTrainingDocumentsError
from data.filter_settings import FilterSettings
from data.removals import FIELDS, Removals
from data.screen import SCREENED, screen
from data.split import SPLITS, Holdout, SplitName
from data.text_sample import Sampled, TextSample
from data.tokenizer import TokenizerSettings

VERSION = 1
VISITS = 64
"""Units that a sample comes from, more of them if it is large."""
UNIT_SHARE_BYTES = 16 * 2**20
"""What a unit gives to a large sample."""
PROOF_BYTES = 32 * 2**20
"""Held-out text that a tokenizer must give back byte for byte: some 10,000 documents."""
NAMED = "named.parquet"
NAMES = pa.schema([SCREENED.field(name) for name in FIELDS])
DOCUMENTS = NAMES.append(SCREENED.field("text"))


def visits(units: Sequence[SourceUnit], settings: TokenizerSettings) -> tuple[SourceUnit, ...]:
    """Choose the units that the sample comes from, in an order that the seed decides.

    A small sample of a large corpus comes from many places and costs little reading.
    """
    order = np.random.default_rng(settings.sample_seed).permutation(len(units))
    num_visits = max(VISITS, -(-settings.sample_bytes // UNIT_SHARE_BYTES))
    return tuple(units[number] for number in order[:num_visits])


def draw_sample(
    out: Path,
    *fetched: Path,
    source: Source,
    visited: Sequence[tuple[SourceUnit, int]],
    filters: FilterSettings,
    settings: TokenizerSettings,
    holdout: Holdout,
) -> None:
    """Draw documents of both sides from units, each visited with so many of the inputs `fetched`.

    Raises: NoTrainingDocumentsError, and what reading the source raises.
    """
    samples: dict[SplitName, TextSample] = {
        "train": TextSample(settings.sample_bytes, settings.sample_seed),
        "val": TextSample(PROOF_BYTES, settings.sample_seed),
    }
    directories, num_documents = iter(fetched), 0
    for unit, num_inputs in visited:
        for batch in source.read(unit, *islice(directories, num_inputs)):
            documents, _ = screen(batch, filters)
            num_documents += documents.num_rows
            for sha256, names, text in _listed(documents):
                group = holdout.group(sha256, names[FIELDS.index("repository")])
                samples[holdout.side(group)].add(sha256, text, names)
    if not samples["train"].num_bytes:
        raise NoTrainingDocumentsError(num_documents, holdout.validation_fraction)
    for split in SPLITS:
        _write(out / sample_file(split), samples[split])


def _listed(documents: pa.RecordBatch) -> Iterator[tuple[str, tuple[str, ...], str]]:
    names = zip(*(documents[name].to_pylist() for name in FIELDS), strict=True)
    return zip(documents["sha256"].to_pylist(), names, documents["text"].to_pylist(), strict=True)


def name_sample(out: Path, sample: Path) -> None:
    """Write what the training documents are called, without their text."""
    pq.write_table(pq.read_table(sample / sample_file("train"), columns=NAMES.names), out / NAMED)


def removed_digests(named: Path, removals: Removals) -> list[str]:
    """Return the digests of the training documents that were opted out."""
    return [
        sha256
        for piece in read_pieces(named / NAMED)
        for sha256, detail in zip(piece["sha256"].to_pylist(), removals.details(piece), strict=True)
        if detail
    ]


def sampled_texts(sample: Path, split: SplitName, removals: Removals) -> Iterator[str]:
    """Yield the texts of a side that were not opted out, in the order of their digests."""
    with pq.ParquetFile(sample / sample_file(split)) as file:
        for group in range(file.num_row_groups):
            for piece in file.read_row_group(group).to_batches():
                details = removals.details(piece)
                texts = piece["text"].to_pylist()
                yield from (t for t, detail in zip(texts, details, strict=True) if not detail)


def count_sample(sample: Path) -> int:
    """Count the training documents of a sample, the opted out ones included."""
    return int(pq.read_metadata(sample / sample_file("train")).num_rows)


def sample_file(split: SplitName) -> str:
    """Name the table of the documents of a side."""
    return f"{split}.parquet"


def _write(path: Path, sample: TextSample) -> None:
    """Write the documents of a sample in pieces of bounded text."""
    with pq.ParquetWriter(path, DOCUMENTS, compression="zstd") as writer:
        rows, num_bytes = list[Sampled](), 0
        for document in sample.documents():
            rows.append(document)
            num_bytes += len(document.content)
            if num_bytes >= BATCH_BYTES:
                writer.write_table(_table(rows))
                rows, num_bytes = [], 0
        if rows:
            writer.write_table(_table(rows))


def _table(rows: Sequence[Sampled]) -> pa.Table:
    names = [
        pa.array([row.names[place] for row in rows], pa.string()) for place in range(len(FIELDS))
    ]
    texts = pa.array([row.content for row in rows], pa.large_binary()).cast(pa.large_string())
    return pa.table([*names, texts], schema=DOCUMENTS)
