"""The most memory that pretokenize and shard allocate at once, for corpora of several sizes.

    python -m tests.benchmarks.memory CORPUS [--parts 1 3 7]

Both stages run in one process, their units one after the other, with all filters of the demo preset
on the first so many parts of the corpus; then with the whole corpus as one file, which is one unit.
Counted is what is allocated (RssAnon), not the pages of mapped files, which the kernel takes back.
"""

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq

from data.baselines import count_and_score
from data.pretokenize import pretokenize
from data.rows import open_rows
from data.shard import shard
from data.units import Given
from tests.benchmarks.harness import MEGABYTE, ROOT, Contender, print_header, report, timed
from tests.benchmarks.pretokenize import SHARDING, asked
from tests.data.anonymous_memory import Peaks, WatchedUnits

MODULE = "tests.benchmarks.memory"


def contend(corpus: Path, scratch: Path) -> None:
    """Run both stages on a corpus; report the peaks."""
    for name in ("tokens", "shards"):
        (scratch / name).mkdir()
    peaks = Peaks()
    with timed() as timing, peaks.watching():
        units, wanted = WatchedUnits(scratch / "units", peaks), asked(corpus, "all filters")
        with peaks.of("assemble"):
            index = pretokenize(wanted, units, out=scratch / "tokens")
        tokens, bounds = Given("tokens", scratch / "tokens"), wanted.settings.bounds
        shards = shard(tokens, index, SHARDING, bounds, units, out=scratch / "shards")
        rows = partial(open_rows, scratch / "shards", shards)
        with peaks.of("baselines"):
            count_and_score(
                rows("train"),
                rows("val"),
                shards.vocab_size,
                max_train_tokens=SHARDING.baseline_tokens,
            )
    report(
        timing,
        peaks={name: num_bytes / MEGABYTE for name, num_bytes in peaks.bytes.items()},
        megabytes=index.num_bytes / MEGABYTE,
        documents=index.num_documents,
    )


def as_one_file(parts: Sequence[Path], path: Path) -> None:
    """Write parts one after the other as one file."""
    with pq.ParquetWriter(path, pq.read_schema(parts[0]), compression="zstd") as writer:
        for part in parts:
            writer.write_table(pq.read_table(part), row_group_size=1000)


def measured(corpus: Path, num_parts: int, *, is_one_file: bool) -> dict[str, object]:
    """Run a corpus of the first so many parts in a process of its own."""
    parts = sorted(corpus.glob("part-*.parquet"))[:num_parts]
    with tempfile.TemporaryDirectory() as directory:
        own = Path(directory, "corpus")
        own.mkdir()
        shutil.copy(corpus / "tokenizer.json", own)
        if is_one_file:
            as_one_file(parts, own / "one.parquet")
        else:
            for part in parts:
                shutil.copy(part, own)
        return Contender("memory", MODULE, (str(own), "--here")).run()


def main() -> None:
    """Print the peaks of every size, by what was done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--parts", type=int, nargs="+", default=[1, 3, 7])
    parser.add_argument("--here", action="store_true", help="this corpus, in this process")
    options = parser.parse_args()
    if options.here:
        with tempfile.TemporaryDirectory() as directory:
            contend(options.corpus, Path(directory))
        return
    print_header("Most memory allocated at once, in MB", ("numpy", "pyarrow", "gigatoken"))
    print(f"at {ROOT.name}: text MB, documents, then MB allocated by what was done\n")
    sizes = [(num, False) for num in options.parts] + [(options.parts[-1], True)]
    for num_parts, is_one_file in sizes:
        found = measured(options.corpus, num_parts, is_one_file=is_one_file)
        how = "one file" if is_one_file else f"{num_parts} files"
        print(how, {name: found[name] for name in ("megabytes", "documents", "peaks")}, flush=True)


if __name__ == "__main__":
    main()
