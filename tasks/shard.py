"""Shard: token files to shuffled rows, and what trivial models score on them."""

from dataclasses import asdict
from pathlib import Path

from data.baselines import cross_entropies, target_bytes
from data.documents import DOCUMENTS, read_documents
from data.pretokenize import TokensIndex
from data.rows import open_rows
from data.shard import VERSION, ShardSettings, ShardsIndex, shard
from data.tokenizer import Tokenizer
from evidence.canonical import pretty, read_object
from evidence.gates import Gate, Measurements
from evidence.refs import ShardsRef, TokensRef
from tasks import places
from tasks.prefect_task import publish, stage_task, tracking
from tasks.progress import progress_bars
from tasks.run_record import Run
from tasks.stage import Stage, perform
from tasks.store import Artefact, Store
from tasks.thresholds import Thresholds

BASELINES = "baselines.json"


def build_shards(tokens: Artefact, settings: ShardSettings, out: Path) -> ShardsIndex:
    """Cut the rows, then score the baselines on them."""
    with progress_bars() as on_progress:
        index = shard(
            tokens.directory,
            tokens.read_index(TokensIndex),
            settings,
            out=out,
            on_progress=on_progress,
        )
        on_progress("baselines", 0, 1)
        train, val = open_rows(out, index, "train"), open_rows(out, index, "val")
        scored = asdict(cross_entropies(train, val, index.vocab_size))
        scored["target_bytes"] = target_bytes(
            val, Tokenizer.load(out / "tokenizer.json").token_bytes()
        )
        (out / BASELINES).write_bytes(pretty(scored))
        on_progress("baselines", 1, 1)
    return index


def measure(artefact: Artefact) -> Measurements:
    """Count rows and shared documents again from the shards and their document tables."""
    index, directory = artefact.read_index(ShardsIndex), artefact.directory
    rows = {split: open_rows(directory, index, split) for split in ("train", "val")}
    digests = {
        split: {each.sha256 for each in read_documents(directory / split / DOCUMENTS)}
        for split in rows
    }
    baselines = read_object(directory / BASELINES)
    return {
        "train_rows": len(rows["train"]),
        "val_rows": len(rows["val"]),
        "row_tokens": rows["train"].row_tokens,
        "train_tokens": len(rows["train"]) * rows["train"].row_tokens,
        "val_tokens": len(rows["val"]) * rows["val"].row_tokens,
        "dropped_tokens": index.train.dropped_tokens + index.val.dropped_tokens,
        "shared_documents": len(digests["train"] & digests["val"]),
        "entropy_bits": index.train.entropy_bits,
        "unk_ratio": max(index.train.unk_ratio, index.val.unk_ratio),
        "uniform_nats": _number(baselines["uniform_nats"]),
        "unigram_nats": _number(baselines["unigram_nats"]),
        "bigram_nats": _number(baselines["bigram_nats"]),
        "val_target_bytes": int(_number(baselines["target_bytes"])),
    }


def summary(measured: Measurements) -> str:
    """Say in a line what came out."""
    return (
        f"{measured['train_rows']:,} training and {measured['val_rows']:,} validation rows; "
        f"unigram {measured['unigram_nats']:.3f}, bigram {measured['bigram_nats']:.3f} nats"
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


@stage_task("shard", "shard into rows of {settings.context_length}")
def shard_task(
    run: Run, tokens: TokensRef, settings: ShardSettings, thresholds: Thresholds
) -> ShardsRef:
    """Make shuffled rows of token files."""

    def build(out: Path) -> ShardsIndex:
        return build_shards(Store(places.store()).open(tokens), settings, out)

    done = perform(
        run,
        STAGE,
        {"shard": asdict(settings)},
        {"tokens": str(tokens)},
        build,
        thresholds=asdict(thresholds),
        tracking=tracking(),
    )
    publish(run, STAGE, done.record)
    return ShardsRef(done.ref.digest)


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return value
