"""Pretokenize: a source to token files with their tokenizer, documents and rejections."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from data.accounting import Account
from data.corpus import Corpus, PretokenizeSettings
from data.documents import DOCUMENTS, REJECTED, read_pieces
from data.filter_settings import FilterSettings
from data.pretokenize import VERSION, TokensIndex, pretokenize
from data.removals import read_removals
from data.source import SourceSettings, open_source, reading
from data.token_files import LITTLE_ENDIAN, TokenReader
from data.token_statistics import TokenCounter
from data.tokenizer import TOKENIZER, Tokenizer, TokenizerSettings
from evidence.canonical import file_sha256
from evidence.gates import Gate, Measurements
from evidence.records import Recipe
from evidence.refs import TokensRef
from tasks.plots import plot_corpus
from tasks.prefect_task import publish, stage_task, tracking
from tasks.progress import progress_bars
from tasks.run_record import Run
from tasks.runtime import RuntimeSettings
from tasks.stage import Stage, perform
from tasks.store import Artefact
from tasks.thresholds import Thresholds
from tasks.units import make_units

READ_TOKENS = 1 << 22
MAX_DECODED = 10_000


def measure(artefact: Artefact) -> Measurements:
    """Count tokens, documents and rejections on disk again, and decode documents."""
    index, directory = artefact.read_index(TokensIndex), artefact.directory
    counter = TokenCounter(index.vocab_size, str(directory))
    for name, _ in index.token_files:
        ids = np.memmap(directory / name, dtype=LITTLE_ENDIAN[index.dtype], mode="r")
        for start in range(0, len(ids), READ_TOKENS):
            counter.add(ids[start : start + READ_TOKENS])
    tokenizer = Tokenizer.load(directory / TOKENIZER)
    found = counter.statistics(tokenizer.unk_id)
    num_bytes = int(counter.counts_V @ tokenizer.token_bytes())
    account = count_tables(directory)
    decoded, mismatched = decode_documents(directory, index, tokenizer)
    return {
        "documents": account.num_all,
        "train_documents": account.num_documents["train"],
        "val_documents": account.num_documents["val"],
        "rejected": account.num_rejected,
        "bytes": num_bytes,
        "document_bytes": account.num_bytes,
        "tokens": found.num_tokens,
        "document_tokens": account.num_tokens.total(),
        "train_tokens": account.num_tokens["train"],
        "bytes_per_token": num_bytes / found.num_tokens,
        "vocab_size": tokenizer.vocab_size,
        "distinct_ids": found.distinct_ids,
        "entropy_bits": found.entropy_bits,
        "unk_ratio": found.unk_ratio,
        "ends_of_text": int(counter.counts_V[tokenizer.end_of_text_id]),
        "decoded_documents": decoded,
        "mismatched_documents": mismatched,
        **{f"rejected_{name}": count for name, count in sorted(account.by_filter.items())},
    }


def count_tables(directory: Path) -> Account:
    """Count a tokens directory's documents and rejections."""
    account = Account()
    for piece in read_pieces(directory / DOCUMENTS):
        account.documents(piece)
    for piece in read_pieces(directory / REJECTED):
        account.rejections(piece)
    return account


def decode_documents(directory: Path, index: TokensIndex, tokenizer: Tokenizer) -> tuple[int, int]:
    """Decode documents spread evenly over the corpus; count them, and those that are not theirs."""
    reader = TokenReader(directory, index.token_files, index.dtype)
    num_documents = pq.read_metadata(directory / DOCUMENTS).num_rows
    chosen = np.unique(np.linspace(0, num_documents - 1, MAX_DECODED, dtype=np.int64))
    mismatched = row = start = 0
    for piece in read_pieces(directory / DOCUMENTS, ["sha256", "num_tokens"]):
        length_D = piece["num_tokens"].to_numpy()
        start_D = start + np.cumsum(length_D) - length_D
        for place in (chosen[(chosen >= row) & (chosen < row + len(length_D))] - row).tolist():
            ids = reader.read(int(start_D[place]), int(length_D[place]))
            mismatched += tokenizer.text_sha256(ids) != piece["sha256"][place].as_py()
        row, start = row + len(length_D), start + int(length_D.sum())
    return len(chosen), mismatched


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
        Gate(
            id="pretokenize.bounded",
            sentence="every document ends, and nothing else does",
            measured="ends_of_text",
            operator="==",
            threshold="documents",
        ),
        Gate(
            id="pretokenize.decoded",
            sentence="decoded documents are the texts that were encoded",
            measured="mismatched_documents",
            operator="==",
            threshold=0,
        ),
    ),
)


@stage_task("pretokenize", "pretokenize {source.kind} into a vocabulary of {tokenizer.vocab_size}")
def pretokenize_task(
    run: Run,
    source: SourceSettings,
    filters: FilterSettings,
    tokenizer: TokenizerSettings,
    settings: PretokenizeSettings,
    thresholds: Thresholds,
    runtime: RuntimeSettings,
) -> TokensRef:
    """Make token files of a source; what was read is named by its digest in the recipe."""
    corpus = open_corpus(source, filters, tokenizer, settings, runtime)
    with progress_bars() as on_progress:

        def build(out: Path) -> TokensIndex:
            return pretokenize(corpus, make_units(runtime, on_progress), out=out)

        done = perform(
            run,
            STAGE,
            recipe(corpus),
            build,
            thresholds=asdict(thresholds),
            illustrate=lambda artefact: plot_corpus(run, artefact.directory),
            tracking=tracking(),
        )
    publish(run, STAGE, done.record)
    return TokensRef(done.ref.digest)


def open_corpus(
    source: SourceSettings,
    filters: FilterSettings,
    tokenizer: TokenizerSettings,
    settings: PretokenizeSettings,
    runtime: RuntimeSettings,
) -> Corpus:
    """Open what is read, and say how."""
    return Corpus(
        source=open_source(source, fetching=runtime.fetching),
        reading=reading(source),
        filters=filters,
        tokenizer=tokenizer,
        settings=settings,
        removals=read_removals(settings.removal_list),
    )


def recipe(corpus: Corpus) -> Recipe:
    """Name all that decides the result."""
    return Recipe(
        stage=STAGE.name,
        version=STAGE.version,
        settings=_recipe_settings(corpus),
        inputs=_recipe_inputs(corpus),
    )


def _recipe_settings(corpus: Corpus) -> dict[str, Any]:
    """Name the settings that decide the result; files are named by their digests instead."""
    pretokenize = asdict(corpus.settings)
    del pretokenize["removal_list"]
    tokenizer = asdict(corpus.tokenizer)
    del tokenizer["path"]
    return {
        "source": dict(corpus.reading),
        "filters": asdict(corpus.filters),
        "tokenizer": tokenizer,
        "pretokenize": pretokenize,
    }


def _recipe_inputs(corpus: Corpus) -> dict[str, str]:
    inputs = {
        "source": f"sha256:{corpus.source.sha256}",
        "removals": f"sha256:{corpus.removals.sha256}",
    }
    if corpus.tokenizer.path:
        inputs["tokenizer"] = f"sha256:{file_sha256(Path(corpus.tokenizer.path))}"
    return inputs
