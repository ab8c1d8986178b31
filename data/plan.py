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

from data.digests import DIGEST_BYTES, digests_of
from data.documents import DOCUMENTS, read_pieces
from data.errors import CorruptTokensError, LeakError
from data.split import SPLITS, SplitName

VERSION = 1
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
    start_D = open_memmap(out / STARTS, "w+", np.int64, (num_documents,))
    start_D[:] = np.cumsum(length_D) - length_D
    for split in SPLITS:
        mine_M = np.flatnonzero(is_val_D == (split == "val"))
        order_M = mine_M[np.argsort(key_D[mine_M], kind="stable")]
        np.save(out / order_file(split), order_M)
        np.save(out / bounds_file(split), _bounds(key_D[order_M], num_shards[split]))


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


def _bounds(key_M: NDArray[np.uint64], num_shards: int) -> NDArray[np.int64]:
    """Divide sorted keys into ranges of keys of equal width."""
    edges = [np.uint64(number * 2**64 // num_shards) for number in range(num_shards)]
    return np.append(np.searchsorted(key_M, np.array(edges, np.uint64)), len(key_M))


def _refuse_shared(path: Path, digest_D32: NDArray[np.uint8], is_val_D: NDArray[np.bool_]) -> None:
    """Refuse a table in which the same text is on both sides."""
    first_D = np.ascontiguousarray(digest_D32[:, :8]).view(np.uint64)[:, 0]
    suspects = np.intersect1d(first_D[is_val_D], first_D[~is_val_D])
    is_suspect_D = np.isin(first_D, suspects)
    held_out, trained_on = (
        {digest_D32[place].tobytes() for place in np.flatnonzero(is_suspect_D & side_D)}
        for side_D in (is_val_D, ~is_val_D)
    )
    if shared := held_out & trained_on:
        raise LeakError(path, len(shared), min(shared).hex())
