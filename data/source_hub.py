"""Datasets of the Hugging Face hub, at one commit.

The hub keeps the sha256 of large files, so that listing them downloads nothing. Token, endpoint
and offline mode are huggingface_hub's own business (HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE).
"""

import posixpath
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx2
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from data.source_errors import HubRefusedError, MissingDatasetError, UnreachableSourceError
from data.source_places import Listed, remote_file

NOT_FOUND = (
    RepositoryNotFoundError,
    RevisionNotFoundError,
    EntryNotFoundError,
    FileNotFoundError,
)
PREFIX = "hf://datasets/"
PATH = re.compile(r"hf://datasets/(?P<repository>[^/@]+/[^/@]+)(?:/(?P<folder>[^@]+?))?/?")


@dataclass(frozen=True, slots=True)
class HubPlace:
    """A folder of a dataset."""

    repository: str
    folder: str
    revision: str

    @property
    def name(self) -> str:
        """The path as huggingface_hub writes it, with the revision."""
        return f"{PREFIX}{self.repository}@{self.revision[:12]}/{self.folder}"

    @property
    def is_local(self) -> bool:
        """False."""
        return False

    def where(self, path: str) -> str:
        """The name of the file in it."""
        return f"{self.name}/{path}"

    def listed(self, exclude: tuple[str, ...]) -> Iterable[Listed]:
        """Yield the files of the folder; large ones with their digest.

        Raises: HubRefusedError, MissingDatasetError, UnreachableSourceError.
        """
        del exclude
        with hub_errors(self.name):
            tree = HfApi().list_repo_tree(
                self.repository,
                self.folder or None,
                recursive=True,
                revision=self.revision,
                repo_type="dataset",
            )
            files = [entry for entry in tree if isinstance(entry, RepoFile)]
        for file in files:
            path = posixpath.relpath(file.path, self.folder or ".")
            yield Listed(path, file.size, file.lfs.sha256 if file.lfs else "")

    def open(self, path: str) -> IO[bytes]:
        """Open a file for ranged reads."""
        with hub_errors(self.where(path)):
            name = f"datasets/{self.repository}@{self.revision}/{self._in_repository(path)}"
            opened = HfFileSystem().open(name, "rb")
        return remote_file(opened, lambda: hub_errors(self.where(path)))

    def local(self, path: str, directory: Path) -> Path:
        """Download a file into the directory."""
        with hub_errors(self.where(path)):
            return Path(
                hf_hub_download(
                    self.repository,
                    self._in_repository(path),
                    repo_type="dataset",
                    revision=self.revision,
                    local_dir=directory,
                )
            )

    def _in_repository(self, path: str) -> str:
        return posixpath.join(self.folder, path)


def hub_place(path: str, revision: str) -> HubPlace | None:
    """Return the place that a path names, or None if it names no folder of a dataset."""
    found = PATH.fullmatch(path)
    return found and HubPlace(found["repository"], found["folder"] or "", revision)


@contextmanager
def hub_errors(where: str) -> Iterator[None]:
    """Name the dataset and what to do in what huggingface_hub raises.

    Raises: HubRefusedError, MissingDatasetError, UnreachableSourceError.
    """
    try:
        yield
    except LocalEntryNotFoundError as error:
        raise UnreachableSourceError(where, _reason(error)) from error
    except (GatedRepoError, LocalTokenNotFoundError) as error:
        raise HubRefusedError(where, _reason(error)) from error
    except NOT_FOUND as error:
        raise MissingDatasetError(where, _reason(error)) from error
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            raise HubRefusedError(where, _reason(error)) from error
        raise UnreachableSourceError(where, _reason(error)) from error
    except (httpx2.HTTPError, ConnectionError) as error:
        raise UnreachableSourceError(where, _reason(error)) from error


def _reason(error: Exception) -> str:
    """Return the two lines that say something, of which an HTTP error has but one."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines[:2] if not line.startswith("For more information")]
    return " ".join(said)[:300] or type(error).__name__
