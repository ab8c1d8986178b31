"""Counting and scoring 5-grams, in millions of training tokens per second of one core.

    python -m tests.benchmarks.ngrams CORPUS [--tokens 20000000] [--repeats 3] [--context 1024]

Against the same formulas over Python dictionaries, which also count only what the scored rows ask
about. Both score every fiftieth row and must find the same loss.
"""

import argparse
import math
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.encoders import open_engine
from data.ngrams import Ngrams
from data.tokenizer import Tokenizer
from tests.benchmarks.encode import batches as text_batches
from tests.benchmarks.encode import parts
from tests.benchmarks.harness import (
    Contender,
    compare,
    print_header,
    print_table,
    report,
    require_equal,
    timed,
)

MODULE, ORDER, HELD_OUT = "tests.benchmarks.ngrams", 5, 50
BLOCK_ROWS = 256
Rows = NDArray[np.int64]


def rows_of(corpus: Path, num_tokens: int, context: int) -> tuple[int, Rows]:
    """Encode a corpus as rows, up to so many tokens; return the size of the vocabulary, too."""
    tokenizer = Tokenizer.load(corpus / "tokenizer.json")
    encoder = open_engine("gigatoken", tokenizer.engine_definition)
    pieces, found = [], 0
    for texts in text_batches(parts(corpus, "whole")):
        pieces.append(encoder.encode(texts).ended(tokenizer.end_of_text_id, np.dtype("<u2")))
        found += len(pieces[-1])
        if found >= num_tokens:
            break
    num_rows = min(found, num_tokens) // (context + 1)
    ids = np.concatenate(pieces)[: num_rows * (context + 1)]
    return tokenizer.vocab_size, ids.reshape(num_rows, -1).astype(np.int64)


def compiled(train: Rows, val: Rows, vocab_size: int) -> float:
    """Score with `data.ngrams`."""
    ngrams = Ngrams(ORDER, vocab_size)
    ngrams.expect(val)
    for first in range(0, len(train), BLOCK_ROWS):
        ngrams.count(train[first : first + BLOCK_ROWS])
    return float(ngrams.nats(val)[:, -1].sum() / val[:, 1:].size)


def dictionaries(train: Rows, val: Rows, vocab_size: int) -> float:
    """Score with dictionaries from histories to counts of what follows."""
    alone = Counter(train.ravel().tolist())
    asked = {history for row in val.tolist() for history, _ in histories(row)}
    follow: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for row in train.tolist():
        for history, target in histories(row):
            if history in asked:
                follow[history][target] += 1
    totals = {history: counts.total() for history, counts in follow.items()}
    nats, smoothed = 0.0, alone.total() + vocab_size
    for row in val.tolist():
        for place in range(1, len(row)):
            target = row[place]
            probability = (alone[target] + 1) / smoothed
            for length in range(1, min(ORDER - 1, place) + 1):
                history = tuple(row[place - length : place])
                if counts := follow.get(history):
                    distinct = len(counts)
                    backed_off = counts[target] + distinct * probability
                    probability = backed_off / (totals[history] + distinct)
            nats -= math.log(probability)
    return nats / val[:, 1:].size


def histories(row: list[int]) -> list[tuple[tuple[int, ...], int]]:
    """List every history of a row with its target."""
    return [
        (tuple(row[place - length : place]), row[place])
        for place in range(1, len(row))
        for length in range(1, min(ORDER - 1, place) + 1)
    ]


WAYS: dict[str, Callable[[Rows, Rows, int], float]] = {
    "assay": compiled,
    "dictionaries": dictionaries,
}


def contend(corpus: Path, way: str, num_tokens: int, context: int) -> None:
    """Count and score once in one way, after what is compiled has been."""
    vocab_size, ids_NS = rows_of(corpus, num_tokens, context)
    is_val_N = np.arange(len(ids_NS)) % HELD_OUT == 0
    train, val = ids_NS[~is_val_N], ids_NS[is_val_N]
    compiled(train[:1], val[:1], vocab_size)
    with timed() as timing:
        nats = WAYS[way](train, val, vocab_size)
    report(timing, amount=train.size / 1e6, nats=round(nats, 9))


def main() -> None:
    """Compare the ways, or be one of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--tokens", type=int, default=20_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--way", choices=tuple(WAYS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        contend(options.corpus, options.way, options.tokens, options.context)
        return
    print_header("5-grams, counted and scored", ("numpy", "numba"))
    sizes = ("--tokens", str(options.tokens), "--context", str(options.context))
    contenders = [
        Contender(way, MODULE, (str(options.corpus), "--way", way, *sizes)) for way in WAYS
    ]
    results = compare(contenders, repeats=options.repeats, unit="M tokens")
    require_equal("nats per token", {each.name: each.runs[0]["nats"] for each in results})
    print_table(results, reference="dictionaries")


if __name__ == "__main__":
    main()
