"""What can go wrong between a source and its candidates; data.errors has the rest of the tree.

SourceError
+-- CorruptSourceError            a source file that cannot be read to its end
+-- MissingColumnError            a table without a column that was asked for
+-- EmptyLanguageError            no file of the language
+-- MissingDatasetError           a repository, revision or folder that the hub does not have
+-- HubRefusedError               the hub wants a token, or another one
+-- BucketRefusedError            the bucket wants credentials, or other ones
+-- UnreachableSourceError        the network or the server gave no answer
+-- FetchIncompleteError          too many blobs do not exist or are damaged
"""

from dataclasses import dataclass

from data.errors import SourceError


@dataclass(eq=False)
class CorruptSourceError(SourceError):
    """A source file that is not what its name or its beginning promises."""

    where: str
    found: str
    expected: str
    hint = "get the file again, or exclude it"

    def __str__(self) -> str:
        return f"{self.where}: {self.found}, should be {self.expected}"


@dataclass(eq=False)
class MissingColumnError(SourceError):
    """A table without a column that was asked for."""

    where: str
    column: str
    found: tuple[str, ...]
    hint = "name one of the columns there are"

    def __str__(self) -> str:
        return f"{self.where}: no column {self.column!r}, should be one of {', '.join(self.found)}"


@dataclass(eq=False)
class EmptyLanguageError(SourceError):
    """An index without a file of the language that was asked for."""

    where: str
    language: str
    found: tuple[str, ...]
    hint = "spell source.language as the index does"

    def __str__(self) -> str:
        found = ", ".join(self.found) or "no language at all"
        return f"{self.where}: no file in {self.language!r}, should be one of {found}"


@dataclass(eq=False)
class MissingDatasetError(SourceError):
    """A repository, a revision or a folder that the Hugging Face hub does not show."""

    where: str
    reason: str
    hint = "correct source.path and source.revision; a private dataset also needs HF_TOKEN"

    def __str__(self) -> str:
        return f"{self.where}: not on the hub ({self.reason}), should be a folder of a dataset"


@dataclass(eq=False)
class HubRefusedError(SourceError):
    """A dataset of the Hugging Face hub that needs a token, or another one."""

    where: str
    reason: str
    hint = "run hf auth login or set HF_TOKEN, and accept the terms on the dataset's page"

    def __str__(self) -> str:
        return f"{self.where}: refused ({self.reason}), should be open to your token"


@dataclass(eq=False)
class BucketRefusedError(SourceError):
    """A bucket that needs credentials, or other ones."""

    where: str
    reason: str
    hint = "set AWS credentials that may read it, or source.anonymous = true if it is public"

    def __str__(self) -> str:
        return f"{self.where}: refused ({self.reason}), should be open to your credentials"


@dataclass(eq=False)
class UnreachableSourceError(SourceError):
    """A server that did not answer, after all retries."""

    where: str
    reason: str
    hint = "check the network, HF_ENDPOINT and AWS_ENDPOINT_URL; what was fetched is kept"

    def __str__(self) -> str:
        return f"{self.where}: no answer ({self.reason}), should be reachable"


@dataclass(eq=False)
class FetchIncompleteError(SourceError):
    """A unit of which more is missing than the settings allow."""

    where: str
    num_missing: int
    num_rows: int
    max_share: float
    reasons: str
    hint = "look at the reasons; if they are right, raise source.max_missing_share"

    def __str__(self) -> str:
        return (
            f"{self.where}: {self.num_missing} of {self.num_rows} files are missing "
            f"({self.reasons}), should be a share of at most {self.max_share:g}"
        )
