"""Buckets of S3 and of what speaks like it, through obstore.

obstore retries what may be retried (connections, throttling, 5xx) with exponential backoff and
jitter, and reads AWS_ENDPOINT_URL and AWS_REGION; credentials are found as the AWS tools find them.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta  # noqa: TID251  (a duration, no clock)
from pathlib import Path
from typing import IO, TYPE_CHECKING

import obstore
from botocore.exceptions import BotoCoreError
from botocore.session import get_session
from obstore.exceptions import (
    GenericError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from data.errors import MissingSourceError
from data.source_errors import BucketRefusedError, UnreachableSourceError
from data.source_places import CHUNK_BYTES, Listed, remote_file

if TYPE_CHECKING:
    from obstore.store import S3Config

STATUS = re.compile(r"status code: (\d{3})")
CONNECT_TIMEOUT = "10s"
REQUEST_TIMEOUT = "60s"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an unwilling server is asked again; it does not change what is read."""

    max_retries: int
    seconds: float


@dataclass(frozen=True, slots=True)
class BucketPlace:
    """All objects under a prefix, `s3://bucket/prefix`, or the one object that it names."""

    url: str
    anonymous: bool
    patience: Patience

    @property
    def name(self) -> str:
        """The URL."""
        return self.url

    @property
    def is_local(self) -> bool:
        """False."""
        return False

    def where(self, path: str) -> str:
        """The name of the file in it."""
        return f"{self.name}/{path}"

    def listed(self, exclude: tuple[str, ...]) -> Iterable[Listed]:
        """Yield the objects; their digests are unknown.

        Raises: BucketRefusedError, MissingSourceError, UnreachableSourceError.
        """
        del exclude
        with bucket_errors(self.url):
            store = open_bucket(self.url, self.anonymous, self.patience)
            found = [meta for page in obstore.list(store) for meta in page]
        for meta in found:
            # An object that is the whole prefix has no path below it.
            path = meta["path"] or self.url.rpartition("/")[2]
            yield Listed(path, meta["size"], "")

    def open(self, path: str) -> IO[bytes]:
        """Open an object for ranged reads."""
        with bucket_errors(self.where(path)):
            store = open_bucket(self.url, self.anonymous, self.patience)
            opened = obstore.open_reader(store, path, buffer_size=CHUNK_BYTES)
        return remote_file(opened, lambda: bucket_errors(self.where(path)))

    def local(self, path: str, directory: Path) -> Path:
        """Copy an object into the directory."""
        target = directory / Path(path).name
        with bucket_errors(self.where(path)), target.open("wb") as file:
            store = open_bucket(self.url, self.anonymous, self.patience)
            for chunk in obstore.get(store, path).stream(min_chunk_size=CHUNK_BYTES):
                file.write(chunk)
        return target


def open_bucket(url: str, anonymous: bool, patience: Patience) -> S3Store:  # noqa: FBT001
    """Return a store of the objects under a URL; nothing is asked of the server yet.

    Raises: BucketRefusedError if there are no credentials.
    """
    return S3Store.from_url(
        url,
        config=None if anonymous else _credentials(url),
        skip_signature=anonymous,
        client_options={
            "allow_http": True,  # only where AWS_ENDPOINT_URL says so
            "connect_timeout": CONNECT_TIMEOUT,
            "timeout": REQUEST_TIMEOUT,
        },
        retry_config={
            "max_retries": patience.max_retries,
            "retry_timeout": timedelta(seconds=patience.seconds),
        },
    )


@contextmanager
def bucket_errors(where: str) -> Iterator[None]:
    """Name the bucket and what to do in what obstore raises.

    Raises: BucketRefusedError, MissingSourceError, UnreachableSourceError.
    """
    try:
        yield
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise BucketRefusedError(where, _reason(error)) from error
    except (NotFoundError, FileNotFoundError) as error:
        raise MissingSourceError(where) from error
    except GenericError as error:
        # Of a listing obstore says everything in one class.
        status = STATUS.search(str(error))
        if status and status[1] == "404":
            raise MissingSourceError(where) from error
        if status and status[1] in ("401", "403"):
            raise BucketRefusedError(where, _reason(error)) from error
        raise UnreachableSourceError(where, _reason(error)) from error


def _credentials(url: str) -> "S3Config":
    """Return credentials from the environment, the profile, or the machine's role."""
    try:
        found = get_session().get_credentials()
    except BotoCoreError as error:
        raise BucketRefusedError(url, str(error)) from error
    if found is None:
        raise BucketRefusedError(url, "no AWS credentials found")
    frozen = found.get_frozen_credentials()
    config: S3Config = {
        "access_key_id": frozen.access_key,
        "secret_access_key": frozen.secret_key,
    }
    return config | {"session_token": frozen.token} if frozen.token else config


def _reason(error: Exception) -> str:
    """Return what the server said, without its XML and what obstore shows of its own inside."""
    text = str(error).partition("\n\nDebug source:")[0]
    code = re.search(r"<Code>(\w+)</Code>", text)
    said = " ".join(text.partition("<?xml")[0].partition("<Error>")[0].split())
    return f"{said[-250:].rstrip(' :')}{f', {code[1]}' if code else ''}"
