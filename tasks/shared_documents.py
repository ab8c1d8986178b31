"""Texts that stand in both splits of some shards: there must be none."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data.digests import DIGEST_BYTES, digests_of, shared_digests
from data.documents import DOCUMENTS
from data.shard import SUFFIXES, ShardIndex, ShardsIndex


def num_shared_documents(directory: Path, index: ShardsIndex) -> int:
    """Count the texts that are in both splits; of the larger one, only a shard is in memory."""
    nothing = np.empty((0, DIGEST_BYTES), np.uint8)
    held_out = [nothing, *(_texts(directory, entry) for entry in index.val.shards)]
    trained_on = (_texts(directory, entry) for entry in index.train.shards)
    return len(shared_digests(np.concatenate(held_out), trained_on))


def _texts(directory: Path, entry: ShardIndex) -> NDArray[np.uint8]:
    table = pq.read_table(directory / f"{entry.name}{SUFFIXES[DOCUMENTS]}", columns=["sha256"])
    return digests_of(table["sha256"])
