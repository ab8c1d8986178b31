"""Shard: token files to shuffled rows, and what trivial models score on them."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data.baselines import BASELINES, ORDERS, count_and_score, target_bytes
from data.compression import CompressedSizes, compressed_sizes
from data.pretokenize import TokensIndex
from data.progress import Progress, paced
from data.rows import PADDING, Rows, blocks, open_rows
from data.shard import ShardSettings, ShardsIndex, shard
from data.split import SPLITS
from data.token_statistics import DegenerateBounds, TokenCounter
from data.tokenizer import TOKENIZER, Tokenizer
from data.units import Given, MakeUnits
from data.validation_texts import validation_texts
from evidence.canonical import pretty, read_object
from evidence.gates import Gate, Measurements
from evidence.records import Recipe
from evidence.refs import ShardsRef, TokensRef
from tasks.leaks import num_leaked_rows
from tasks.prefect_task import publish, stage_task, tracking
from tasks.progress import progress_bars
from tasks.run_record import Run
from tasks.runtime import RuntimeSettings
from tasks.shared_documents import num_shared_documents
from tasks.stage import Stage, perform
from tasks.store import Artefact, open_store
from tasks.thresholds import Thresholds
from tasks.units import make_units

VERSION = 4
"""Of all files: the rows, whose own version is that of `data.shard`, and the baselines."""
READ_TOKENS = 1 << 22
COMPRESSED_BYTES = 16 * 2**20
"""Validation text that is compressed, at most: the best compressor takes a second for two MB."""


def build_shards(
    tokens: Artefact,
    settings: ShardSettings,
    bounds: DegenerateBounds,
    make_units: MakeUnits,
    out: Path,
    on_progress: Progress,
) -> ShardsIndex:
    """Cut the rows, then score the baselines on them."""
    given = Given(str(tokens.ref), tokens.directory)
    index = shard(given, tokens.read_index(TokensIndex), settings, bounds, make_units, out=out)
    on_progress("compression", 0, 1)
    texts = validation_texts(tokens.directory, tokens.read_index(TokensIndex), COMPRESSED_BYTES)
    compressed = asdict(compressed_sizes(texts))
    on_progress("compression", 1, 1)
    (out / BASELINES).write_bytes(
        pretty({**_count_and_score(out, index, settings, on_progress), "compressed": compressed})
    )
    return index


def _count_and_score(
    out: Path, index: ShardsIndex, settings: ShardSettings, on_progress: Progress
) -> dict[str, Any]:
    """Score the models that count, and write what they make of each row."""
    train, val = (open_rows(out, index, split) for split in SPLITS)
    begun = time.monotonic()

    def tell(num_done: int, num_all: int, num_tokens: int) -> None:
        pace = paced(num_tokens, num_tokens, time.monotonic() - begun)
        on_progress(f"baselines, {pace}", num_done, num_all)

    scored, num_counted = count_and_score(
        train, val, index.vocab_size, max_train_tokens=settings.baseline_tokens, tell=tell
    )
    scored.write(out)
    everything = np.arange(len(val))
    token_bytes = Tokenizer.load(out / TOKENIZER).token_bytes()
    bytes_of_document = target_bytes(val, everything, token_bytes, index.val.num_documents)
    return {
        **asdict(scored.over(everything)),
        "num_counted_tokens": num_counted,
        "target_bytes": int(bytes_of_document.sum()),
    }


def measure(artefact: Artefact) -> Measurements:
    """Count rows, and what both splits share, again from the shards and their document tables."""
    index, directory = artefact.read_index(ShardsIndex), artefact.directory
    rows = {split: open_rows(directory, index, split) for split in SPLITS}
    unk_id = Tokenizer.load(directory / TOKENIZER).unk_id
    train, val = (_count(rows[split], index).statistics(unk_id) for split in SPLITS)
    baselines: Any = read_object(directory / BASELINES)
    return {
        "train_rows": len(rows["train"]),
        "val_rows": len(rows["val"]),
        "row_tokens": rows["train"].row_tokens,
        "train_tokens": train.num_tokens,
        "val_tokens": val.num_tokens,
        "dropped_tokens": index.train.dropped_tokens + index.val.dropped_tokens,
        "withheld_rows": index.train.withheld_rows,
        "leaked_rows": num_leaked_rows(rows["train"], rows["val"]),
        "shared_documents": num_shared_documents(directory, index),
        "entropy_bits": train.entropy_bits,
        "unk_ratio": max(train.unk_ratio, val.unk_ratio),
        "uniform_nats": baselines["uniform_nats"],
        **{name: baselines[name] for name in ORDERS},
        "baseline_tokens": baselines["num_counted_tokens"],
        "val_target_bytes": baselines["target_bytes"],
        "compressed_bytes": baselines["compressed"]["num_bytes"],
        **CompressedSizes(**baselines["compressed"]).bits_per_byte(),
    }


def _count(rows: Rows, index: ShardsIndex) -> TokenCounter:
    counter = TokenCounter(index.vocab_size, f"{rows.split} rows")
    everything = np.arange(len(rows))
    for block in blocks(everything, READ_TOKENS // rows.row_tokens):
        ids_NS = rows.take(block)
        counter.add(ids_NS[ids_NS != PADDING])
    return counter


def summary(measured: Measurements) -> str:
    """Say in a line what came out."""
    withheld = f", {measured['withheld_rows']:,} withheld" if measured["withheld_rows"] else ""
    return (
        f"{measured['train_rows']:,} training and {measured['val_rows']:,} validation rows"
        f"{withheld}; "
        f"unigram {measured['unigram_nats']:.3f}, bigram {measured['bigram_nats']:.3f}, "
        f"5-gram {measured['five_gram_nats']:.3f} nats"
    )


STAGE = Stage(
    name="shard",
    version=VERSION,
    ref_type=ShardsRef,
    measure=measure,
    summary=summary,
    gates=(
        Gate(
            id="shard.disjoint",
            sentence="no document is in both training and validation",
            measured="shared_documents",
            operator="==",
            threshold=0,
        ),
        Gate(
            id="shard.leak",
            sentence="no training row is a validation row",
            measured="leaked_rows",
            operator="==",
            threshold=0,
        ),
        Gate(
            id="shard.known",
            sentence="almost no token is unknown",
            measured="unk_ratio",
            operator="<=",
            threshold="thresholds.max_unk_ratio",
        ),
        Gate(
            id="shard.entropy",
            sentence="the training rows have the entropy of a text",
            measured="entropy_bits",
            operator=">=",
            threshold="thresholds.min_entropy_bits",
        ),
    ),
)


def recipe(tokens: str, settings: ShardSettings, bounds: DegenerateBounds) -> Recipe:
    """Name all that decides the result."""
    return Recipe(
        stage=STAGE.name,
        version=VERSION,
        settings={"shard": asdict(settings), "bounds": asdict(bounds)},
        inputs={"tokens": tokens},
    )


@stage_task("shard", "shard into rows of {settings.context_length}")
def shard_task(
    run: Run,
    tokens: TokensRef,
    settings: ShardSettings,
    bounds: DegenerateBounds,
    thresholds: Thresholds,
    runtime: RuntimeSettings,
) -> ShardsRef:
    """Make shuffled rows of token files."""
    with progress_bars() as on_progress:

        def build(out: Path) -> ShardsIndex:
            opened = open_store().open(tokens)
            units = make_units(runtime, on_progress)
            return build_shards(opened, settings, bounds, units, out, on_progress)

        done = perform(
            run,
            STAGE,
            recipe(str(tokens), settings, bounds),
            build,
            thresholds=asdict(thresholds),
            tracking=tracking(),
        )
    publish(run, STAGE, done.record)
    return ShardsRef(done.ref.digest)
