"""Source files to tokens: filter, hold out, train a tokenizer, encode, and check what was written.

The tokenizer sees training documents only. Every file of the listing is either a document or a
rejection with its reason; every document is its source's bytes, proven on a sample read back from
the written files.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.bounds import at_least, share
from data.documents import (
    DOCUMENTS,
    REJECTED,
    Document,
    read_documents,
    write_documents,
    write_rejections,
)
from data.errors import (
    NoTrainingDocumentsError,
    NoValidationDocumentsError,
    RoundTripError,
    WrongSettingError,
)
from data.filters import (
    Candidate,
    Filter,
    Rejection,
    binary,
    duplicate,
    judge,
    not_utf8,
    too_large,
    too_small,
)
from data.progress import Progress
from data.source import SourceFile, SourceListing
from data.split import split_of
from data.token_files import DtypeName, TokenReader, TokenWriter, dtype_of
from data.token_statistics import TokenCounter, TokenStatistics, refuse_degenerate
from data.tokenizer import MIN_VOCAB_SIZE, Tokenizer, train_tokenizer

VERSION = 1
TOKENIZER = "tokenizer.json"
BATCH_BYTES = 4 * 2**20
"""Text encoded at a time: enough to keep every core busy, little enough to hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PretokenizeSettings:
    """Which files become documents, which are held out, and the vocabulary they are written in."""

    vocab_size: int
    min_merge_frequency: int
    validation_fraction: float
    split_seed: int
    max_file_bytes: int
    min_document_bytes: int
    max_unk_ratio: float
    min_distinct_ids: int
    round_trip_documents: int

    def __post_init__(self) -> None:
        """Refuse numbers that no corpus can satisfy.

        Raises: WrongSettingError.
        """
        at_least("pretokenize.vocab_size", self.vocab_size, MIN_VOCAB_SIZE)
        at_least("pretokenize.min_merge_frequency", self.min_merge_frequency, 1)
        share("pretokenize.validation_fraction", self.validation_fraction)
        at_least("pretokenize.split_seed", self.split_seed, 0)
        at_least("pretokenize.min_document_bytes", self.min_document_bytes, 1)
        at_least("pretokenize.max_file_bytes", self.max_file_bytes, self.min_document_bytes)
        if not 0 <= self.max_unk_ratio < 1:
            raise WrongSettingError("pretokenize.max_unk_ratio", self.max_unk_ratio, "in [0, 1)")
        if not 1 <= self.min_distinct_ids <= self.vocab_size:
            expected = f"from 1 to vocab_size ({self.vocab_size})"
            raise WrongSettingError("pretokenize.min_distinct_ids", self.min_distinct_ids, expected)
        at_least("pretokenize.round_trip_documents", self.round_trip_documents, 1)


@dataclass(frozen=True, slots=True)
class TokensIndex:
    """What a tokens directory holds.

    Units: `num_bytes` are the documents' source bytes, `entropy_bits` is per token.
    """

    vocab_size: int
    end_of_text_id: int
    dtype: DtypeName
    num_documents: int
    num_train_documents: int
    num_val_documents: int
    num_tokens: int
    num_bytes: int
    num_rejected: int
    rejected_by_filter: dict[str, int]
    distinct_ids: int
    entropy_bits: float
    unk_ratio: float
    num_round_trips: int
    source_sha256: str
    token_files: tuple[tuple[str, int], ...]
    """Name and number of tokens of each file, in stream order."""


def pretokenize(
    listing: SourceListing, settings: PretokenizeSettings, *, out: Path, on_progress: Progress
) -> TokensIndex:
    """Write a tokens directory from listed source files.

    Raises: ChangedSourceError, NoTrainingDocumentsError, NoValidationDocumentsError,
        VocabularyTooLargeError, DegenerateTokensError, RoundTripError.
    """
    out.mkdir(parents=True, exist_ok=True)
    files, rejections = _filter(listing, settings, on_progress)
    tokenizer = _train(listing, _training_side(files, rejections, settings), settings, out)
    on_progress("train the tokenizer", 1, 1)
    counter = TokenCounter(tokenizer.vocab_size, "tokens")
    with TokenWriter(out, dtype_of(tokenizer.vocab_size)) as writer:
        encoded = _encode(listing, files, settings, tokenizer, writer, counter)
        documents = []
        for document in encoded:
            documents.append(document)
            on_progress("encode", len(documents), len(files))
    write_documents(out / DOCUMENTS, documents)
    write_rejections(out / REJECTED, rejections)
    found = counter.statistics(tokenizer.unk_id)
    refuse_degenerate(
        found,
        counter.where,
        max_unk_ratio=settings.max_unk_ratio,
        min_distinct_ids=settings.min_distinct_ids,
    )
    assert counter.counts_V[tokenizer.end_of_text_id] == len(documents), "a forged document end"
    index = _index(listing, settings, tokenizer, documents, rejections, found, writer.files)
    check_round_trips(out, index, listing)
    on_progress("check round trips", index.num_round_trips, index.num_round_trips)
    return index


