"""Pieces of the first two stages on made-up input of a size, and the most memory they allocate.

    python -m tests.data.memory_run WHAT SIZE DIRECTORY

A process of its own for each size: what one has freed another might use again. Working sets of a
fixed size are made small, for what is looked for is what grows.
"""

import json
import sys
import sysconfig
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tokenizers import Tokenizer as HuggingFace

from data import (
    checked_encoder,
    cut,
    plan,
    settlement,
    source_columns,
    source_tables,
    tokenizer_sample,
)
from data.array_file import ArrayWriter
from data.documents import DOCUMENTS, TableWriter
from data.duplicates import exact_duplicates, near_duplicates
from data.encoders import Encoded
from data.intake import DIGESTS, SIGNATURES
from data.minhash import NUM_PERMUTATIONS
from data.pretokenize import pretokenize
from data.removals import FIELDS, Removals
from data.shard import shard
from data.split import Holdout
from data.text_buffer import TextBuffer
from data.units import Given
from tests.data.anonymous_memory import Peaks, WatchedUnits
from tests.data.candidates import filter_settings
from tests.data.corpus import bounds, corpus_of, shard_settings

PIECE = 20_000
"""Documents that are made up at a time."""
WORKING_BYTES = 2**21


def digests(first: int, num: int) -> NDArray[np.uint8]:
    """Make up digests; every hundredth document is a copy of the one before, on its side."""
    number_D = np.arange(first, first + num, dtype=np.uint64)
    number_D -= (number_D % np.uint64(100) == 99).astype(np.uint64)
    odd = np.array([0x9E3779B97F4A7C15, 2**61 - 1, 3, 5], np.uint64)
    return np.ascontiguousarray(((number_D[:, None] + odd) * odd).astype(">u8")).view(np.uint8)


def named(first: int, num: int) -> list[str]:
    """Say the same digests in hex."""
    return [digest.tobytes().hex() for digest in digests(first, num)]


