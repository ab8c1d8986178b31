"""The far side of a store: the same directories under a URL, complete or absent.

A directory's files are uploaded first and its index last, so it exists if and only if its index
does. Nothing here is remembered from call to call: others write to the same place.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.core import url_to_fs

from tasks.directories import list_files, require_inside
from tasks.errors import StoreRefusedError, StoreUnreachableError, UnsupportedStoreError
from tasks.logins import has_login, without_login

_UNREACHABLE = ("Connect", "Timeout", "HTTPClientError", "IncompleteRead", "SSLError")
_REFUSED = ("NoCredentials", "PartialCredentials", "CredentialRetrieval", "ClientError")
_TRANSIENT = {"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "503", "500"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as it is listed."""

    num_bytes: int
    written: float
    "Seconds since 1970; endless where the place does not say."


@dataclass(frozen=True, slots=True)
class Remote:
    """A place behind a URL that fsspec understands, `s3://bucket/prefix` for one."""

    url: str

    def __post_init__(self) -> None:
        """Refuse a URL that nothing here can open, or that would put a login into messages.

        Raises: UnsupportedStoreError.
        """
        if has_login(self.url):
            reason = "it holds a login, which belongs into the environment"
            raise UnsupportedStoreError(without_login(self.url), reason)
        with self._asking():
            self._system()

    def has(self, name: str) -> bool:
        """Return whether a file exists.

        Raises: StoreRefusedError, StoreUnreachableError.
        """
        with self._asking():
            system, root = self._system()
            return bool(system.isfile(f"{root}/{name}"))

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes; None if it does not exist.

        Raises: StoreRefusedError, StoreUnreachableError.
        """
        with self._asking():
            system, root = self._system()
            try:
                content: bytes = system.cat_file(f"{root}/{name}")
            except FileNotFoundError:
                return None
            return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file in one piece.

        Raises: StoreRefusedError, StoreUnreachableError.
        """
        with self._asking():
            system, root = self._system()
            _make_parents(system, [f"{root}/{name}"])
            system.pipe_file(f"{root}/{name}", content)

    def remove(self, name: str) -> None:
        """Remove a file.

        Raises: StoreRefusedError, StoreUnreachableError.
        """
        with self._asking():
            system, root = self._system()
            system.rm_file(f"{root}/{name}")

    def names(self, name: str) -> list[str]:
        """List what a directory holds; nothing if it does not exist.

        Raises: StoreRefusedError, StoreUnreachableError.
        """
        with self._asking():
            system, root = self._system()
            try:
                found = system.ls(f"{root}/{name}", detail=False)
            except FileNotFoundError:
                return []
            return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    def listing(self, name: str) -> dict[str, Entry]:
        """List every file below a directory, by its path within it; nothing if it does not exist.

        Raises: StoreRefusedError, StoreUnreachableError.
        """
        with self._asking():
            system, root = self._system()
            place = f"{root}/{name}".rstrip("/")
            try:
                found = system.find(place, detail=True)
            except FileNotFoundError:
                return {}
            return {
                path.removeprefix(f"{place}/"): Entry(int(info["size"] or 0), _written(info))
                for path, info in found.items()
            }

    def written(self, name: str) -> float:
        """Return when a file was written, in seconds since 1970; 0 if it does not exist.

        Raises: StoreRefusedError, StoreUnreachableError.
        """
        with self._asking():
            system, root = self._system()
            try:
                return _written(system.info(f"{root}/{name}"))
            except FileNotFoundError:
                return 0.0

    def remove_all(self, names: Sequence[str]) -> None:
        """Remove files that exist.

        Raises: StoreRefusedError, StoreUnreachableError.
        """
        with self._asking():
            system, root = self._system()
            if names:
                system.rm([f"{root}/{name}" for name in names])

    def read_all(self, names: Sequence[str]) -> dict[str, bytes]:
        """Read many files at once; those that do not exist are left out.

        Raises: StoreRefusedError, StoreUnreachableError.
        """
        if not names:
            return {}
        with self._asking():
            system, root = self._system()
            found = system.cat([f"{root}/{name}" for name in names], on_error="return")
            for each in found.values():
                if isinstance(each, Exception) and not isinstance(each, FileNotFoundError):
                    raise each
            by_path = {path: each for path, each in found.items() if isinstance(each, bytes)}
            return {name: by_path[path] for name in names if (path := f"{root}/{name}") in by_path}

    def upload(self, directory: Path, name: str, *, index: str) -> None:
        """Upload a complete directory, its index last.

        Raises: StoreRefusedError, StoreUnreachableError.
        """
        files = [each for each in list_files(directory) if each != index]
        with self._asking():
            system, root = self._system()
            target = f"{root}/{name}"
            _make_parents(system, [f"{target}/{each}" for each in [*files, index]])
            system.put(
                [str(directory / each) for each in files], [f"{target}/{each}" for each in files]
            )
            system.put_file(str(directory / index), f"{target}/{index}")

    def put(self, paths: Mapping[str, Path]) -> None:
        """Write files under names, one after the other in their order.

        Raises: StoreRefusedError, StoreUnreachableError.
        """
        with self._asking():
            system, root = self._system()
            _make_parents(system, [f"{root}/{name}" for name in paths])
            for name, path in paths.items():
                system.put_file(str(path), f"{root}/{name}")

    def remove_tree(self, name: str) -> None:
        """Remove a directory with all that it holds, if it exists.

        Raises: StoreRefusedError, StoreUnreachableError.
        """
        with self._asking():
            system, root = self._system()
            with suppress(FileNotFoundError):
                system.rm(f"{root}/{name}", recursive=True)

    def download(self, name: str, files: Sequence[str], directory: Path) -> None:
        """Download files of a directory into a local one, and into no other.

        Raises: ArtefactDamagedError for a name that leads out of it, StoreRefusedError,
            StoreUnreachableError, FileNotFoundError.
        """
        require_inside(directory, files)
        for parent in {(directory / each).parent for each in files}:
            parent.mkdir(parents=True, exist_ok=True)
        with self._asking():
            system, root = self._system()
            system.get(
                [f"{root}/{name}/{each}" for each in files],
                [str(directory / each) for each in files],
            )

    def check_writable(self, probe: str) -> None:
        """Refuse a place that cannot be written.

        Raises: StoreRefusedError, StoreUnreachableError.
        """
        self.write(probe, b"")
        self.remove(probe)

    def _system(self) -> tuple[fsspec.AbstractFileSystem, str]:
        # The instance is fsspec's own, one a process; listings would be remembered in it.
        system, root = url_to_fs(self.url, use_listings_cache=False)
        return system, root.rstrip("/")

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn what the libraries raise into a sentence."""
        try:
            yield
        except (ImportError, ValueError) as error:
            raise UnsupportedStoreError(self.url, str(error)) from None
        except Exception as error:
            if (known := self._known(error)) is None:
                raise
            raise known from error

    def _known(self, error: Exception) -> StoreRefusedError | StoreUnreachableError | None:
        said = " ".join(str(error).split())
        names = [kind.__name__ for kind in type(error).__mro__]
        code = _response_code(error) or _response_code(error.__cause__)
        if code in _TRANSIENT or any(part in name for name in names for part in _UNREACHABLE):
            return StoreUnreachableError(self.url, said)
        is_refused = any(part in name for name in names for part in _REFUSED)
        if isinstance(error, PermissionError) or is_refused or code is not None:
            return StoreRefusedError(self.url, said)
        return None


def _written(info: Mapping[str, Any]) -> float:
    """Return when a file was written, as its kind of place says it."""
    said = info.get("LastModified") or info.get("mtime") or info.get("created")
    if isinstance(said, datetime):
        return said.timestamp()
    return float(said) if isinstance(said, int | float) else float("inf")


def _make_parents(system: fsspec.AbstractFileSystem, paths: list[str]) -> None:
    """Make directories where there are any; object stores have none, and would make a bucket."""
    if not isinstance(system, AsyncFileSystem):
        for parent in {path.rpartition("/")[0] for path in paths}:
            system.makedirs(parent, exist_ok=True)


def _response_code(error: BaseException | None) -> str | None:
    """Return the code in an answer of S3, if that is what an error carries."""
    response: Any = getattr(error, "response", None)
    return str(response["Error"].get("Code")) if isinstance(response, dict) else None
