"""Do the checks of tokens and shards over: encode texts again, count the baselines again."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from data.baselines import ORDERS, count_and_score
from data.documents import DOCUMENTS, read_pieces
from data.pretokenize import TokensIndex
from data.rows import open_rows
from data.shard import ShardsIndex
from data.token_files import TokenReader
from data.tokenizer import TOKENIZER, Tokenizer
from evidence.refs import parse_ref
from tasks.leaks import num_leaked_rows
from tasks.rechecked import Rechecked
from tasks.store import Artefact, Store

SAMPLE_DOCUMENTS = 500
BASELINE_BAR = 1e-9


def tokens_again(store: Store, record: Mapping[str, Any], device: str) -> Iterator[Rechecked]:  # noqa: ARG001
    """Decode documents spread over the corpus and encode their texts again, with the slow engine.

    Raises: NotFoundError, ArtefactDamagedError.
    """
    artefact = store.open(parse_ref(record["output"]))
    tokenizer = Tokenizer.load(artefact.directory / TOKENIZER)
    documents = list(_sample(artefact))
    texts = [tokenizer.decode(ids).decode() for ids in documents]
    wrong = sum(
        not np.array_equal(found, ids[:-1])
        for found, ids in zip(tokenizer.encode_batch(texts), documents, strict=True)
    )
    yield Rechecked(
        check="documents that encode to other ids", recorded=0, measured=wrong, bar=0,
        n=len(documents),
    )  # fmt: skip


def _sample(artefact: Artefact) -> Iterator[Any]:
    """Yield the ids of documents that are spread evenly, each with its end of text."""
    index = artefact.read_index(TokensIndex)
    reader = TokenReader(artefact.directory, index.token_files, index.dtype)
    pieces = list(read_pieces(artefact.directory / DOCUMENTS, ["num_tokens"]))
    length_D = np.concatenate([piece["num_tokens"].to_numpy() for piece in pieces])
    start_D = np.cumsum(length_D) - length_D
    for place in np.unique(np.linspace(0, len(length_D) - 1, SAMPLE_DOCUMENTS, dtype=np.int64)):
        yield reader.read(int(start_D[place]), int(length_D[place]))


def baselines_again(store: Store, record: Mapping[str, Any], device: str) -> Iterator[Rechecked]:  # noqa: ARG001
    """Count n-grams again, and look for validation rows among the training rows.

    Raises: NotFoundError, ArtefactDamagedError.
    """
    artefact = store.open(parse_ref(record["output"]))
    index = artefact.read_index(ShardsIndex)
    train, val = (open_rows(artefact.directory, index, split) for split in ("train", "val"))
    most_tokens = record["recipe"]["settings"]["shard"]["baseline_tokens"]
    by_row, num_counted = count_and_score(
        train, val, index.vocab_size, max_train_tokens=most_tokens
    )
    said, found = record["measurements"], by_row.over(np.arange(len(val)))
    for name in ORDERS:
        yield Rechecked(
            check=name, recorded=said[name], measured=getattr(found, name), bar=BASELINE_BAR,
            relative=True, n=num_counted,
        )  # fmt: skip
    yield Rechecked(
        check="validation rows in training", recorded=0, measured=num_leaked_rows(train, val),
        bar=0, n=len(train),
    )  # fmt: skip
