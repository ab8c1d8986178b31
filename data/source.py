"""Which candidates a corpus is made of: the settings, and the source that they name.

Opening a source pins it: revision, and every file with its sha256, in a fixed order.
"""

import re
import sysconfig
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from data import stack_v3
from data.candidates import Source
from data.errors import MissingSourceError, WrongSettingError
from data.fetch import Fetching, FetchJob
from data.source_bucket import BucketPlace
from data.source_directory import DirectorySource
from data.source_hub import PREFIX, hub_place
from data.source_packages import PackagesPlace, packages_place
from data.source_places import LocalPlace, Place, local_place, pin
from data.source_tables import TableSource
from data.stack_v2 import open_stack_v2

Kind = Literal[
    "python-stdlib",
    "python-packages",
    "directory",
    "jsonl",
    "parquet",
    "the-stack-v2",
    "the-stack-v3",
]
FILES = frozenset({"licence", "unit_bytes"})
TABLES = frozenset({"licence", "text_column", "licence_column", "path_column", "repository_column"})
STACK_V2 = frozenset({"language", "unit_bytes", "contents", "max_blob_bytes", "max_missing_share"})
MEANT = {
    "python-stdlib": FILES,
    "python-packages": FILES,
    "directory": FILES | {"path"},
    "jsonl": TABLES | {"path", "revision", "anonymous"},
    "parquet": TABLES | {"path", "revision", "anonymous"},
    "the-stack-v2": STACK_V2 | {"path", "revision", "anonymous"},
    "the-stack-v3": frozenset({"language", "path", "revision", "anonymous"}),
}
"""The settings that mean something for a kind, besides `include` and `exclude`."""
EMPTY = {
    "path": "''",
    "revision": "''",
    "anonymous": "false",
    "licence": "''",
    "language": "''",
    "text_column": "''",
    "licence_column": "''",
    "path_column": "''",
    "repository_column": "''",
    "unit_bytes": "0",
    "contents": "''",
    "max_blob_bytes": "0",
    "max_missing_share": "0",
}
"""What the others should be, in TOML."""
NEEDED = ("path", "language", "text_column", "unit_bytes", "contents", "max_blob_bytes")
"""Those that may not be empty where they mean something."""
EXPECTED = {
    "path": "the place to read",
    "language": "a language as the index spells it",
    "text_column": "the column of the source text",
    "unit_bytes": "at least 1",
    "contents": "the bucket of the blobs, s3://bucket/prefix",
    "max_blob_bytes": "at least 1",
}
COMMIT = re.compile(r"[0-9a-f]{40}")
BUCKET = re.compile(r"s3://[^/]+(/.*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """Where candidates are, which of them count, and what is known about them.

    Units: `unit_bytes` are bytes of source text.
    """

    kind: Kind
    path: str
    """A local path, `s3://bucket/prefix` or `hf://datasets/<repository>/<folder>`; a directory must
    be local, and what Python itself has needs none."""
    revision: str
    """The commit of a dataset on the hub; elsewhere empty."""
    anonymous: bool
    """Whether S3 is asked without credentials."""
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    licence: str
    """The licence of files and rows that have none of their own; empty if it is not known."""
    language: str
    text_column: str
    licence_column: str
    path_column: str
    repository_column: str
    """The columns of a table that hold it; empty where it has none."""
    unit_bytes: int
    contents: str
    max_blob_bytes: int
    max_missing_share: float

    def __post_init__(self) -> None:
        """Refuse settings that name no source, and those that this kind of source does not have.

        Raises: WrongSettingError.
        """
        if self.kind not in MEANT:
            raise WrongSettingError("source.kind", self.kind, f"one of {', '.join(MEANT)}")
        self._check_meaning()
        if not self.include or "" in self.include:
            raise WrongSettingError("source.include", self.include, "at least one path pattern")
        if "" in self.exclude:
            raise WrongSettingError("source.exclude", self.exclude, "path patterns, none empty")
        if self.contents and not BUCKET.fullmatch(self.contents):
            raise WrongSettingError("source.contents", self.contents, EXPECTED["contents"])
        if not 0 <= self.max_missing_share <= 1:
            found = self.max_missing_share
            raise WrongSettingError("source.max_missing_share", found, "from 0 to 1")
        self._check_place()

    def _check_meaning(self) -> None:
        meant = MEANT[self.kind]
        for name, empty in EMPTY.items():
            value = getattr(self, name)
            if name not in meant and value:
                raise WrongSettingError(f"source.{name}", value, f"{empty} for {self.kind}")
        for name in NEEDED:
            value = getattr(self, name)
            if name in meant and (not value or (isinstance(value, int) and value < 1)):
                raise WrongSettingError(f"source.{name}", value, EXPECTED[name])

    def _check_place(self) -> None:
        is_hub, is_bucket = self.path.startswith("hf://"), self.path.startswith("s3://")
        if self.kind == "directory" and "://" in self.path:
            raise WrongSettingError("source.path", self.path, "a local directory")
        if is_hub and hub_place(self.path, "") is None:
            expected = f"{PREFIX}<owner>/<name>/<folder>, the commit in source.revision"
            raise WrongSettingError("source.path", self.path, expected)
        if is_bucket and not BUCKET.fullmatch(self.path):
            raise WrongSettingError("source.path", self.path, "s3://bucket/prefix")
        if "://" in self.path and not is_hub and not is_bucket:
            raise WrongSettingError("source.path", self.path, "a local path, s3:// or hf://")
        if is_hub and not COMMIT.fullmatch(self.revision):
            expected = "the full commit to read, 40 hexadecimal digits"
            raise WrongSettingError("source.revision", self.revision, expected)
        if self.revision and not is_hub:
            raise WrongSettingError(
                "source.revision", self.revision, "'' for what is not on the hub"
            )
        if self.anonymous and not is_bucket and not self.contents:
            raise WrongSettingError("source.anonymous", self.anonymous, "false without S3")


def reading(settings: SourceSettings) -> dict[str, Any]:
    """Name the settings that decide what a pinned file yields, without those that find it."""
    finding = ("path", "revision", "anonymous", "include", "exclude")
    return {name: value for name, value in asdict(settings).items() if name not in finding}


def open_source(settings: SourceSettings, *, fetching: Fetching) -> Source:
    """Pin a source; `fetching` is how what is elsewhere is got, and changes nothing of it.

    Raises: MissingSourceError, EmptySourceError, UnnameableFileError, and for tables and what is
        elsewhere the errors of data.source_errors.
    """
    if settings.kind in ("python-stdlib", "python-packages", "directory"):
        return _open_files(settings)
    place = _place(settings, fetching)
    files = pin(place, settings.include, settings.exclude)
    if settings.kind == "the-stack-v2":
        job = FetchJob(
            settings.language,
            settings.contents,
            settings.anonymous,
            settings.max_blob_bytes,
            settings.max_missing_share,
        )
        return open_stack_v2(place, files, settings.revision, job, settings.unit_bytes, fetching)
    is_stack = settings.kind == "the-stack-v3"
    return TableSource(
        place,
        files,
        settings.revision,
        "jsonl" if settings.kind == "jsonl" else "parquet",
        stack_v3.FIELDS if is_stack else _columns(settings),
        stack_v3.NEEDED if is_stack else tuple(_columns(settings)),
        settings.language,
        settings.licence,
    )


def _open_files(settings: SourceSettings) -> DirectorySource:
    place = _files_place(settings)
    files = pin(place, settings.include, settings.exclude)
    return DirectorySource(place, files, settings.licence, settings.unit_bytes)


def _files_place(settings: SourceSettings) -> LocalPlace | PackagesPlace:
    if settings.kind == "python-packages":
        return packages_place()
    stdlib = settings.kind == "python-stdlib"
    root = Path(sysconfig.get_path("stdlib") if stdlib else settings.path)
    if not root.is_dir():
        raise MissingSourceError(root)
    return local_place(root)


def _place(settings: SourceSettings, fetching: Fetching) -> Place:
    if settings.path.startswith("s3://"):
        return BucketPlace(settings.path.rstrip("/"), settings.anonymous, fetching.patience)
    return hub_place(settings.path, settings.revision) or local_place(Path(settings.path))


def _columns(settings: SourceSettings) -> dict[str, tuple[str, ...]]:
    columns = {
        "path": settings.path_column,
        "repository": settings.repository_column,
        "licences": settings.licence_column,
        "content": settings.text_column,
    }
    return {field: (column,) for field, column in columns.items() if column}