def _filter(
    listing: SourceListing, settings: PretokenizeSettings, on_progress: Progress
) -> tuple[list[SourceFile], list[Rejection]]:
    filters = _filters(settings)
    survivors, rejections = [], []
    for number, file in enumerate(listing.files, start=1):
        if rejection := judge(Candidate(listing, file), filters):
            rejections.append(rejection)
        else:
            survivors.append(file)
        on_progress("filter", number, len(listing.files))
    return survivors, rejections


def _filters(settings: PretokenizeSettings) -> tuple[tuple[str, Filter], ...]:
    """Name the filters in the order in which they are asked; the sizes need no reading."""
    return (
        ("too_large", too_large(settings.max_file_bytes)),
        ("too_small", too_small(settings.min_document_bytes)),
        ("binary", binary),
        ("not_utf8", not_utf8),
        ("duplicate", duplicate()),
    )


def _training_side(
    files: list[SourceFile], rejections: list[Rejection], settings: PretokenizeSettings
) -> list[SourceFile]:
    fraction, seed = settings.validation_fraction, settings.split_seed
    train = [file for file in files if split_of(file.sha256, fraction, seed) == "train"]
    if not train:
        raise NoTrainingDocumentsError(len(files), len(rejections), fraction)
    if len(train) == len(files):
        raise NoValidationDocumentsError(len(files), fraction)
    return train


def _train(
    listing: SourceListing, files: list[SourceFile], settings: PretokenizeSettings, out: Path
) -> Tokenizer:
    texts = (listing.read(file).decode() for file in files)
    definition = train_tokenizer(
        texts,
        vocab_size=settings.vocab_size,
        min_merge_frequency=settings.min_merge_frequency,
    )
    (out / TOKENIZER).write_bytes(definition.encode())
    return Tokenizer.load(out / TOKENIZER)


def _encode(
    listing: SourceListing,
    files: list[SourceFile],
    settings: PretokenizeSettings,
    tokenizer: Tokenizer,
    writer: TokenWriter,
    counter: TokenCounter,
) -> Iterator[Document]:
    fraction, seed = settings.validation_fraction, settings.split_seed
    number = 0
    for batch in _batches(files):
        texts = [listing.read(file).decode() for file in batch]
        encoded = [
            np.append(ids, np.uint32(tokenizer.end_of_text_id))
            for ids in tokenizer.encode_batch(texts)
        ]
        counter.add(np.concatenate(encoded))
        for file, ids in zip(batch, encoded, strict=True):
            writer.write(ids)
            yield Document(
                document=number,
                path=file.path,
                sha256=file.sha256,
                num_bytes=file.num_bytes,
                num_tokens=len(ids),
                split=split_of(file.sha256, fraction, seed),
                licence=listing.licence,
            )
            number += 1


def _batches(files: Sequence[SourceFile]) -> Iterator[list[SourceFile]]:
    batch: list[SourceFile] = []
    waiting_bytes = 0
    for file in files:
        batch.append(file)
        waiting_bytes += file.num_bytes
        if waiting_bytes >= BATCH_BYTES:
            yield batch
            batch, waiting_bytes = [], 0
    if batch:
        yield batch


def _index(
    listing: SourceListing,
    settings: PretokenizeSettings,
    tokenizer: Tokenizer,
    documents: list[Document],
    rejections: list[Rejection],
    found: TokenStatistics,
    token_files: tuple[tuple[str, int], ...],
) -> TokensIndex:
    sides = Counter(document.split for document in documents)
    return TokensIndex(
        vocab_size=tokenizer.vocab_size,
        end_of_text_id=tokenizer.end_of_text_id,
        dtype=dtype_of(tokenizer.vocab_size),
        num_documents=len(documents),
        num_train_documents=sides["train"],
        num_val_documents=sides["val"],
        num_tokens=found.num_tokens,
        num_bytes=sum(document.num_bytes for document in documents),
        num_rejected=len(rejections),
        rejected_by_filter=dict(sorted(Counter(r.filter for r in rejections).items())),
        distinct_ids=found.distinct_ids,
        entropy_bits=found.entropy_bits,
        unk_ratio=found.unk_ratio,
        num_round_trips=min(settings.round_trip_documents, len(documents)),
        source_sha256=listing.sha256,
        token_files=token_files,
    )


def check_round_trips(directory: Path, index: TokensIndex, listing: SourceListing) -> None:
    """Decode documents, spread evenly over the corpus, from what is on disk; compare sources.

    Raises: RoundTripError, ChangedSourceError, CorruptTokensError.
    """
    tokenizer = Tokenizer.load(directory / TOKENIZER)
    reader = TokenReader(directory, index.token_files, index.dtype)
    documents = read_documents(directory / DOCUMENTS)
    starts = np.cumsum([0] + [document.num_tokens for document in documents])
    for number in np.linspace(0, len(documents) - 1, index.num_round_trips, dtype=np.int64):
        document = documents[number]
        found = tokenizer.decode(reader.read(int(starts[number]), document.num_tokens).tolist())
        source = listing.read(SourceFile(document.path, document.num_bytes, document.sha256))
        if found != source:
            raise RoundTripError(listing.root / document.path, _first_difference(found, source))


def _first_difference(left: bytes, right: bytes) -> int:
    pairs = enumerate(zip(left, right, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(left), len(right)))
