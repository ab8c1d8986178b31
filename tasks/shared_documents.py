"""Texts that stand in both splits of some shards: there must be none."""

from pathlib import Path

import pyarrow.parquet as pq

from data.documents import DOCUMENTS
from data.shard import SUFFIXES, ShardIndex, ShardsIndex


def num_shared_documents(directory: Path, index: ShardsIndex) -> int:
    """Count the texts that are in both splits; of the larger one, only a shard is in memory."""
    held_out = {digest for entry in index.val.shards for digest in _texts(directory, entry)}
    return sum(len(held_out & _texts(directory, entry)) for entry in index.train.shards)


def _texts(directory: Path, entry: ShardIndex) -> set[str]:
    table = pq.read_table(directory / f"{entry.name}{SUFFIXES[DOCUMENTS]}", columns=["sha256"])
    return set(table["sha256"].to_pylist())
