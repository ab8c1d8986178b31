"""Rows from shards to batches of int64, in millions of tokens per second of one core.

    python -m tests.benchmarks.loader CORPUS [--repeats 3] [--context 1024] [--rows 32]

The shards hold the ids of the corpus. Read are all rows once, in order and shuffled, by `data.rows`
and `data.batches`; against a numpy memmap sliced row by row and copied into a batch, and against
torch's DataLoader over a data set that slices the same memmap.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data.batches import batches
from data.encoders import open_engine
from data.rows import Rows, blocks, open_rows
from data.shard import ShardIndex, ShardsIndex, SplitIndex
from data.tokenizer import Tokenizer
from tests.benchmarks.encode import batches as text_batches
from tests.benchmarks.encode import parts
from tests.benchmarks.harness import (
    Contender,
    compare,
    print_header,
    print_table,
    report,
    timed,
)

MODULE = "tests.benchmarks.loader"
SHARD_ROWS = 50_000
MAX_TOKENS = 200_000_000


def write_shards(corpus: Path, out: Path, context: int) -> int:
    """Write the corpus as rows; return their number. Nothing is shuffled: that is not timed."""
    tokenizer = Tokenizer.load(corpus / "tokenizer.json")
    encoder = open_engine("gigatoken", tokenizer.engine_definition)
    (out / "train").mkdir(parents=True)
    pending: list[NDArray[Any]] = []
    num_tokens = number = num_rows = 0
    for texts in text_batches(parts(corpus, "whole")):
        pending.append(encoder.encode(texts).ended(tokenizer.end_of_text_id, np.dtype("<u2")))
        num_tokens += len(pending[-1])
        if num_tokens >= SHARD_ROWS * (context + 1):
            num_rows += _write_shard(out, number, pending, context)
            pending, num_tokens, number = [], 0, number + 1
        if num_rows * context >= MAX_TOKENS:
            break
    return num_rows


def _write_shard(out: Path, number: int, pending: list[NDArray[Any]], context: int) -> int:
    rows = np.concatenate(pending)[: SHARD_ROWS * (context + 1)]
    num_rows = len(rows) // (context + 1)
    rows.tofile(out / "train" / f"shard-{number:05d}.bin")
    (out / "train" / f"shard-{number:05d}.first.bin").write_bytes(bytes(4 * num_rows))
    return num_rows


def shard_files(directory: Path) -> list[Path]:
    """List the files of rows."""
    return sorted((directory / "train").glob("shard-[0-9]*[0-9].bin"))


def index_of(directory: Path, context: int) -> ShardsIndex:
    """Describe the shards."""
    row_tokens = context + 1
    shards = []
    for path in shard_files(directory):
        num_rows = path.stat().st_size // (2 * row_tokens)
        name = f"train/{path.stem}"
        shards.append(ShardIndex(name, num_rows, num_rows * row_tokens, 1, 0, 0, 0, 0.0, 0.0))
    num_rows = sum(shard.num_rows for shard in shards)
    num_tokens = num_rows * row_tokens
    split = SplitIndex(num_rows, num_tokens, len(shards), 0, 0, 0, 0.0, 0.0, tuple(shards))
    return ShardsIndex(50_257, 0, "uint16", context, "concatenate", split, split)


def ours_in_order(rows: Rows, _: Path, batch: int) -> Iterator[Any]:
    """Read every row in order."""
    return map(rows.take, blocks(np.arange(len(rows)), batch))


def ours_shuffled(rows: Rows, _: Path, batch: int) -> Iterator[Any]:
    """Read every row once, shuffled."""
    return batches(rows, batch_rows=batch, seed=0, max_passes=1)


def _memmaps(rows: Rows, directory: Path) -> list[NDArray[Any]]:
    files = shard_files(directory)
    return [np.memmap(path, "<u2", "r").reshape(-1, rows.row_tokens) for path in files]


def _places(rows: Rows, directory: Path) -> list[tuple[NDArray[Any], int]]:
    return [(shard, row) for shard in _memmaps(rows, directory) for row in range(len(shard))]


def memmap_in_order(rows: Rows, directory: Path, batch: int) -> Iterator[Any]:
    """Slice a memmap a batch at a time: all that can be left out is left out."""
    for shard in _memmaps(rows, directory):
        for first in range(0, len(shard), batch):
            yield shard[first : first + batch].astype(np.int64)


def memmap_shuffled(rows: Rows, directory: Path, batch: int) -> Iterator[Any]:
    """Slice a memmap row by row, as training loops of a page do, and stack."""
    places = _places(rows, directory)
    order = np.random.default_rng(0).permutation(len(places))
    for first in range(0, len(order) - batch + 1, batch):
        chosen = [places[place] for place in order[first : first + batch]]
        yield np.stack([shard[row].astype(np.int64) for shard, row in chosen])


class _RowsOfMemmap(torch.utils.data.Dataset[Any]):
    def __init__(self, places: list[tuple[NDArray[Any], int]]) -> None:
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, place: int) -> torch.Tensor:
        shard, row = self._places[place]
        return torch.from_numpy(shard[row].astype(np.int64))


def torch_shuffled(rows: Rows, directory: Path, batch: int) -> Iterator[Any]:
    """Read through torch's DataLoader in this process."""
    data = _RowsOfMemmap(_places(rows, directory))
    return iter(torch.utils.data.DataLoader(data, batch_size=batch, shuffle=True, drop_last=True))


WAYS: dict[str, Callable[[Rows, Path, int], Iterator[Any]]] = {
    "assay in order": ours_in_order,
    "assay shuffled": ours_shuffled,
    "memmap in order": memmap_in_order,
    "memmap shuffled": memmap_shuffled,
    "DataLoader shuffled": torch_shuffled,
}


def contend(directory: Path, way: str, context: int, batch: int) -> None:
    """Read everything once in one way, after the page cache was warmed."""
    torch.set_num_threads(1)
    rows = open_rows(directory, index_of(directory, context), "train")
    for path in (directory / "train").iterdir():
        path.read_bytes()
    num_tokens = last = 0
    with timed() as timing:
        for ids in WAYS[way](rows, directory, batch):
            num_tokens += ids.shape[0] * ids.shape[1]
            last ^= int(ids[-1, -1])
    report(timing, amount=num_tokens / 1e6, last=last)


def main() -> None:
    """Compare the ways, or be one of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--way", choices=tuple(WAYS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        contend(options.corpus, options.way, options.context, options.rows)
        return
    with tempfile.TemporaryDirectory() as name:
        num_rows = write_shards(options.corpus, Path(name), options.context)
        print_header("Rows from shards", ("numpy", "torch"))
        print(f"{num_rows} rows of {options.context} + 1 tokens, {options.rows} a batch\n")
        sizes = ("--context", str(options.context), "--rows", str(options.rows))
        contenders = [Contender(way, MODULE, (name, "--way", way, *sizes)) for way in WAYS]
        results = compare(contenders, repeats=options.repeats, unit="M tokens")
        print_table(results, reference="DataLoader shuffled")


if __name__ == "__main__":
    main()
