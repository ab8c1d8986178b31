"""Which document goes to which shard, and in which order.

A keyed digest of a document's group decides, and nothing else: neither the order of the source,
nor the number of workers, nor any other document. One that is opted out later changes its own
shard and no other. Documents of one group follow each other.

Legend: D documents of the corpus, M documents of one split, in shuffled order.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from data.digests import DIGEST_BYTES, digests_of, shared_digests
from data.documents import DOCUMENTS, read_pieces
from data.errors import CorruptTokensError, LeakError
from data.split import SPLITS, SplitName

VERSION = 1
PIECE_DOCUMENTS = 2**22
"""Documents that are sorted or compared at a time; of the others, some bytes are in memory."""
STARTS, LENGTHS, DIGESTS = "starts.npy", "lengths.npy", "digests.npy"


def make_plan(
    out: Path,
    tokens: Path,
    *,
    num_documents: int,
    num_tokens: int,
    seed: int,
    num_shards: dict[SplitName, int],
) -> None:
    """Write where every document lies, and for each split the documents of every shard in order.

    Raises: CorruptTokensError, LeakError.
    """
    key_D = np.empty(num_documents, np.uint64)
    is_val_D = np.empty(num_documents, np.bool_)
    length_D = open_memmap(out / LENGTHS, "w+", np.int64, (num_documents,))
    digest_D32 = open_memmap(out / DIGESTS, "w+", np.uint8, (num_documents, DIGEST_BYTES))
    done = 0
    for piece in read_pieces(tokens / DOCUMENTS, ["sha256", "num_tokens", "group", "split"]):
        here = slice(done, done + piece.num_rows)
        done += piece.num_rows
        if done > num_documents:
            break
        key_D[here] = [_key(seed, group) for group in piece["group"].to_pylist()]
        is_val_D[here] = [split == "val" for split in piece["split"].to_pylist()]
        length_D[here] = piece["num_tokens"].to_numpy()
        digest_D32[here] = digests_of(piece["sha256"])
    if (done, int(length_D.sum())) != (num_documents, num_tokens):
        expected = f"{num_documents} documents of {num_tokens} tokens"
        found = f"{done} documents or more of {int(length_D.sum())} tokens"
        raise CorruptTokensError(tokens / DOCUMENTS, found, expected)
    _refuse_shared(tokens / DOCUMENTS, digest_D32, is_val_D)
    _write_starts(out / STARTS, length_D)
    for split in SPLITS:
        is_mine_D = is_val_D if split == "val" else ~is_val_D
        order_M = open_memmap(out / order_file(split), "w+", np.int64, (int(is_mine_D.sum()),))
        np.save(out / bounds_file(split), _sort(key_D, is_mine_D, num_shards[split], order_M))


def _write_starts(path: Path, length_D: NDArray[np.int64]) -> None:
    start_D = open_memmap(path, "w+", np.int64, length_D.shape)
    total = 0
    for first in range(0, len(length_D), PIECE_DOCUMENTS):
        ends = total + np.cumsum(length_D[first : first + PIECE_DOCUMENTS])
        start_D[first : first + len(ends)] = ends - length_D[first : first + len(ends)]
        total = int(ends[-1])


def _sort(
    key_D: NDArray[np.uint64],
    is_mine_D: NDArray[np.bool_],
    num_shards: int,
    order_M: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Order documents by key, then number; return where each shard begins, and the last one ends.

    A shard has the keys of a range, all of equal width. Keys are hashes, so that ranges of them
    hold about equally many documents: they are sorted one range after the other.
    """
    edges = np.array([number * 2**64 // num_shards for number in range(num_shards)], np.uint64)
    bounds, done = np.zeros(num_shards + 1, np.int64), 0
    num_ranges = -(-len(order_M) // PIECE_DOCUMENTS)
    for number in range(num_ranges):
        least, most = 2**64 * number // num_ranges, 2**64 * (number + 1) // num_ranges - 1
        inside_D = (key_D >= np.uint64(least)) & is_mine_D
        inside_D &= key_D <= np.uint64(most)
        mine = np.flatnonzero(inside_D)
        keys = key_D[mine]
        order = np.argsort(keys, kind="stable")
        order_M[done : done + len(mine)] = mine[order]
        bounds[:-1] += np.searchsorted(keys[order], edges)
        done += len(mine)
    bounds[-1] = done
    return bounds


def order_file(split: SplitName) -> str:
    """Name the file with the documents of a split in shuffled order."""
    return f"{split}-order.npy"


def bounds_file(split: SplitName) -> str:
    """Name the file that says where in that order each shard begins, and the last one ends."""
    return f"{split}-bounds.npy"


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """The documents of one shard, in the order of its stream."""

    starts_M: NDArray[np.int64]
    lengths_M: NDArray[np.int64]
    digests_M32: NDArray[np.uint8]

    @classmethod
    def read(cls, plan: Path, split: SplitName, number: int) -> "ShardPlan":
        """Read what a plan says about one shard."""
        begin, end = np.load(plan / bounds_file(split))[number : number + 2]
        documents_M = np.array(np.load(plan / order_file(split), mmap_mode="r")[begin:end])
        starts, lengths, digests = (
            np.load(plan / name, mmap_mode="r")[documents_M] for name in (STARTS, LENGTHS, DIGESTS)
        )
        return cls(starts, lengths, digests)

    @property
    def sha256(self) -> str:
        """Digest of the documents' contents, in order."""
        return hashlib.sha256(self.digests_M32.tobytes()).hexdigest()

    def hex_digest(self, place: int) -> str:
        """Return the sha256 of a document's text."""
        return str(self.digests_M32[place].tobytes().hex())


def _key(seed: int, group: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(f"{seed}:{group}".encode(), digest_size=8).digest(), "big"
    )


def _refuse_shared(path: Path, digest_D32: NDArray[np.uint8], is_val_D: NDArray[np.bool_]) -> None:
    """Refuse a table in which the same text is on both sides."""
    pieces = range(0, len(digest_D32), PIECE_DOCUMENTS)
    here = (slice(first, first + PIECE_DOCUMENTS) for first in pieces)
    trained_on = (digest_D32[piece][~is_val_D[piece]] for piece in here)
    if shared := shared_digests(digest_D32[is_val_D], trained_on):
        raise LeakError(path, len(shared), min(shared).hex())
