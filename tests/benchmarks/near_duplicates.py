"""Near duplicates, in megabytes of text per processor second: signatures, and the join on them.

    python -m tests.benchmarks.near_duplicates CORPUS --rivals RIVALS/bin/python [--repeats 3]

CORPUS is what tests.benchmarks.corpus writes. datatrove and datasketch see its sample, each with
shingles of its own kind: datatrove five words and 14 bands of 8, datasketch the shingles that are
ours, made by three lines of Python, and by itself with these given. We see the sample, and the
whole corpus with and without the join.
"""

import argparse
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from tests.benchmarks.harness import (
    MEGABYTE,
    Contender,
    Timing,
    compare,
    print_header,
    print_table,
    report,
    timed,
)

MODULE = "tests.benchmarks.near_duplicates"
BATCH_DOCUMENTS = 500
JACCARD = 0.85
SEED = 42


def texts_of(corpus: Path, which: str) -> Any:
    """Read the texts of the sample or of the whole corpus."""
    pattern = "sample/sample.parquet" if which == "sample" else "part-*.parquet"
    found = [pq.read_table(path, columns=["text"])["text"] for path in sorted(corpus.glob(pattern))]
    return [chunk for column in found for chunk in column.chunks]


def amount(chunks: Any) -> float:
    """Count the megabytes of text."""
    return float(sum(chunk.nbytes for chunk in chunks)) / MEGABYTE


def ours(corpus: Path, which: str, *, with_join: bool) -> None:
    """Sign everything batch by batch, then join all units at once."""
    duplicates = import_module("data.duplicates")
    minhash = import_module("data.minhash")
    chunks = texts_of(corpus, which)
    num_repeats = 0
    with timed() as timing, tempfile.TemporaryDirectory() as scratch:
        units = [
            minhash.signatures(chunk[begin : begin + BATCH_DOCUMENTS], SEED)
            for chunk in chunks
            for begin in range(0, len(chunk), BATCH_DOCUMENTS)
        ]
        if with_join:
            everybody = np.ones(sum(map(len, units)), np.bool_)
            first, _ = duplicates.near_duplicates(units, JACCARD, everybody, scratch=Path(scratch))
            num_repeats = int((first != np.arange(len(first))).sum())
    documents = sum(map(len, units))
    report(timing, amount=amount(chunks), num_documents=documents, num_repeats=num_repeats)


def datatrove(corpus: Path) -> None:
    """Run the step that writes signatures, with its own shingles and the bands of its example."""
    documents = import_module("datatrove.data")
    minhash = import_module("datatrove.pipeline.dedup.minhash")
    chunks = texts_of(corpus, "sample")
    texts = [text for chunk in chunks for text in chunk.to_pylist()]
    with tempfile.TemporaryDirectory() as out:
        config = minhash.MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
        step = minhash.MinhashDedupSignature(out, config)
        # The first text makes the tokenizer of words, which is not work on the corpus.
        step.get_shingles(texts[0])

        def pipeline() -> Iterator[Any]:
            for number, text in enumerate(texts):
                yield documents.Document(text=text, id=str(number))

        with timed() as timing:
            step.run(pipeline())
    report(timing, amount=amount(chunks), num_documents=len(texts))


def datasketch(corpus: Path, *, with_shingles: bool) -> None:
    """Sign with datasketch; shingles as ours, made in the timed part or before it."""
    min_hash = import_module("datasketch").MinHash
    chunks = texts_of(corpus, "sample")
    texts = [text for chunk in chunks for text in chunk.to_pylist()]
    made = None if with_shingles else [_shingles(text) for text in texts]
    with timed() as timing:
        _sign(min_hash, made or (_shingles(text) for text in texts), timing)
    report(timing, amount=amount(chunks), num_documents=len(texts))


def _sign(min_hash: Any, documents: Any, timing: Timing) -> None:
    timing.facts["num_shingles"] = 0
    for shingles in documents:
        signature = min_hash(num_perm=128)
        signature.update_batch(shingles)
        timing.facts["num_shingles"] += len(shingles)


def _shingles(text: str) -> list[bytes]:
    lines = [bare for line in text.split("\n") if (bare := "".join(line.split()))]
    places = range(max(len(lines) - 4, 1))
    return ["\n".join(lines[place : place + 5]).encode() for place in places]


def main() -> None:
    """Compare the contenders, or be one of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--rivals", help="the Python of the environment of requirements.txt")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--be", help=argparse.SUPPRESS)
    options = parser.parse_args()
    being = {
        "ours-sample": lambda: ours(options.corpus, "sample", with_join=False),
        "ours": lambda: ours(options.corpus, "whole", with_join=False),
        "ours-joined": lambda: ours(options.corpus, "whole", with_join=True),
        "datatrove": lambda: datatrove(options.corpus),
        "datasketch": lambda: datasketch(options.corpus, with_shingles=True),
        "datasketch-hashes": lambda: datasketch(options.corpus, with_shingles=False),
    }
    if options.be:
        being[options.be]()
        return
    print_header("Near duplicates", ("numpy", "pyarrow"))
    at = str(options.corpus)
    contenders = [
        Contender("signatures, sample", MODULE, (at, "--be", "ours-sample")),
        Contender("signatures, whole corpus", MODULE, (at, "--be", "ours")),
        Contender("signatures and join, whole corpus", MODULE, (at, "--be", "ours-joined")),
    ]
    reference = contenders[0].name
    if options.rivals:
        reference = "datatrove, sample"
        contenders += [
            Contender(reference, MODULE, (at, "--be", "datatrove"), options.rivals),
            Contender("datasketch, sample", MODULE, (at, "--be", "datasketch"), options.rivals),
            Contender(
                "datasketch, sample, shingles given",
                MODULE,
                (at, "--be", "datasketch-hashes"),
                options.rivals,
            ),
        ]
    results = compare(contenders, repeats=options.repeats, unit="MB")
    print_table(results, reference=reference)
    for result in results:
        facts = {name: fact for name, fact in result.runs[0].items() if name.startswith("num_")}
        print(f"{result.name}: {result.runs[0]['amount']:.1f} MB, {facts}")


if __name__ == "__main__":
    main()