def taken_in(num_documents: int, directory: Path) -> list[Path]:
    """Make up two units as far as settlement looks at them."""
    units, drawn = [directory / "one", directory / "two"], np.random.default_rng(0)
    for number, unit in enumerate(units):
        unit.mkdir(parents=True)
        with (
            ArrayWriter(unit / DIGESTS, (32,), np.uint8) as own,
            ArrayWriter(unit / SIGNATURES, (NUM_PERMUTATIONS,), np.uint32) as sketches,
            TableWriter(unit / DOCUMENTS, pa.schema([(f, pa.string()) for f in FIELDS])) as table,
        ):
            for first in range(0, num_documents // 2, PIECE):
                begin = number * num_documents // 2 + first
                own.write(digests(begin, PIECE))
                sketches.write(drawn.integers(0, 2**32, (PIECE, NUM_PERMUTATIONS), np.uint32))
                table.write(pa.table(dict.fromkeys(FIELDS, named(begin, PIECE))))
    return units


def settle(num_documents: int, directory: Path) -> Callable[[Peaks], object]:
    """Settle two units, one document of which was opted out."""
    for search in (exact_duplicates, near_duplicates):
        setattr(settlement, search.__name__, partial(search, memory_bytes=WORKING_BYTES))
    units = taken_in(num_documents, directory)
    (directory / "out").mkdir()
    return lambda _: settlement.settle_units(
        directory / "out",
        *units,
        filters=filter_settings(),
        removals=Removals((named(7, 1)[0],)),
        holdout=Holdout(validation_fraction=0.01, seed=0, group_by="document"),
    )


def make_plan(num_documents: int, directory: Path) -> Callable[[Peaks], object]:
    """Spread documents over shards."""
    plan.PIECE_DOCUMENTS = PIECE
    names = ("sha256", "group", "split")
    schema = pa.schema([*((n, pa.string()) for n in names), ("num_tokens", pa.int64())])
    with TableWriter(directory / DOCUMENTS, schema) as table:
        for first in range(0, num_documents, PIECE):
            own = named(first, PIECE)
            sides = ["val" if number % 100 == 0 else "train" for number in range(PIECE)]
            columns = {"sha256": own, "group": own, "split": sides, "num_tokens": [9] * PIECE}
            table.write(pa.table(columns, schema=schema))
    (directory / "out").mkdir()
    return lambda _: plan.make_plan(
        directory / "out",
        directory,
        num_documents=num_documents,
        num_tokens=9 * num_documents,
        seed=1,
        num_shards={"train": 16, "val": 2},
    )


class CharacterEncoder:
    """An engine of ASCII without a merge; what the real ones remember hides what grows."""

    def __init__(self, definition: str) -> None:
        self.name = "characters"
        engine = HuggingFace.from_str(definition)
        self.ids_128 = np.array([engine.encode(chr(code)).ids[0] for code in range(128)], np.uint32)

    def encode(self, texts: pa.LargeStringArray) -> Encoded:
        """Encode texts."""
        buffer = TextBuffer.of(texts)
        return Encoded(self.ids_128[buffer.data], buffer.lengths)


def both_stages(num_bytes: int, directory: Path) -> Callable[[Peaks], object]:
    """Pretokenize and shard one file; shards are all of one size."""
    vars(checked_encoder)["opened"] = lambda _, definition: CharacterEncoder(definition)
    for module in (source_columns, source_tables, tokenizer_sample):
        vars(module)["BATCH_BYTES"] = WORKING_BYTES // 4
    cut.BLOCK_TOKENS = WORKING_BYTES // 8
    text = pa.schema([("path", pa.string()), ("text", pa.large_string())])
    (directory / "source").mkdir()
    with pq.ParquetWriter(directory / "source" / "one.parquet", text) as writer:
        for rows in pieces_of_text(num_bytes):
            writer.write_table(pa.Table.from_pylist(rows, text))
    source = {"kind": "parquet", "include": ("*",), "text_column": "text", "path_column": "path"}
    corpus = corpus_of(
        directory / "source",
        source={**source, "unit_bytes": 0, "licence": ""},
        filters={"max_file_bytes": 10**6, "max_lines": 10**6},
        tokenizer={"vocab_size": 257, "sample_bytes": 10**6},
        validation_fraction=0.01,
        round_trip_share=0.01,
    )
    settings = shard_settings(
        context_length=255, train_shards=max(num_bytes // 2**22, 1), baseline_tokens=10**5
    )

    def run(peaks: Peaks) -> None:
        units = WatchedUnits(directory / "units", peaks)
        for name in ("tokens", "shards"):
            (directory / name).mkdir()
        index = pretokenize(corpus, units, out=directory / "tokens")
        given = Given("tokens", directory / "tokens")
        shard(given, index, settings, bounds(), units, out=directory / "shards")

    return run


def pieces_of_text(num_bytes: int) -> Iterator[list[dict[str, str]]]:
    """Yield the standard library's ASCII again and again, its lines in another order each time.

    A tenth of the files are copies.
    """
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    contents = [path.read_bytes().decode("ascii", "ignore") for path in paths]
    turn, done, drawn = 0, 0, np.random.default_rng(0)
    while True:
        rows = []
        for number, content in enumerate(contents):
            lines = content.splitlines(keepends=True)
            text = "".join(drawn.permuted(lines)) if number % 10 else content
            rows.append({"path": f"{turn}/{paths[number].name}", "text": text})
            done += len(content)
            if done >= num_bytes:
                yield rows
                return
        yield rows
        turn += 1


PARTS: dict[str, Callable[[int, Path], Callable[[Peaks], object]]] = {
    "settle": settle,
    "plan": make_plan,
    "both stages": both_stages,
}


def main(what: str, size: int, directory: Path) -> None:
    """Print as JSON how many bytes are allocated at most, by what is done."""
    run, peaks = PARTS[what](size, directory), Peaks()
    with peaks.watching(), peaks.of(what):
        run(peaks)
    print(json.dumps(peaks.bytes))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
