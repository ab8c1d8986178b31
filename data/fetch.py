"""Blobs of the Software Heritage bucket to one parquet file: download, inflate, check, write.

`contents.parquet` holds candidates in the order of the index; what could not be had has no content
and says why, and stands in `missing.parquet` too. The bytes are the same for any number of
connections and after any interruption.

Source: every object is gzip, named by the sha1 of its content; `content_id` is the sha1 of the git
blob.
"""

import hashlib
import json
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.exceptions import NotFoundError
from obstore.store import S3Store

from data.bounds import at_least
from data.candidates import BATCH_BYTES, CANDIDATES
from data.errors import MissingSourceError, WrongSettingError
from data.fetch_cache import FetchCache
from data.source_bucket import Patience, bucket_errors, open_bucket
from data.source_errors import FetchIncompleteError

VERSION = 1
CONTENTS = "contents.parquet"
MISSING = "missing.parquet"
ACCOUNT = "account.json"
MISSING_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("blob_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
GZIP_OVERHEAD_BYTES = 2**16
"""What gzip may add to bytes that it cannot compress, generously."""
AHEAD = 4
"""Blobs asked for beyond the next to be written, per connection."""
AHEAD_BYTES = 256 * 2**20
"""Listed length of the blobs that are held beyond the next to be written."""
Row = Mapping[str, Any]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetching:
    """How to fetch: no part of any recipe, since it does not change what is fetched."""

    cache: str
    """Directory for blobs of unfinished units."""
    max_in_flight: int
    max_retries: int
    patience_seconds: float
    """After which a request is given up, however many retries are left."""

    def __post_init__(self) -> None:
        """Refuse numbers with which nothing is ever fetched.

        Raises: WrongSettingError.
        """
        if not self.cache:
            raise WrongSettingError("runtime.fetch_cache", self.cache, "a directory")
        at_least("runtime.fetch_in_flight", self.max_in_flight, 1)
        at_least("runtime.fetch_retries", self.max_retries, 0)
        if not self.patience_seconds > 0:
            found = self.patience_seconds
            raise WrongSettingError("runtime.fetch_patience_seconds", found, "above 0")

    @property
    def patience(self) -> Patience:
        """Retries and their time."""
        return Patience(self.max_retries, self.patience_seconds)


@dataclass(frozen=True, slots=True)
class FetchJob:
    """What to fetch of an index."""

    language: str
    contents: str
    anonymous: bool
    max_blob_bytes: int
    max_missing_share: float

    @property
    def recipe(self) -> Mapping[str, Any]:
        """All that determines what is written, but for the rows of the index."""
        return {
            "kind": "fetch",
            "version": VERSION,
            "language": self.language,
            "contents": self.contents,
            "max_blob_bytes": self.max_blob_bytes,
        }


@dataclass(slots=True)
class Account:
    """What became of the files of a unit."""

    num_rows: int = 0
    num_bytes: int = 0
    missing: Counter[str] = field(default_factory=Counter)


def fetch_unit(job: FetchJob, fetching: Fetching, listed: pa.Table, label: str, out: Path) -> None:
    """Fetch every blob of `read_index`; what was downloaded is kept until all is written.

    Raises: BucketRefusedError, MissingSourceError, UnreachableSourceError, FetchIncompleteError.
    """
    with bucket_errors(job.contents):
        store = open_bucket(job.contents, job.anonymous, fetching.patience)
    key = hashlib.sha256("\n".join(listed["blob_id"].to_pylist()).encode()).hexdigest()
    with FetchCache(Path(fetching.cache) / key) as cache:
        blobs = Blobs(store, job, cache)
        rows = listed.select(["blob_id", "content_id", "length_bytes"]).to_pylist()
        with ThreadPoolExecutor(fetching.max_in_flight) as threads:
            results = in_order(threads, blobs.fetch, rows, AHEAD * fetching.max_in_flight)
            account = _write(listed, results, out)
        refuse_incomplete(account, job.max_missing_share, label)
        cache.drop()


def refuse_incomplete(account: Account, max_missing_share: float, label: str) -> None:
    """Refuse a unit of which too much is missing.

    Raises: FetchIncompleteError.
    """
    num_missing = account.missing.total()
    if num_missing > max_missing_share * account.num_rows:
        reasons = ", ".join(f"{num} {reason}" for reason, num in sorted(account.missing.items()))
        raise FetchIncompleteError(label, num_missing, account.num_rows, max_missing_share, reasons)


def read_account(directory: Path) -> Account:
    """Read what became of the files of a fetched unit."""
    found = json.loads((directory / ACCOUNT).read_text())
    return Account(found["num_rows"], found["num_bytes"], Counter(found["missing"]))


@dataclass(frozen=True, slots=True)
class Blobs:
    """Fetches single blobs, from the cache or from the bucket."""

    store: S3Store
    job: FetchJob
    cache: FetchCache

    def fetch(self, row: Row) -> tuple[bytes | None, str]:
        """Return the content of a blob, or None and the reason.

        Raises: BucketRefusedError, MissingSourceError, UnreachableSourceError.
        """
        kept = self.cache.get(row["blob_id"])
        if kept is not None:
            content, reason = checked(kept, row, self.job.max_blob_bytes)
            if content is not None:
                return content, ""
        blob, reason = self._download(row["blob_id"])
        if blob is None:
            return None, reason
        if blob != kept:
            self.cache.put(row["blob_id"], blob)
        return checked(blob, row, self.job.max_blob_bytes)

    def _download(self, blob_id: str) -> tuple[bytes | None, str]:
        if not is_sha1(blob_id):
            return None, "no blob id"
        with bucket_errors(self.job.contents):
            try:
                found = obstore.get(self.store, blob_id)
                if found.meta["size"] > self.job.max_blob_bytes + GZIP_OVERHEAD_BYTES:
                    return None, "too large"
                return bytes(found.bytes()), ""
            except (NotFoundError, FileNotFoundError) as error:
                if "NoSuchBucket" in str(error):
                    raise MissingSourceError(self.job.contents) from error
                return None, "missing key"


def checked(blob: bytes, row: Row, max_bytes: int) -> tuple[bytes | None, str]:
    """Return the content of a downloaded blob, or None and what is wrong with it."""
    content, reason = inflated(blob, max_bytes)
    if content is None:
        return None, reason
    if hashlib.sha1(content, usedforsecurity=False).hexdigest() != row["blob_id"]:
        return None, "sha1 mismatch"
    if row["content_id"] and git_sha1(content) != row["content_id"]:
        return None, "sha1_git mismatch"
    return content, ""


def inflated(blob: bytes, max_bytes: int) -> tuple[bytes | None, str]:
    """Undo gzip, never beyond a number of bytes."""
    content = b""
    while True:
        stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
        try:
            content += stream.decompress(blob, max_bytes + 1 - len(content))
        except zlib.error:
            return None, "bad gzip"
        if len(content) > max_bytes:
            return None, "too large"
        if not stream.eof:
            return None, "bad gzip"
        if not stream.unused_data:
            return content, ""
        blob = stream.unused_data


def git_sha1(content: bytes) -> str:
    """Return the digest that git names a blob by."""
    digest = hashlib.sha1(b"blob %d\0" % len(content), usedforsecurity=False)
    digest.update(content)
    return digest.hexdigest()


def is_sha1(name: str) -> bool:
    """Tell whether a name is 40 hexadecimal digits."""
    return len(name) == 40 and set(name) <= set("0123456789abcdef")


def in_order(
    threads: ThreadPoolExecutor,
    work: Callable[[Row], Result],
    rows: Iterable[Row],
    num_ahead: int,
) -> Iterator[Result]:
    """Yield results in the order of the rows, with a bounded number, and bytes, of them ahead."""
    ahead: deque[tuple[int, Future[Result]]] = deque()
    num_bytes = 0
    try:
        for row in rows:
            while ahead and (len(ahead) >= num_ahead or num_bytes >= AHEAD_BYTES):
                size, result = ahead.popleft()
                num_bytes -= size
                yield result.result()
            size = row["length_bytes"] or 0
            num_bytes += size
            ahead.append((size, threads.submit(work, row)))
        while ahead:
            yield ahead.popleft()[1].result()
    finally:
        for _, result in ahead:
            result.cancel()


def _write(listed: pa.Table, results: Iterator[tuple[bytes | None, str]], out: Path) -> Account:
    account = Account(num_rows=len(listed))
    missing: list[dict[str, Any]] = []
    with pq.ParquetWriter(out / CONTENTS, CANDIDATES, compression="zstd") as writer:
        for start, part in _parts(results):
            rows = listed.slice(start, len(part)).select(CANDIDATES.names[1:-2])
            contents, reasons = zip(*part, strict=True)
            table = _fetched(start, rows, contents, reasons)
            writer.write_table(table, row_group_size=len(table))
            absent = table.filter(table["content"].is_null())
            names = ["row", "blob_id", "path", "absence"]
            missing += absent.select(names).rename_columns(MISSING_SCHEMA.names).to_pylist()
            account.num_bytes += sum(len(content) for content in contents if content is not None)
            account.missing.update(reason for reason in reasons if reason)
    pq.write_table(pa.Table.from_pylist(missing, MISSING_SCHEMA), out / MISSING)
    counts = dict(sorted(account.missing.items()))
    found = {"num_rows": account.num_rows, "num_bytes": account.num_bytes, "missing": counts}
    (out / ACCOUNT).write_text(json.dumps(found, indent=1) + "\n")
    return account


def _parts(
    results: Iterator[tuple[bytes | None, str]],
) -> Iterator[tuple[int, list[tuple[bytes | None, str]]]]:
    """Yield results in parts of bounded content, each with the row that it starts at."""
    start, num_bytes, part = 0, 0, list[tuple[bytes | None, str]]()
    for content, reason in results:
        part.append((content, reason))
        num_bytes += len(content or b"")
        if num_bytes >= BATCH_BYTES:
            yield start, part
            start, num_bytes, part = start + len(part), 0, []
    if part:
        yield start, part


def _fetched(
    start: int, rows: pa.Table, contents: tuple[bytes | None, ...], reasons: tuple[str, ...]
) -> pa.Table:
    numbers = pa.array(range(start, start + len(rows)), pa.int64())
    arrays = [numbers, *rows.columns, pa.array(contents, pa.large_binary()), pa.array(reasons)]
    return pa.table(arrays, schema=CANDIDATES)
