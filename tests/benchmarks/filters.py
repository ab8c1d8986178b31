"""What each filter costs, in milliseconds of processor time per megabyte of text.

    python -m tests.benchmarks.filters CORPUS [--repeats 3]

CORPUS is what tests.benchmarks.corpus writes. The table has every filter alone, as screening calls
it; then screening as a whole, with StarCoder2's thresholds and with what else can be asked for.
"""

import argparse
import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.candidates import BATCH_BYTES, CANDIDATES
from data.decoding import decode
from data.filter_settings import FilterSettings
from data.filters import Texts
from data.minhash import signatures
from data.screen import asked_of_bytes, asked_of_listing, asked_of_patterns, groups, screen
from data.text_buffer import TextBuffer
from tests.benchmarks.harness import MEGABYTE, print_header, timed

STARCODER2 = FilterSettings(
    max_file_bytes=10_000_000,
    min_document_bytes=1,
    allowed_licences=("MIT", "Apache-2.0", "BSD-3-Clause"),
    drop_vendored=True,
    drop_generated=True,
    max_lines=100_000,
    max_mean_line_length=100.0,
    max_line_length=1000,
    min_alphabetic_share=0.25,
    max_encoded_run=1024,
    max_encoded_share=0.5,
    normalization="none",
    must_parse=False,
    drop_secrets=True,
    personal_data="keep",
    decontaminate=(),
    decontamination_ngram=10,
    near_duplicates="drop",
    near_duplicate_jaccard=0.85,
    minhash_seed=42,
)


def batches(corpus: Path) -> Iterator[Any]:
    """Yield candidates of the size that sources yield."""
    for path in sorted(corpus.glob("part-*.parquet")):
        texts = pq.read_table(path, columns=["text"])["text"].combine_chunks()
        offsets = TextBuffer.of(texts).offsets
        first = 0
        while first < len(texts):
            end = int(np.searchsorted(offsets, offsets[first] + BATCH_BYTES))
            end = min(max(end, first + 1), len(texts))
            yield candidates(texts[first:end].cast(pa.large_binary()))
            first = end


def candidates(contents: Any) -> Any:
    """Make candidates of contents."""
    count = len(contents)
    plain = {name: pa.array([""] * count) for name in CANDIDATES.names}
    columns = {
        **plain,
        "row": pa.array(range(count)),
        "licences": pa.array([["MIT"]] * count, CANDIDATES.field("licences").type),
        "is_vendored": pa.array([False] * count),
        "is_generated": pa.array([False] * count),
        "encoding": pa.array(["utf-8"] * count),
        "content": contents,
    }
    return pa.RecordBatch.from_pydict(columns, schema=CANDIDATES)


def time_filters(found: list[Any]) -> dict[str, float]:
    """Return the processor seconds of each filter over all batches."""
    seconds: dict[str, float] = defaultdict(float)

    def ask(filters: Any, where: str) -> None:
        for name, objections in filters:
            with timed() as timing:
                objections()
            seconds[f"{name} ({where})"] += timing.cpu_seconds

    for batch in found:
        ask(asked_of_listing(batch, STARCODER2), "listing")
        with timed() as timing:
            texts, _ = decode(batch.column("content"), batch.column("encoding"))
        seconds["decoding"] += timing.cpu_seconds
        ask(asked_of_patterns(Texts(texts), STARCODER2), "pattern")
        for first, end in groups(TextBuffer.of(texts)):
            ask(asked_of_bytes(Texts(texts[first:end]), STARCODER2), "bytes")
    return seconds


def time_whole(found: list[Any]) -> dict[str, float]:
    """Return the processor seconds of screening with several settings."""
    variants = {
        "screening, StarCoder2, sha256 included": STARCODER2,
        "  and NFC": replace(STARCODER2, normalization="nfc"),
        "  and redaction": replace(STARCODER2, personal_data="redact"),
        "  and HumanEval": replace(STARCODER2, decontaminate=("HumanEval",)),
    }
    seconds = {}
    for name, settings in variants.items():
        with timed() as timing:
            for batch in found:
                screen(batch, settings)
        seconds[name] = timing.cpu_seconds
    with timed() as timing:
        for batch in found:
            signatures(batch.column("content"), STARCODER2.minhash_seed)
    seconds["MinHash signatures"] = timing.cpu_seconds
    return seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    found = list(batches(options.corpus))
    megabytes = sum(TextBuffer.of(batch.column("content")).data.size for batch in found) / MEGABYTE
    runs = [{**time_filters(found), **time_whole(found)} for _ in range(options.repeats)]
    print_header("Filters", ("numpy", "pyarrow"))
    print(f"{megabytes:.1f} MB, {sum(map(len, found))} documents, {options.repeats} runs\n")
    print("| | ms/MB, median (least-most) |\n|---|---|")
    for name in runs[0]:
        costs = [run[name] * 1000 / megabytes for run in runs]
        print(f"| {name} | {statistics.median(costs):.3f} ({min(costs):.3f}-{max(costs):.3f}) |")


if __name__ == "__main__":
    main()
