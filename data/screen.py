"""From candidates to documents: every filter in its order, and a reason for every rejection.

A candidate is rejected by the first filter that objects, and later filters do not see it. What the
text needs to be encoded is done on the way: decoding, leaving out a byte order mark, normalisation,
redaction; the digest is of the outcome.

Shape letters: D documents.
"""

import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

import data.listing_filters as listing
from data.candidates import CANDIDATES
from data.credentials import secrets
from data.decoding import decode
from data.decontamination import contaminated
from data.encoded_runs import encoded_data
from data.filter_settings import FilterSettings
from data.filters import (
    Objections,
    Texts,
    few_letters,
    generated,
    long_line,
    long_on_average,
    nul_bytes,
    too_many_lines,
    too_small,
    unparsable,
)
from data.personal_data import redacted
from data.text_buffer import TextBuffer

OF_A_DOCUMENT = ("row", "path", "repository", "revision", "blob_id", "content_id", "licences")
OF_A_REJECTION = ("row", "path", "repository", "blob_id")
"""What is kept of a candidate besides its text."""
SCREENED = pa.schema(
    [
        *map(CANDIDATES.field, OF_A_DOCUMENT),
        # Of the text as it will be encoded, as UTF-8.
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("num_bytes", pa.int64(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
    ]
)
REJECTIONS = pa.schema(
    [
        *map(CANDIDATES.field, OF_A_REJECTION),
        # Of the file, 0 where there is no content.
        pa.field("num_bytes", pa.int64(), nullable=False),
        pa.field("filter", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)
Batch: TypeAlias = Any
"""A `pa.RecordBatch`, for which there are no types."""
Named: TypeAlias = tuple[str, Callable[[], Objections]]
_GROUP_BYTES = 2**21
Places: TypeAlias = NDArray[np.int64]


def screen(candidates: Batch, settings: FilterSettings) -> tuple[Batch, Batch]:
    """Return the documents and the rejections of a batch of candidates, both in its order."""
    reasons: dict[int, tuple[str, str]] = {}
    everywhere = np.arange(len(candidates))
    _ask(asked_of_listing(candidates, settings), everywhere, reasons)
    places = _without(everywhere, reasons)
    content, encoding = (_at(candidates.column(name), places) for name in ("content", "encoding"))
    texts, undecodable = decode(content, encoding)
    if settings.normalization == "nfc":
        texts = _normalized(texts)
    _ask((("undecodable", lambda: undecodable),), places, reasons)
    _ask(asked_of_patterns(Texts(texts), settings), places, reasons)
    for first, end in groups(TextBuffer.of(texts)):
        _ask(asked_of_bytes(Texts(texts[first:end]), settings), places[first:end], reasons)
    kept = _without(places, reasons)
    texts, places = _at(texts, np.searchsorted(places, kept)), kept
    if settings.personal_data == "redact":
        texts = redacted(texts)
    if settings.must_parse:
        parsed = Texts(texts)
        _ask((("unparsable", lambda: unparsable(parsed)),), places, reasons)
        kept = _without(places, reasons)
        texts, places = _at(texts, np.searchsorted(places, kept)), kept
    kept_rows = _at(candidates.select(OF_A_DOCUMENT), places)
    return _documents(kept_rows, texts), _rejections(candidates, reasons)


def _ask(filters: Iterable[Named], places_D: Places, reasons: dict[int, tuple[str, str]]) -> None:
    """Note the first objection to each of the documents at some places.

    A place is one in the batch of candidates; the objections of a filter count documents.
    """
    for name, objections in filters:
        for number, detail in objections().items():
            reasons.setdefault(int(places_D[number]), (name, detail))


def _without(places_D: Places, reasons: Mapping[int, tuple[str, str]]) -> Places:
    return np.array([place for place in places_D.tolist() if place not in reasons], np.int64)


def groups(buffer: TextBuffer) -> Iterator[tuple[int, int]]:
    """Cut documents into groups that stay in a cache while all filters go over them."""
    first = 0
    while first < buffer.num_documents:
        reach = buffer.offsets[first] + _GROUP_BYTES
        end = max(int(np.searchsorted(buffer.offsets, reach, side="right")) - 1, first + 1)
        yield first, end
        first = end


def asked_of_listing(candidates: Batch, settings: FilterSettings) -> tuple[Named, ...]:
    """Name the filters that need not look inside."""
    allowed = settings.allowed_licences
    filters: list[Named] = [
        ("no_content", lambda: listing.no_content(candidates)),
        ("too_large", lambda: listing.too_large(candidates, settings.max_file_bytes)),
        ("empty", lambda: listing.empty(candidates)),
        ("licence", lambda: listing.not_allowed(candidates, allowed)),
    ]
    if settings.drop_vendored:
        filters.append(("vendored", lambda: listing.flagged(candidates, "is_vendored")))
    if settings.drop_generated:
        filters.append(("generated", lambda: listing.flagged(candidates, "is_generated")))
    return tuple(filters)


def asked_of_patterns(texts: Texts, settings: FilterSettings) -> Iterator[Named]:
    """Name the filters that search for patterns; each call of theirs costs a compilation."""
    if settings.drop_generated:
        yield "generated", lambda: generated(texts)
    if settings.drop_secrets:
        yield "secret", lambda: secrets(texts)


def asked_of_bytes(texts: Texts, settings: FilterSettings) -> Iterator[Named]:
    """Name the filters that go over the bytes."""
    max_run, max_share = settings.max_encoded_run, settings.max_encoded_share
    benchmarks, num_words = settings.decontaminate, settings.decontamination_ngram
    yield "binary", lambda: nul_bytes(texts)
    yield "too_small", lambda: too_small(texts, settings.min_document_bytes)
    yield "lines", lambda: too_many_lines(texts, settings.max_lines)
    yield "mean_line_length", lambda: long_on_average(texts, settings.max_mean_line_length)
    yield "line_length", lambda: long_line(texts, settings.max_line_length)
    yield "alphabetic_share", lambda: few_letters(texts, settings.min_alphabetic_share)
    yield "encoded_data", lambda: encoded_data(texts, max_run, max_share)
    yield "contaminated", lambda: contaminated(texts, benchmarks, num_words)


def _normalized(texts: Any) -> Any:
    buffer = TextBuffer.of(texts)
    changed = {}
    for number in np.flatnonzero(~buffer.is_ascii()).tolist():
        text = buffer.document(number).decode()
        if not unicodedata.is_normalized("NFC", text):
            changed[number] = unicodedata.normalize("NFC", text).encode()
    return buffer.replaced(changed) if changed else texts


def _at(rows: Any, places_D: Places) -> Any:
    """Return the rows at some places of a batch or an array, itself where those are all."""
    return rows if len(places_D) == len(rows) else rows.take(pa.array(places_D, pa.int64()))


def _documents(kept: Batch, texts: Any) -> Batch:
    buffer = TextBuffer.of(texts)
    ends, data = buffer.offsets.tolist(), memoryview(buffer.data)  # type: ignore[arg-type]
    digests = [hashlib.sha256(data[first:end]).hexdigest() for first, end in pairwise(ends)]
    columns = {name: kept.column(name) for name in OF_A_DOCUMENT}
    columns["sha256"] = pa.array(digests, pa.string())
    columns["num_bytes"] = pa.array(buffer.lengths, pa.int64())
    columns["text"] = texts
    return pa.RecordBatch.from_pydict(columns, schema=SCREENED)


def _rejections(candidates: Batch, reasons: Mapping[int, tuple[str, str]]) -> Batch:
    places = sorted(reasons)
    rejected = candidates.take(pa.array(places, pa.int64()))
    columns = {name: rejected.column(name) for name in OF_A_REJECTION}
    lengths = pc.binary_length(rejected.column("content"))
    columns["num_bytes"] = pc.fill_null(lengths, 0).cast(pa.int64())
    columns["filter"] = pa.array([reasons[place][0] for place in places], pa.string())
    columns["detail"] = pa.array([reasons[place][1] for place in places], pa.string())
    return pa.RecordBatch.from_pydict(columns, schema=REJECTIONS)
