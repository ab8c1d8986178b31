"""Pretokenize: source files to token files with their tokenizer and their documents."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from data.pretokenize import VERSION, PretokenizeSettings, TokensIndex, pretokenize
from data.source import SourceSettings, list_files
from data.token_files import LITTLE_ENDIAN
from data.token_statistics import TokenCounter
from data.tokenizer import Tokenizer
from evidence.gates import Gate, Measurements
from evidence.refs import TokensRef
from tasks.prefect_task import publish, stage_task, tracking
from tasks.progress import progress_bars
from tasks.run_record import Run
from tasks.stage import Stage, perform
from tasks.store import Artefact
from tasks.thresholds import Thresholds

READ_TOKENS = 1 << 22


def measure(artefact: Artefact) -> Measurements:
    """Count the token stream on disk again."""
    index = artefact.read_index(TokensIndex)
    counter = TokenCounter(index.vocab_size, str(artefact.directory))
    for name, _ in index.token_files:
        ids = np.memmap(artefact.directory / name, dtype=LITTLE_ENDIAN[index.dtype], mode="r")
        for start in range(0, len(ids), READ_TOKENS):
            counter.add(ids[start : start + READ_TOKENS])
    tokenizer = Tokenizer.load(artefact.directory / "tokenizer.json")
    found = counter.statistics(tokenizer.unk_id)
    num_bytes = int(counter.counts_V @ tokenizer.token_bytes())
    return {
        "documents": index.num_documents,
        "train_documents": index.num_train_documents,
        "val_documents": index.num_val_documents,
        "rejected": index.num_rejected,
        "bytes": num_bytes,
        "tokens": found.num_tokens,
        "bytes_per_token": num_bytes / found.num_tokens,
        "vocab_size": tokenizer.vocab_size,
        "distinct_ids": found.distinct_ids,
        "entropy_bits": found.entropy_bits,
        "unk_ratio": found.unk_ratio,
    }


def summary(measured: Measurements) -> str:
    """Say in a line what came out."""
    return (
        f"{measured['documents']:,} documents, {measured['tokens']:,} tokens, "
        f"{measured['bytes_per_token']:.2f} bytes a token"
    )


STAGE = Stage(
    name="pretokenize",
    version=VERSION,
    ref_type=TokensRef,
    measure=measure,
    summary=summary,
    gates=(
        Gate(
            id="pretokenize.known",
            sentence="almost no token is unknown",
            measured="unk_ratio",
            operator="<=",
            threshold="thresholds.max_unk_ratio",
        ),
        Gate(
            id="pretokenize.entropy",
            sentence="the token stream has the entropy of a text",
            measured="entropy_bits",
            operator=">=",
            threshold="thresholds.min_entropy_bits",
        ),
        Gate(
            id="pretokenize.holdout",
            sentence="some documents are held out for validation",
            measured="val_documents",
            operator=">=",
            threshold=1,
        ),
    ),
)


@stage_task("pretokenize", "pretokenize {source.kind} into a vocabulary of {settings.vocab_size}")
def pretokenize_task(
    run: Run, source: SourceSettings, settings: PretokenizeSettings, thresholds: Thresholds
) -> TokensRef:
    """Make token files of a source; the listing's digest is part of the recipe."""
    listing = list_files(source)
    with progress_bars() as on_progress:

        def build(out: Path) -> TokensIndex:
            return pretokenize(listing, settings, out=out, on_progress=on_progress)

        done = perform(
            run,
            STAGE,
            {"pretokenize": asdict(settings), "licence": source.licence},
            {"source": f"sha256:{listing.sha256}"},
            build,
            thresholds=asdict(thresholds),
            tracking=tracking(),
        )
    publish(run, STAGE, done.record)
    return TokensRef(done.ref.digest)
